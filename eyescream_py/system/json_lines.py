"""Files of one JSON object per line (metrics.jsonl), cut back to a point when a run resumes."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from eyescream_py.system.errors import why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.locks import HeldError, Lock, alone_in
from eyescream_py.system.text import read_lines
from eyescream_py.system.voice import say

MAX_UNWRITTEN = 1 << 20  # bytes of lines kept for a disk that is full


class JsonLines:
    """A file of one JSON object per line, flushed line by line, cut back to a point when a run
    resumes.
    """

    def __init__(
        self,
        path: str | Path,
        keep: Callable[[dict[str, Any]], bool] | None = None,
        keep_old: bool = False,
        lock: Lock | None = None,
        is_ours: Callable[[dict[str, Any]], bool] = lambda record: True,
    ) -> None:
        """Start anew, or with `keep` go on behind the existing lines for which it is true.

        Lines that are no JSON object (a line cut short by a kill) are dropped. A file that a new
        start replaces stays beside it as `path.old`, with `keep_old` in any case. `lock` says whose
        folder it is: where it is another's by now, which has lines that look like ours (`is_ours`),
        the two are kept apart. Raises OSError.
        """
        self.path = Path(path)
        self._lock, self._is_ours = lock, is_ours
        self._moves = 0  # of the lock, that are seen to
        with alone_in(self.path.parent):
            kept = [record for record in read_json_lines(self.path) if keep(record)] if keep else []
            with atomic_write(self.path, keep_old=keep_old or keep is None) as file:
                file.writelines(_line(record).encode() for record in kept)
            self._file = _opened(self.path)
        self._unwritten = b""
        self._failing = False

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; what a full disk does not take is told once and written when it can be."""
        if len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten += _line(record).encode()
        try:
            with alone_in(self.path.parent):
                self._follow()
                while self._unwritten:
                    self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
            self._failing = False
        except OSError as error:
            if not self._failing:
                reason = why(error)
                say(f"Could not write {self.path}: {reason}; training goes on, trying again.")
            self._failing = True

    def _follow(self) -> None:
        """See that our file is the one at `path`: another trainer that starts in the folder
        replaces it (by one with our lines), and a removed one comes back whole. Where another run
        has a renamed folder's place, ours goes on where it is now, until that run ends.
        """
        try:
            moves = self._lock.follow() if self._lock else 0
        except HeldError:
            return
        try:
            if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                self._open_again(self._in_place_of_others() if moves != self._moves else b"")
        except FileNotFoundError:
            make_folder(self.path.parent)
            say(f"{self.path} was removed or renamed: it is written anew, with all its lines.")
            self._open_again(self._all_lines())
        self._moves = moves

    def _open_again(self, lines: bytes) -> None:
        opened = _opened(self.path)  # where that fails, the present file still holds its lines
        self._file.close()
        self._file = opened
        self._unwritten = lines + self._unwritten

    def _in_place_of_others(self) -> bytes:
        """Take lines that look like ours out of the file at `path`; those that are."""
        others = [record for record in read_json_lines(self.path) if not self._is_ours(record)]
        with atomic_write(self.path, keep_old=True) as file:
            file.writelines(_line(record).encode() for record in others)
        say(f"{self.path} may be another run's by now: it is kept as {self.path.name}.old.")
        ours = filter(self._is_ours, _records(self._all_lines().split(b"\n")))
        return b"".join(_line(record).encode() for record in ours)

    def _all_lines(self) -> bytes:
        self._file.seek(0)
        return self._file.read() or b""

    def close(self) -> None:
        """See once more that the file is there, with all its lines."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError), alone_in(self.path.parent):
            self._follow()
            self._file.write(self._unwritten)
        self._file.close()


def _opened(path: Path) -> io.FileIO:
    return open(path, "a+b", buffering=0)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _whole(text: str) -> float:
    """An integer; one too long to be a count becomes a float, infinite at worst."""
    return int(text) if len(text) < 19 else float(text)


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file's lines; broken lines are left out, a missing file is empty."""
    try:
        return _records(read_lines(path, most=None))
    except FileNotFoundError:
        return []


def _records(lines: Iterable[str | bytes]) -> list[dict[str, Any]]:
    records = []
    for line in lines:
        try:
            record = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
