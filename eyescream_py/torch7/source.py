"""Bytes of known number, from memory or from a file through a window of a few of them."""

import os
from typing import Any, BinaryIO

import torch

from .errors import T7Error

_WINDOW_BYTES = 1 << 18


class Source:
    """Random access to `size` bytes; only a window of them is in memory.

    A file is read from its present position, which is byte 0 here; one that cannot seek is read whole. Raises T7Error
    where the file does not give the bytes that its size promised.
    """

    def __init__(self, data: bytes | bytearray | memoryview | BinaryIO):
        self.window: Any = b""
        self.base = 0
        if not isinstance(data, bytes | bytearray | memoryview) and not _seekable(data):
            data = data.read()
        if isinstance(data, bytes | bytearray | memoryview):
            self._file = None
            self.window = memoryview(data).cast("B")
            self.size = len(self.window)
            return
        self._file = data
        self._origin = data.tell()
        self.size = max(0, data.seek(0, os.SEEK_END) - self._origin)
        data.seek(self._origin)

    def load_window(self, start: int, count: int) -> None:
        """Make [start, start + count) part of the window. The caller knows that the source has them."""
        if self._file is None:
            return
        wanted = min(max(count, _WINDOW_BYTES), self.size - start)
        self._file.seek(self._origin + start)
        self.window = self._file.read(wanted)
        self.base = start
        if len(self.window) < count:
            raise T7Error("the file became shorter while it was read", start)

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `start` on, without a copy in between."""
        begin = start - self.base
        if 0 <= begin and begin + len(target) <= len(self.window):
            target[:] = self.window[begin : begin + len(target)]
            return
        assert self._file is not None
        self._file.seek(self._origin + start)
        filled = 0
        while filled < len(target):
            count = self._file.readinto(target[filled:])  # type: ignore[attr-defined]
            if not count:
                raise T7Error("the file became shorter while it was read", start + filled)
            filled += count

    def leave_at(self, position: int) -> None:
        """Put the file's own position there, for whoever reads on."""
        if self._file is not None:
            self._file.seek(self._origin + position)


def _seekable(file: BinaryIO) -> bool:
    return hasattr(file, "readinto") and file.seekable()


def storage_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor as writable bytes."""
    return memoryview(tensor.numpy()).cast("B") if tensor.numel() else memoryview(bytearray())
