"""The items of an ASCII Torch 7 file: numbers in lines, characters and bytes as they are."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from .binary_format import write_all
from .errors import T7Error
from .source import Source, storage_bytes

_RAW_DTYPES = (torch.uint8, torch.int8)
_SPACE = re.compile(rb"[ \t\r\n]*")
_CHUNK_BYTES = 1 << 20


class AsciiReader:
    """The same interface as BinaryReader. The file is held in memory whole."""

    entry_bytes = 6  # b"5\n0\n0\n"
    longs_read = 0

    def __init__(self, source: Source):
        source.load_window(0, source.size)
        self.position = 0
        self._data = bytes(source.window)

    @property
    def remaining(self) -> int:
        return len(self._data) - self.position

    def int32(self) -> int:
        value = self._numbers(1, int)[0]
        if not -(2**31) <= value < 2**31:
            raise T7Error(f"{value} is no 32-bit integer", self.position)
        return value

    def double(self) -> float:
        return self._numbers(1, float)[0]

    def longs(self, count: int) -> tuple[int, ...]:
        return tuple(self._numbers(count, int)) if count else ()

    def chars(self, count: int) -> bytes:
        if count > self.remaining:
            raise T7Error(
                f"truncated: a string of {count} bytes, but {self.remaining} remain", self.position
            )
        start, self.position = self.position, self.position + count
        if count and self._data[self.position : self.position + 1] == b"\n":
            self.position += 1
        return self._data[start : start + count]

    def check_elements(self, count: int, dtype: torch.dtype) -> None:
        needed = count if dtype in _RAW_DTYPES else 2 * count - 1
        if needed > self.remaining:
            raise T7Error(
                f"truncated: a storage of {count} elements, but {self.remaining} bytes remain",
                self.position,
            )

    def elements(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        self.check_elements(count, dtype)
        if dtype in _RAW_DTYPES:
            return torch.frombuffer(bytearray(self.chars(count)), dtype=dtype) if count else (
                torch.empty(0, dtype=dtype)
            )
        tensor = torch.empty(count, dtype=dtype)
        parse: Callable[[bytes], Any] = float if dtype.is_floating_point else int
        done, start = 0, self.position
        for chunk in self._chunks_of_line() if count else ():
            values = self._parse(chunk, parse, start)
            if done + len(values) > count:
                raise T7Error(f"more than {count} numbers in a storage's line", start)
            try:
                tensor[done : done + len(values)] = torch.tensor(values, dtype=_exact(dtype)).to(dtype)
            except (OverflowError, RuntimeError) as error:
                raise T7Error(f"a number that no {dtype} holds", start) from error
            done += len(values)
        if done != count:
            raise T7Error(f"truncated: {done} of {count} numbers in a storage's line", start)
        return tensor

    def _numbers(self, count: int, parse: Callable[[bytes], Any]) -> list[Any]:
        """The numbers of one line, which holds `count` of them."""
        start = self.position
        values = self._parse(self._line(), parse, start)
        if len(values) != count:
            raise T7Error(f"a line of {count} numbers expected, found {len(values)}", start)
        return values

    def _line(self) -> bytes:
        start = self.position
        if start >= len(self._data):
            raise T7Error("truncated: a number expected, but the file ends", start)
        end = self._data.find(b"\n", start)
        end = len(self._data) if end < 0 else end
        self.position = min(end + 1, len(self._data))
        return self._data[start:end]

    def _chunks_of_line(self) -> Iterable[bytes]:
        start = self.position
        end = self._data.find(b"\n", start)
        end = len(self._data) if end < 0 else end
        self.position = min(end + 1, len(self._data))
        while start < end:
            stop = self._data.find(b" ", min(start + _CHUNK_BYTES, end), end)
            stop = end if stop < 0 else stop
            yield self._data[start:stop]
            start = stop

    @staticmethod
    def _parse(line: bytes, parse: Callable[[bytes], Any], start: int) -> list[Any]:
        try:
            return [parse(word) for word in line.split()]
        except ValueError as error:
            raise T7Error(f"a number expected, found {line[:40]!r}", start) from error


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


class AsciiWriter:
    """The same interface as BinaryWriter."""

    def __init__(self, file):
        self._file = file
        self._gathered = bytearray()

    def int32(self, value: int) -> None:
        self._gathered += b"%d\n" % value

    def double(self, value: float) -> None:
        self._gathered += _number(value, 17) + b"\n"

    def longs(self, values: Sequence[int]) -> None:
        if values:
            self._line(b"%d" % value for value in values)

    def chars(self, data: bytes) -> None:
        self._gathered += data + b"\n" if data else b""
        if len(self._gathered) > _CHUNK_BYTES:
            self.flush()

    def elements(self, tensor: torch.Tensor) -> None:
        if tensor.dtype in _RAW_DTYPES:
            self.chars(bytes(storage_bytes(tensor)))
        elif tensor.dtype.is_floating_point:
            digits = 17 if tensor.dtype is torch.float64 else 9
            self._values(tensor, lambda value: _number(value, digits))
        else:
            self._values(tensor, lambda value: b"%d" % value)

    def flush(self) -> None:
        write_all(self._file, self._gathered)
        self._gathered = bytearray()

    def _values(self, tensor: torch.Tensor, show: Callable[[Any], bytes]) -> None:
        for chunk in tensor.split(_CHUNK_BYTES // 16):
            self._gathered += b" ".join(map(show, chunk.tolist())) + b" "
            self.flush_chunk()
        if tensor.numel():
            self._gathered[-1:] = b"\n"

    def _line(self, words: Iterable[bytes]) -> None:
        self._gathered += b" ".join(words) + b"\n"

    def flush_chunk(self) -> None:
        """Write all but the last byte, which may still become the end of a line."""
        last = self._gathered[-1:]
        write_all(self._file, self._gathered[:-1])
        self._gathered = bytearray(last)


def _number(value: float, digits: int) -> bytes:
    """As C's printf("%.<digits>g") shows it, which keeps the sign of a NaN."""
    if math.isnan(value):
        return b"-nan" if math.copysign(1, value) < 0 else b"nan"
    return b"%.*g" % (digits, value)
