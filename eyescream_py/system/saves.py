"""What a run does where a file of it cannot be written: it says so, and goes on while it can."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from eyescream_py.system.errors import FULL, UserError, out_of_memory, why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_again
from eyescream_py.system.locks import Lock
from eyescream_py.system.voice import say

MOST_FAILED = 3  # saves in a row of a run of which no file holds anything


class Saves:
    """How the checkpoints of one run fare.

    `remedy` says what a person does where none can be written; `kept`: an earlier one of this run
    stands already. `lock`: of the file that is written each time, where a run holds one.
    """

    def __init__(self, remedy: str, kept: bool = False, lock: Lock | None = None) -> None:
        self._remedy, self.kept, self.lock = remedy, kept, lock
        self.failed = 0  # in a row
        self.displaced = False  # whether another run's checkpoint stood there, and was kept
        self._written: tuple[int, int] | None = None  # which file the last one is
        self._moves = 0  # of the lock, that are seen to

    def save(self, path: str | Path, last: bool, write: Callable[[], None]) -> bool:
        """Let `write` write the checkpoint `path`; whether it did. What the system refuses (memory,
        too) is told, and the next save makes up for it. Raises UserError where there is none
        (`last`), or where three failed and nothing is kept.
        """
        try:
            self._take_place(Path(path))
            self._write(Path(path), write)
            self._written = _identity(Path(path))
        except (OSError, MemoryError, RuntimeError) as error:
            if not (isinstance(error, OSError) or out_of_memory(error)):
                raise
            self.failed += 1
            reason = why(error) if isinstance(error, OSError) else "there is not enough memory"
            if last or (not self.kept and self.failed >= MOST_FAILED):
                raise UserError(f"could not save {path}: {reason}; {self._remedy}") from error
            say(f"Could not save {path}: {reason}; training goes on and tries again.")
            return False
        self.failed, self.kept = 0, True
        return True

    def spare(self, path: Path) -> int:
        """Bytes that a full disk gains where `path.old` goes; 0 where it has to stay."""
        old = _old(path)
        if not (self.kept and path.is_file() and old.is_file()):  # else it may be all there is
            return 0
        status = old.stat()
        return status.st_size if status.st_nlink == 1 else 0

    def _take_place(self, path: Path) -> None:
        """See that the folder is there, and that what another run put into it stays."""
        if self.lock is None:
            return
        make_again(path.parent)
        moves = self.lock.follow()
        if moves != self._moves and path.is_file() and _identity(path) != self._written:
            kept = keep_earlier(path).name
            self.displaced = True
            say(f"{path} may be another run's by now: it is kept as {kept}.")
        self._moves = moves

    def _write(self, path: Path, write: Callable[[], None]) -> None:
        """A full disk has room for two checkpoints at least, a good one and a new one: the third,
        the one before, goes where there is no other way."""
        try:
            write()
        except OSError as error:
            if error.errno not in FULL or not self.spare(path):
                raise
            _old(path).unlink()
            say(f"The disk is full: {_old(path)} was removed to make room for the new checkpoint.")
            write()


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _identity(path: Path) -> tuple[int, int] | None:
    """What no other file of this disk shares with the one at `path`; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def keep_earlier(path: Path) -> Path:
    """Give the checkpoint of another run a name with its date, beside its present one.

    Raises OSError where the folder takes no further file.
    """
    stem = f"{path.stem}_{stamp(path.stat().st_mtime)}"
    for number in itertools.count(1):
        dated = path.with_name(f"{stem}{numbered(number)}{path.suffix}")
        try:
            os.link(path, dated)
        except FileExistsError:
            if dated.exists() and dated.samefile(path):
                return dated
        except OSError:  # a file system without hard links
            if os.path.lexists(dated):
                continue
            with open(path, "rb") as source, atomic_write(dated) as file:
                shutil.copyfileobj(source, file)
            return dated
        else:
            return dated
    raise AssertionError("there is always a next number")


def stamp(seconds: float) -> str:
    """Date and time of a file for a name, by its seconds since 1970, which a broken clock or
    archive may have put beyond all dates."""
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d_%H%M%S}"
    except (ValueError, OverflowError, OSError):
        return "undated"


def numbered(number: int) -> str:
    """What names of one date end with: nothing, _2, _3, ..."""
    return f"_{number}" if number > 1 else ""


@contextlib.contextmanager
def spared(what: str) -> Iterator[None]:
    """Write in this block what a run can do without, such as pictures: a line says where the system
    refuses it."""
    try:
        yield
    except OSError as error:
        say(f"Could not write {what}: {why(error)}; training goes on.")
