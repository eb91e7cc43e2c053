"""Text files that people and programs wrote, line by line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

BOM = b"\xef\xbb\xbf"
MOST_BYTES = 64 << 20  # of a list that a person wrote


def read_lines(path: str | Path, most: int | None = MOST_BYTES) -> list[str]:
    """The lines of a file, ended by \\n or \\r\\n, without a byte-order mark.

    Not `str.splitlines`, which also ends a line at U+2028, U+0085 and others that file names may
    hold. Bytes that are no UTF-8 become surrogates, as they do in file names. Raises OSError, also
    for more than `most` bytes: a list that never ends would take all memory.
    """
    data = read_bounded(path, most).removeprefix(BOM)
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not lines[-1]:  # behind the last line's end
        lines.pop()
    return [line.decode("utf-8", "surrogateescape") for line in lines]


def read_bounded(path: str | Path, most: int | None) -> bytes:
    """The bytes of a file of at most `most`. Raises OSError."""
    with open(path, "rb") as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data
