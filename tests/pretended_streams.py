"""Streams of the pretended GPU: what one may read only after another has written it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar
from weakref import WeakSet

import torch

Moment = tuple["Stream", int]  # a piece of work of a stream, by its number
Place = tuple[int, int, int]  # a memory, and from where to where in it


class Stream:
    """torch.cuda.Stream. `seen` is how much of each stream's work comes before its own next one."""

    device = torch.device("cuda", 0)

    every: ClassVar[WeakSet[Stream]] = WeakSet()
    recorded: ClassVar[set[Stream]] = set()  # those that take part in a recording

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.seen: Counter[Stream] = Counter()
        self.every.add(self)

    def wait_stream(self, other: Stream) -> None:
        if other in self.recorded:
            self.recorded.add(self)
        elif self in self.recorded:
            raise RuntimeError("dependency created on uncaptured work in another stream")
        self.seen |= other.seen  # the larger number of each


class Streams:
    """The `current` stream, and who has written and read which memory.

    Raises RuntimeError at work that does not wait for what it reads, or for whoever still reads
    what it writes, and where a recording leaves a stream out, or does not wait for it. Work of a
    backward pass stands on the stream that began it, where a GPU gives it the one of its forward
    pass. Memory that is used anew before its work is over is not seen.
    """

    def __init__(self) -> None:
        self.current = self.main = Stream()
        self._host: Counter[Stream] = Counter()  # what the host has waited for
        # of each memory what was done in which part of it, last
        self._writers: dict[int, dict[Place, Moment]] = {}
        self._readers: dict[int, dict[tuple[Place, Stream], int]] = {}

    @contextlib.contextmanager
    def entered(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def set_current(self, stream: Stream) -> None:
        self.current = stream

    def host_waits(self, for_all: bool = False) -> None:
        for stream in Stream.every if for_all else [self.current]:
            self._host |= stream.seen

    def work(self, what: Any, read: Iterable[Place], written: Iterable[Place]) -> None:
        """A piece of work on the current stream."""
        stream = self.current
        if Stream.recorded and stream not in Stream.recorded:
            raise RuntimeError(f"{what} is done while others record, and not recorded")
        stream.seen |= self._host
        stream.seen[stream] += 1
        now = stream.seen[stream]
        for place in read:
            self._after_writers(what, place)
            self._readers.setdefault(place[0], {})[place, stream] = now
        for place in written:
            self._after_writers(what, place)
            readers = self._readers.get(place[0], {})
            for (other, reader), then in list(readers.items()):
                if _meet(place, other):
                    self._after(what, (reader, then))
                    if _covers(place, other):
                        del readers[other, reader]
            writers = self._writers.setdefault(place[0], {})
            for other in [other for other in writers if _covers(place, other)]:
                del writers[other]
            writers[place] = stream, now

    def _after_writers(self, what: Any, place: Place) -> None:
        for other, moment in self._writers.get(place[0], {}).items():
            if _meet(place, other):
                self._after(what, moment)

    def _after(self, what: Any, other: Moment) -> None:
        if self.current.seen[other[0]] < other[1]:
            raise RuntimeError(f"{what} does not wait for another stream that uses its memory")

    @contextlib.contextmanager
    def recording(self, stream: Stream) -> Iterator[None]:
        """A block whose work, begun on `stream`, becomes a graph."""
        self.host_waits(for_all=True)  # as torch does
        self.current, Stream.recorded = stream, {stream}
        try:
            yield
            if any(stream.seen[other] < other.seen[other] for other in Stream.recorded):
                raise RuntimeError("capturing stream has unjoined work")
        finally:
            Stream.recorded = set()
        self.current = self.main  # on which the first replay is; torch lets it wait for nothing

    def made(self, place: Place) -> None:
        """New memory, perhaps where some was that is gone."""
        self._readers.pop(place[0], None)
        self._writers[place[0]] = {place: (self.current, self.current.seen[self.current])}


def _meet(one: Place, other: Place) -> bool:
    return one[0] != 0 and one[1] < other[2] and other[1] < one[2]


def _covers(one: Place, other: Place) -> bool:
    return one[1] <= other[1] and other[2] <= one[2]
