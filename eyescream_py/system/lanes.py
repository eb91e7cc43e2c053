"""Streams of a CUDA device for work that nothing waits for until the end of a backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# of a stream on which the rest waits: its kernels come before those of others that still wait for
# their turn, as one that fills the whole device for a while would hold back many small ones
FIRST = -1


class Lanes:
    """Work begun in `beside` may run at the same time as what follows it, work begun in `behind`
    after all or some of that; `join` waits for both.

    A kernel of a small batch leaves most of a GPU idle. On other devices everything runs in turn.
    """

    def __init__(self, device: torch.device, count: int = 4) -> None:
        made = (
            [torch.cuda.Stream(device) for _ in range(count + 1)] if device.type == "cuda" else []
        )
        self.streams, self._rear = made[1:], made[0] if made else None
        self._begun, self._rear_is_used = 0, False
        self._kept: list[Tensor] = []

    @contextlib.contextmanager
    def beside(self, *read: Tensor) -> Iterator[Any]:
        """A block of work that reads the tensors `read` and what lives longer than they do; the
        lane that it runs on, if any.
        """
        if not self.streams:
            yield None
            return
        lane = self.streams[self._begun % len(self.streams)]
        self._begun += 1
        lane.wait_stream(torch.cuda.current_stream(lane.device))
        # their memory must not be used anew before the work is over
        self._kept.extend(read)
        with torch.cuda.stream(lane):
            yield lane

    @contextlib.contextmanager
    def behind(self, *read: Tensor, lane: Any = None) -> Iterator[None]:
        """A block of work that needs what was done on `lane`, None: on all of them, and before it
        on the current stream, and nothing else; such blocks run one after the other.
        """
        rear = self._rear
        if not self.streams or rear is None:
            yield
            return
        before = [lane] if lane else self.streams[: self._begun]
        for other in (torch.cuda.current_stream(rear.device), *before):
            rear.wait_stream(other)
        self._rear_is_used = True
        self._kept.extend(read)
        with torch.cuda.stream(rear):
            yield

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """A block in which nothing runs beside: for what is read before a `join`, as autograd does
        where it adds up a weight's slopes of several passes.
        """
        self.join()
        streams, self.streams = self.streams, []
        try:
            yield
        finally:
            self.streams = streams

    def join(self) -> None:
        """Let the current stream wait for all that was begun."""
        rear = [self._rear] if self._rear and self._rear_is_used else []
        for lane in [*self.streams[: self._begun], *rear]:
            torch.cuda.current_stream(lane.device).wait_stream(lane)
        self._begun, self._rear_is_used = 0, False
        self._kept.clear()
