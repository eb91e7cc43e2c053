"""Streams of a CUDA device for work that nothing waits for until the end of a backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# of a stream on which the rest waits: its kernels come before those of others that still wait for
# their turn, as one that fills the whole device for a while would hold back many small ones
FIRST = -1


@dataclass
class _Beside:
    """The lanes of one stream; a stream of their own for what has to wait for some of them."""

    lanes: list[Any]
    rear: Any
    used: dict[Any, None] = field(default_factory=dict)  # in order
    begun: int = 0


class Lanes:
    """Work begun in `beside` may run at the same time as what follows it, work begun in `behind`
    after all or some of that; `join` waits for both.

    A kernel of a small batch leaves most of a GPU idle. Each stream has `count` lanes of its own,
    in which nothing waits for other branches of a network. On other devices everything runs in
    turn.
    """

    def __init__(self, device: torch.device, count: int = 4) -> None:
        self.device, self.count = device, count
        self.on = device.type == "cuda"
        self._beside: dict[Any, _Beside] = {}
        self._kept: list[Tensor] = []

    def _of(self, stream: Any) -> _Beside:
        if stream not in self._beside:
            made = [torch.cuda.Stream(self.device) for _ in range(self.count + 1)]
            self._beside[stream] = _Beside(made[1:], made[0])
        return self._beside[stream]

    @contextlib.contextmanager
    def beside(self, *read: Tensor) -> Iterator[Any]:
        """A block of work that reads the tensors `read` and what lives longer than they do; the
        lane that it runs on, if any.
        """
        if not self.on:
            yield None
            return
        current = torch.cuda.current_stream(self.device)
        own = self._of(current)
        lane = own.lanes[own.begun % self.count]
        own.begun += 1
        with self._on(own, lane, [current], read):
            yield lane

    @contextlib.contextmanager
    def behind(self, *read: Tensor, lane: Any = None) -> Iterator[None]:
        """A block of work that needs what was done on `lane`, None: on all of them, and before it
        on the current stream; such blocks of a stream run one after the other.
        """
        if not self.on:
            yield
            return
        current = torch.cuda.current_stream(self.device)
        own = self._of(current)
        with self._on(own, own.rear, [current, *([lane] if lane else self._used())], read):
            yield

    @contextlib.contextmanager
    def _on(
        self, own: _Beside, stream: Any, before: list[Any], read: tuple[Tensor, ...]
    ) -> Iterator[None]:
        for other in before:
            if other is not stream:
                stream.wait_stream(other)
        own.used[stream] = None
        # their memory must not be used anew before the work is over
        self._kept.extend(read)
        with torch.cuda.stream(stream):
            yield

    def _used(self) -> list[Any]:
        """All that has work which nobody may have waited for."""
        return [stream for own in self._beside.values() for stream in own.used]

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """A block in which nothing runs beside: for what is read before a `join`, as autograd does
        where it adds up a weight's slopes of several passes.
        """
        self.join()
        was, self.on = self.on, False
        try:
            yield
        finally:
            self.on = was

    def join(self) -> None:
        """Let the current stream wait for all that was begun."""
        for stream in self._used():
            torch.cuda.current_stream(self.device).wait_stream(stream)
        for own in self._beside.values():
            own.used.clear()
            own.begun = 0
        self._kept.clear()
