"""The items of an ASCII Torch 7 file: numbers in lines, characters and bytes as they are."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import T7Error
from .binary_format import write_all
from .source import Source, storage_bytes

_RAW_DTYPES = (torch.uint8, torch.int8)
_CHUNK_BYTES = 1 << 20

BOM = b"\xef\xbb\xbf"  # which an editor of Windows puts before a text

# Infinity and NaN of Windows' printf: 1.#INF, -1.#IND, 1.#QNAN until 2015, then -nan(ind)
_WINDOWS_INF = re.compile(rb"1\.#INF0*")
_WINDOWS_NAN = re.compile(rb"1\.#(?:IND|QNAN|SNAN)0*|nan\((?:ind|snan)\)")


class AsciiReader:
    """The same interface as BinaryReader. The whole file is held in memory."""

    long_size = 8
    entry_bytes = 6  # of a table, at least: a boolean key ("5", "0") and a nil ("0") in lines
    longs_read = 0

    def __init__(self, source: Source):
        source.load_window(0, source.size)
        self._data = bytes(source.window)
        self.position = len(BOM) if self._data.startswith(BOM) else 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self.position

    def int32(self) -> int:
        start = self.position
        value = self._numbers(1, int)[0]
        return _within(value, 32, start)

    def double(self) -> float:
        return self._numbers(1, float)[0]

    def longs(self, count: int) -> tuple[int, ...]:
        start = self.position
        values = self._numbers(count, int) if count else ()
        return tuple(_within(value, 64, start) for value in values)

    def chars(self, count: int) -> bytes:
        self._check(count, f"a string of {count}")
        start, self.position = self.position, self.position + count
        if count and self._data[self.position : self.position + 2] == b"\r\n":
            self.position += 2  # a program turned the line ends into those of Windows
        elif count and self._data[self.position : self.position + 1] == b"\n":
            self.position += 1
        return self._data[start : start + count]

    def skip_blank_end(self) -> None:
        """Step over empty lines, which an editor adds, where nothing else follows."""
        if not self._data[self.position :].strip():
            self.position = len(self._data)

    def check_elements(self, count: int, dtype: torch.dtype) -> None:
        """Raise T7Error unless so many elements can follow."""
        self._check(count if dtype in _RAW_DTYPES else 2 * count - 1, f"a storage of {count}")

    def elements(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A new 1-D tensor of the next `count` elements."""
        self.check_elements(count, dtype)
        tensor = torch.empty(count, dtype=dtype, device="cpu")
        if dtype in _RAW_DTYPES:
            storage_bytes(tensor)[:] = self.chars(count)
        elif count:
            self._fill(tensor)
        return tensor

    def _fill(self, tensor: torch.Tensor) -> None:
        """Fill `tensor` with the numbers of the next line, a part of the line at a time."""
        start, (line, end) = self.position, self._line_bounds()
        exact = torch.float64 if tensor.is_floating_point() else torch.int64
        parse: Callable[[bytes], Any] = float if tensor.is_floating_point() else int
        done = 0
        while line < end:
            stop = self._data.find(b" ", min(line + _CHUNK_BYTES, end), end)
            stop = end if stop < 0 else stop
            values = _parse(self._data[line:stop], parse, start)
            if done + len(values) <= len(tensor):
                tensor[done : done + len(values)] = _narrow(values, exact, tensor.dtype, start)
            done, line = done + len(values), stop
        if done != len(tensor):
            raise T7Error(f"a line of {len(tensor)} numbers expected, found {done}", start)

    def _numbers(self, count: int, parse: Callable[[bytes], Any]) -> list[Any]:
        """The numbers of the next line, which must be `count` of them."""
        start, (line, end) = self.position, self._line_bounds()
        values = _parse(self._data[line:end], parse, start)
        if len(values) != count:
            raise T7Error(f"a line of {count} numbers expected, found {len(values)}", start)
        return values

    def _line_bounds(self) -> tuple[int, int]:
        """Step over the next line and return where it begins and ends."""
        start = self.position
        end = self._data.find(b"\n", start)
        if end < 0:
            raise T7Error("truncated: a line of numbers expected, but the file ends", start)
        self.position = end + 1
        return start, end

    def _check(self, needed: int, what: str) -> None:
        if needed > self.remaining:
            message = f"truncated: {what} elements, but {self.remaining} bytes remain"
            raise T7Error(message, self.position)


def _parse(line: bytes, parse: Callable[[bytes], Any], start: int) -> list[Any]:
    try:
        if b"," in line and parse is float:  # where a program of qlua had set the locale
            line = line.replace(b",", b".")
        if parse is float and (b"#" in line or b"(" in line):
            line = _WINDOWS_NAN.sub(b"nan", _WINDOWS_INF.sub(b"inf", line))
        return [parse(word) for word in line.split()]
    except ValueError as error:
        raise T7Error(f"a number expected, found {line[:40]!r}", start) from error


def _within(value: int, bits: int, start: int) -> int:
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise T7Error(f"an integer of {bits} bits expected, found a larger one", start)
    return value


def _narrow(values: list[Any], exact: torch.dtype, dtype: torch.dtype, start: int) -> torch.Tensor:
    """The numbers as `dtype`, by way of `exact`, which tells what does not fit."""
    try:
        tensor = torch.tensor(values, dtype=exact, device="cpu")
    except (OverflowError, RuntimeError, ValueError) as error:
        raise T7Error(f"a number that no element of {dtype} holds", start) from error
    narrow = tensor.to(dtype)
    if not dtype.is_floating_point and not torch.equal(narrow.to(exact), tensor):
        raise T7Error(f"a number that no element of {dtype} holds", start)
    return narrow


class AsciiWriter:
    """The same interface as BinaryWriter."""

    long_size = 8

    def __init__(self, file: Any):
        self._file = file
        self._gathered = bytearray()

    def int32(self, value: int) -> None:
        self._gathered += b"%d\n" % value

    def double(self, value: float) -> None:
        self._gathered += _number(value, 17) + b"\n"

    def longs(self, values: Sequence[int]) -> None:
        if values:
            self._gathered += b" ".join(b"%d" % value for value in values) + b"\n"

    def chars(self, data: bytes) -> None:
        self._gathered += data + b"\n" if data else b""
        if len(self._gathered) > _CHUNK_BYTES:
            self.flush()

    def elements(self, tensor: torch.Tensor, cut: bool = False) -> None:
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
        if not tensor.numel():
            return
        for chunk in tensor.split(_CHUNK_BYTES // 16):
            self._gathered += b" ".join(map(show, chunk.tolist())) + b" "
            self._flush_but_last()
        self._gathered[-1:] = b"\n"

    def _flush_but_last(self) -> None:
        """Write what is certain: the last space may have to become the end of the line."""
        write_all(self._file, self._gathered[:-1])
        self._gathered = self._gathered[-1:]


def _number(value: float, digits: int) -> bytes:
    """As C's printf("%.<digits>g") shows it, which keeps the sign of a NaN."""
    if math.isnan(value):
        return b"-nan" if math.copysign(1, value) < 0 else b"nan"
    return b"%.*g" % (digits, value)
