"""Torch 7 files (.t7, .net) <-> plain Python values: `load` and `save`."""

import io
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, overload

from ..errors import T7Error
from .ascii_format import AsciiReader, AsciiWriter
from .binary_format import BinaryReader, BinaryWriter
from .foreign import check_start, is_big_endian
from .reader import Reader
from .replacing import replaced
from .source import Source
from .values import Limits
from .writer import Writer


def load(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    long_size: int | None = None,
    ascii: bool | None = None,
    limits: Limits | None = None,
) -> Any:
    """Read one value from a path, from bytes, or from a binary file at its present position.

    Whole numbers come back as int, others as float; strings as str (`surrogateescape` where the
    bytes are no UTF-8); tables as `Table`; tensors as torch.Tensor in CPU memory; bare storages
    as `Storage`; instances of other classes as `TorchObject`; functions as `LuaFunction`, never
    run. What shares memory or identity in the file does so here.

    `long_size` is 4 or 8 bytes and `ascii` the text form; None finds them out. Raises T7Error for
    a file that is damaged, foreign or beyond `limits`, TypeError for a source of another kind, and
    OSError where it cannot be opened.
    """
    if long_size not in (None, 4, 8):
        raise ValueError(f"long_size must be None, 4 or 8, not {long_size!r}")
    if isinstance(source, str | os.PathLike):
        return load_file(source, long_size, ascii, limits)[0]
    if not isinstance(source, bytes | bytearray | memoryview) and not hasattr(source, "read"):
        raise TypeError(f"load takes a path, bytes or a binary file, not {type(source).__name__}")
    value, rest = _load(Source(source), long_size, ascii, limits or Limits())
    if isinstance(source, bytes | bytearray | memoryview):
        _refuse_nil_alone(value, rest)
    return value


def load_file(
    path: str | os.PathLike[str],
    long_size: int | None = None,
    ascii: bool | None = None,
    limits: Limits | None = None,
) -> tuple[Any, int]:
    """The first value of a file, as `load` reads it, and how many bytes follow it.

    `torch.save` writes one value and no more; a program can write several one after another.
    """
    with open(path, "rb", opener=_not_waiting) as file:
        os.set_blocking(file.fileno(), True)
        value, rest = _load(Source(file), long_size, ascii, limits or Limits())
    _refuse_nil_alone(value, rest)
    return value, rest


def _refuse_nil_alone(value: Any, rest: int) -> None:
    """Four zero bytes are Lua's nil: so begin unfinished downloads and other programs' files."""
    if value is None and rest:
        raise T7Error(f"not a Torch 7 file: it begins with nil (zeros), and {rest} bytes follow", 0)


def _not_waiting(path: str, flags: int) -> int:
    """Open, where that is a pipe that nobody writes to as an empty file."""
    return os.open(path, flags | os.O_NONBLOCK)


def _load(
    source: Source, long_size: int | None, ascii: bool | None, limits: Limits
) -> tuple[Any, int]:
    """The value, and how many bytes follow it."""
    looks_ascii = check_start(source, ascii)
    if looks_ascii if ascii is None else ascii:
        lines = AsciiReader(source)
        items: AsciiReader | BinaryReader = lines
        value = Reader(items, limits).read()
        lines.skip_blank_end()
    else:
        value, items = _load_binary(source, long_size, limits)
    source.leave_at(items.position)
    return value, items.remaining


def _load_binary(source: Source, long_size: int | None, limits: Limits) -> tuple[Any, BinaryReader]:
    """Read with 8-byte longs and, where the file makes no sense so, with 4-byte longs."""
    sizes, big_endian = (4, 8) if long_size == 4 else (8, 4), is_big_endian(source)
    failures: list[tuple[int, T7Error]] = []
    for size in sizes:
        items = BinaryReader(source, size, big_endian)
        reader = Reader(items, limits)
        try:
            value = reader.read()
        except T7Error as error:
            # without its traceback, which would keep alive what has been read
            failures.append((reader.objects_read, error.with_traceback(None)))
            if not items.longs_read:
                break
        else:
            if not failures:
                return value, items
            if items.remaining:  # chance: what torch.save writes is one value and no more
                break
            if long_size is None:
                return value, items
            message = f"wrong long size: this file has {size}-byte longs, not {long_size}"
            raise T7Error(message, failures[0][1].offset)
    if long_size is not None:
        raise failures[0][1]
    raise max(failures, key=lambda failure: failure[0])[1]


@overload
def save(
    target: None, value: Any, *, ascii: bool = ..., long_size: int = ..., referenced: bool = ...
) -> bytes: ...


@overload
def save(
    target: str | os.PathLike[str] | BinaryIO,
    value: Any,
    *,
    ascii: bool = ...,
    long_size: int = ...,
    referenced: bool = ...,
) -> None: ...


def save(
    target: str | os.PathLike[str] | BinaryIO | None,
    value: Any,
    *,
    ascii: bool = False,
    long_size: int = 8,
    referenced: bool = True,
) -> bytes | None:
    """Write `value` as Lua's torch.save would to a path or binary file, or with None return bytes.

    A file that stands at the path (or that a link there leads to) stays until the new one is
    whole; devices and pipes are written to. dict is written as a table, list and tuple as the table
    1, 2, ...; None, bool, int, float, str, bytes, numpy arrays and torch tensors as Lua's. A tensor
    that views part of its memory is written as that view and all the memory: clone it to write
    only the part. Raises T7Error for a value that Torch 7 has no type for, TypeError where the two
    are swapped, OSError where the path cannot be written.
    """
    if long_size not in (4, 8):
        raise ValueError(f"long_size must be 4 or 8, not {long_size!r}")
    if isinstance(target, str | os.PathLike):
        with _opened(target) as file:
            _write(file, value, ascii, long_size, referenced)
        return None
    if target is not None and not hasattr(target, "write"):
        kind = type(target).__name__  # torch.save of today has them the other way round
        raise TypeError(f"save(target, value): the target is a path, a file or None, not {kind}")
    buffer = io.BytesIO()
    _write(buffer if target is None else target, value, ascii, long_size, referenced)
    return buffer.getvalue() if target is None else None


def _opened(target: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
    path = Path(target)
    is_stream = path.exists() and not (path.is_file() or path.is_dir())
    if is_stream or not os.fspath(target):  # "", which open refuses by its name
        return open(target, "wb")
    return replaced(Path(os.path.realpath(path)))


def _write(file: Any, value: Any, ascii: bool, long_size: int, referenced: bool) -> None:
    items = AsciiWriter(file) if ascii else BinaryWriter(file, long_size)
    Writer(items, referenced).write(value)
    items.flush()
