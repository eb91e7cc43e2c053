"""Printing that cannot fail: a line for the eye never costs the work.

`make_unfailing` replaces this process's standard streams by ones that take any text in any
encoding (what it cannot show is written as \\x.., \\u....) and survive a full disk, a closed pipe
and a terminal that went away. After it `print`, `click.echo` and tqdm are safe as they are; `say`
and `warn` are safe before it too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import sys
from typing import TextIO

from eyescream_py.system.waiting import WRITE, is_ready

_PATIENCE_S = 1.0  # for a stream that is told not to block and has no room


class _UnfailingFile(io.RawIOBase):
    """A file descriptor whose writes always succeed; the first failure is told once elsewhere."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self.name = descriptor, name
        self._failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    def write(self, data: object, /) -> int:
        left = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = len(left)
        try:
            while left:
                left = left[self._write_some(left) :]
        except OSError as error:
            self._tell_once(error)
        return size

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            if not is_ready(self._descriptor, WRITE, _PATIENCE_S):
                raise
            return 0

    def _tell_once(self, error: OSError) -> None:
        if self._failed or self._descriptor == 2:
            return
        self._failed = True
        reason = os.strerror(error.errno or errno.EIO)
        warn(f"{self.name} cannot be written ({reason}): the work goes on, its lines are lost.")


def make_unfailing() -> None:
    """Make this process's own stdout and stderr unfailing; a stream that someone else put in their
    place is left alone."""
    _fill_standard_places()
    sys.stdout = _unfailing(sys.stdout, sys.__stdout__, "standard output")
    sys.stderr = _unfailing(sys.stderr, sys.__stderr__, "standard error")


def _fill_standard_places() -> None:
    """Open what was closed before the program began (`>&- 2>&-`) on nothing: else the next file
    takes the place of standard error, and what a library complains of ends up in a checkpoint."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def _unfailing(present: TextIO | None, original: TextIO | None, name: str) -> TextIO:
    if present is None:  # closed before the program began (`>&-`)
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    if present is not original or not isinstance(present, io.TextIOWrapper):
        return present
    try:
        descriptor = present.fileno()
        present.flush()
    except (OSError, ValueError):
        return present
    # Each line goes out as it is printed, so that a log file can be followed.
    return io.TextIOWrapper(
        io.BufferedWriter(_UnfailingFile(descriptor, name)),
        encoding=present.encoding, errors="backslashreplace", line_buffering=True,
    )  # fmt: skip


def say(text: str = "") -> None:
    """A line on standard output, or nothing where that is impossible."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """A line on standard error, or nothing where that is impossible."""
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO | None) -> None:
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def printable(text: object) -> str:
    """`text` on one line, without characters that a terminal would obey."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 picture`, `2 batches`; `things`: the plural where no s makes it (`entries`)."""
    plural = things or thing + ("es" if thing.endswith("ch") else "s")
    return f"{number} {thing if number == 1 else plural}"


def as_typed(path: object) -> str:
    """A path as a shell takes it, for commands that a person copies: `'my run'`."""
    return printable(shlex.quote(str(path)))
