"""Text files that people and programs wrote, line by line."""

from __future__ import annotations

from pathlib import Path

BOM = b"\xef\xbb\xbf"


def read_lines(path: str | Path) -> list[str]:
    """The lines of a file, ended by \\n or \\r\\n, without a byte-order mark.

    Not `str.splitlines`, which also ends a line at U+2028, U+0085 and others that file names may
    hold. Bytes that are no UTF-8 become surrogates, as they do in file names. Raises OSError.
    """
    data = Path(path).read_bytes().removeprefix(BOM)
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not lines[-1]:  # behind the last line's end
        lines.pop()
    return [line.decode("utf-8", "surrogateescape") for line in lines]
