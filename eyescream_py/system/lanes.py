"""Streams of a CUDA device for work that nothing waits for until the end of a backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Lanes:
    """Work begun in `beside` may run at the same time as what follows it; `join` waits for all.

    A kernel of a small batch leaves most of a GPU idle. On other devices everything runs in turn.
    """

    def __init__(self, device: torch.device, count: int = 4) -> None:
        self.streams = (
            [torch.cuda.Stream(device) for _ in range(count)] if device.type == "cuda" else []
        )
        self._begun = 0
        self._kept: list[Tensor] = []

    @contextlib.contextmanager
    def beside(self, *read: Tensor) -> Iterator[None]:
        """A block of work that reads the tensors `read` and what lives longer than they do."""
        if not self.streams:
            yield
            return
        lane = self.streams[self._begun % len(self.streams)]
        self._begun += 1
        lane.wait_stream(torch.cuda.current_stream(lane.device))
        # their memory must not be used anew before the work is over
        self._kept.extend(read)
        with torch.cuda.stream(lane):
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
        for lane in self.streams[: self._begun]:
            torch.cuda.current_stream(lane.device).wait_stream(lane)
        self._begun = 0
        self._kept.clear()
