"""Text files that people and programs wrote, line by line."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from eyescream_py.system.files import NO_FILE, open_to_read

BOM = b"\xef\xbb\xbf"
MOST_BYTES = 64 << 20  # of a list that a person wrote


def read_lines(path: str | Path, most: int | None = MOST_BYTES) -> list[str]:
    """The lines of a file, ended by \\n or \\r\\n, without a byte-order mark; see `as_utf8`.

    Not `str.splitlines`, which also ends a line at U+2028, U+0085 and others that file names may
    hold. Bytes that are no UTF-8 become surrogates, as they do in file names. Raises OSError, also
    for more than `most` bytes: a list that never ends would take all memory.
    """
    data = as_utf8(read_bounded(path, most))
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not lines[-1]:  # behind the last line's end
        lines.pop()
    return [line.decode("utf-8", "surrogateescape") for line in lines]


def as_utf8(data: bytes) -> bytes:
    """A text without its byte-order mark; UTF-16, as editors and the shell of Windows write it,
    becomes UTF-8.

    UTF-16 holds the character NUL in every letter of English; a list of names holds none.
    """
    mark = data[:2]
    if mark in (b"\xff\xfe", b"\xfe\xff") and b"\0" in data:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-16").encode("utf-8")
    return data.removeprefix(BOM)


def read_bounded(path: str | Path, most: int | None) -> bytes:
    """The bytes of a file of at most `most`. Raises OSError."""
    with open_to_read(path) as file:
        if most is None and stat.S_ISCHR(os.fstat(file.fileno()).st_mode):  # which may never end
            raise OSError(errno.EINVAL, NO_FILE, str(path))
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data
