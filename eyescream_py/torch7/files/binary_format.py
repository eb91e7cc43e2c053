"""The items of a binary Torch 7 file: integers, doubles, characters and arrays.

Torch writes in its machine's order, which is little-endian on all but a few (PowerPC), or in the
one that a program asked for (`bigEndianEncoding`): both are read, and little-endian is written.
"""

import struct
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import T7Error
from .source import Source, storage_bytes

_INT = struct.Struct("<i")
_DOUBLE = struct.Struct("<d")
_LONG_CODE = {4: "i", 8: "q"}


class BinaryReader:
    """Reads items in order from `position`; each is checked against the bytes that remain."""

    entry_bytes = 12  # of a table, at least: a boolean key (tag, value) and a nil (tag)

    def __init__(self, source: Source, long_size: int, big_endian: bool = False):
        self.position = 0
        self.long_size = long_size
        self._order = ">" if big_endian else "<"
        self._int, self._double = struct.Struct(f"{self._order}i"), struct.Struct(f"{self._order}d")
        self.longs_read = 0
        self._source = source

    @property
    def remaining(self) -> int:
        """Bytes left."""
        return self._source.size - self.position

    def int32(self) -> int:
        """The next 4-byte integer."""
        index = self._advance(4, "an integer")
        return self._int.unpack_from(self._source.window, index)[0]

    def double(self) -> float:
        """The next number."""
        index = self._advance(8, "a number")
        return self._double.unpack_from(self._source.window, index)[0]

    def longs(self, count: int) -> tuple[int, ...]:
        """The next `count` sizes, of 4 or 8 bytes each."""
        self.longs_read += count
        index = self._advance(count * self.long_size, "sizes")
        code = f"{self._order}{count}{_LONG_CODE[self.long_size]}"
        return struct.unpack_from(code, self._source.window, index)

    def chars(self, count: int) -> bytes:
        """The next `count` bytes."""
        index = self._advance(count, "a string")
        return bytes(self._source.window[index : index + count])

    def check_elements(self, count: int, dtype: torch.dtype) -> None:
        """Raise T7Error unless so many elements can follow."""
        needed = count * (self.long_size if dtype is torch.int64 else dtype.itemsize)
        if needed > self.remaining:
            message = f"truncated: a storage of {needed} bytes, but {self.remaining} remain"
            raise T7Error(message, self.position)

    def elements(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A new 1-D tensor of the next `count` elements."""
        self.check_elements(count, dtype)
        narrow = dtype is torch.int64 and self.long_size == 4
        tensor = torch.empty(count, dtype=torch.int32 if narrow else dtype, device="cpu")
        self._source.read_into(self.position, storage_bytes(tensor))
        self.position += count * tensor.element_size()
        if self._order == ">":
            tensor.numpy().byteswap(inplace=True)
        return tensor.to(dtype)

    def _advance(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where in the window they begin."""
        source, start = self._source, self.position
        if start + count > source.size:
            message = f"truncated: {what} of {count} bytes, but {source.size - start} remain"
            raise T7Error(message, start)
        if not source.base <= start <= source.base + len(source.window) - count:
            source.load_window(start, count)
        self.position = start + count
        return start - source.base


class BinaryWriter:
    """Writes items to a file, gathering the small ones."""

    _GATHERED_BYTES = 1 << 18

    def __init__(self, file: Any, long_size: int):
        self.long_size = long_size
        self._file = file
        self._gathered = bytearray()

    def int32(self, value: int) -> None:
        """A 4-byte integer."""
        self._gathered += _INT.pack(value)

    def double(self, value: float) -> None:
        """A number of 8 bytes."""
        self._gathered += _DOUBLE.pack(value)

    def longs(self, values: Sequence[int]) -> None:
        """Sizes, of 4 or 8 bytes each. Raises T7Error for one that 4 cannot hold."""
        code = f"<{len(values)}{_LONG_CODE[self.long_size]}"
        try:
            self._gathered += struct.pack(code, *values)
        except struct.error as error:
            raise T7Error(f"a size in {tuple(values)} is beyond 4-byte longs") from error

    def chars(self, data: bytes) -> None:
        """Bytes as they are."""
        self._gathered += data
        if len(self._gathered) > self._GATHERED_BYTES:
            self.flush()

    def elements(self, tensor: torch.Tensor, cut: bool = False) -> None:
        """The elements of a contiguous 1-D CPU tensor.

        Longs that do not fit in 4 bytes are cut, as Lua does, or raise T7Error.
        """
        if tensor.dtype is torch.int64 and self.long_size == 4:
            tensor = tensor.to(torch.int32) if cut else _narrowed(tensor)
        data = storage_bytes(tensor)
        if len(data) < self._GATHERED_BYTES:
            self.chars(bytes(data))
        else:
            self.flush()
            write_all(self._file, data)

    def flush(self) -> None:
        write_all(self._file, self._gathered)
        self._gathered = bytearray()


def write_all(file: Any, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, also to a file whose `write` may take only a part of it."""
    rest = memoryview(data)
    while len(rest):
        written = file.write(rest)
        rest = rest[written if written is not None else len(rest) :]


def _narrowed(tensor: torch.Tensor) -> torch.Tensor:
    narrow = tensor.to(torch.int32)
    if not torch.equal(narrow.to(torch.int64), tensor):
        raise T7Error("a LongStorage holds values that 4-byte longs cannot")
    return narrow
