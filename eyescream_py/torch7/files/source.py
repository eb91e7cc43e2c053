"""Bytes of known number, from memory or from a file through a window of a few of them."""

import os
from typing import Any, BinaryIO

import torch

from ..errors import T7Error

Bytes = bytes | bytearray | memoryview
_WINDOW_BYTES = 1 << 18


class Source:
    """Random access to `size` bytes; of a file, only a window is in memory.

    A file is read from its present position, which is byte 0 here; one that cannot seek is read
    whole. Raises T7Error where a file does not give the bytes that its size promised.
    """

    def __init__(self, data: Bytes | BinaryIO):
        self.window: Any = b""
        self.base = 0
        self._file: Any = None
        if isinstance(data, Bytes):
            self.window = memoryview(data).cast("B")
        elif hasattr(data, "readinto") and data.seekable():
            self._file = data
        else:
            self.window = memoryview(_read_bytes(data))
        self.size = len(self.window)
        if self._file is not None:
            self._origin = self._file.tell()
            self.size = max(0, self._file.seek(0, os.SEEK_END) - self._origin)

    def load_window(self, start: int, count: int) -> None:
        """Make [start, start + count) part of the window. The caller knows that it exists."""
        if self._file is None:
            return
        self.base = start
        self._file.seek(self._origin + start)
        self.window = self._file.read(min(max(count, _WINDOW_BYTES), self.size - start))
        if len(self.window) < count:
            raise T7Error("the file became shorter while it was read", start)

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `start` on, without a copy in between."""
        begin = start - self.base
        if begin >= 0 and begin + len(target) <= len(self.window):
            target[:] = self.window[begin : begin + len(target)]
            return
        self._file.seek(self._origin + start)
        filled = 0
        while filled < len(target):
            count = self._file.readinto(target[filled:])
            if not count:
                raise T7Error("the file became shorter while it was read", start + filled)
            filled += count

    def leave_at(self, position: int) -> None:
        """Put the file's own position there, for whoever reads on."""
        if self._file is not None:
            self._file.seek(self._origin + position)


def _read_bytes(file: Any) -> bytes:
    data = file.read()
    if not isinstance(data, bytes):
        raise T7Error("the file was opened as text: open it in mode 'rb'")
    return data


def storage_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous 1-D CPU tensor as writable bytes."""
    return tensor.view(torch.uint8).numpy().data
