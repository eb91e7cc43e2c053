"""Files of one JSON object per line (metrics.jsonl), cut back to a point when a run resumes."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eyescream_py.system.errors import why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.locks import alone_in
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
    ) -> None:
        """Start anew, or with `keep` go on behind the existing lines for which it is true.

        Lines that are no JSON object (a line cut short by a kill) are dropped. A file that a new
        start replaces stays beside it as `path.old`, with `keep_old` in any case. Raises OSError.
        """
        self.path = Path(path)
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
        replaces it (by one with our lines), and a removed one comes back whole."""
        try:
            if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                return
            lines = b""
        except FileNotFoundError:
            lines = self._all_lines()
            make_folder(self.path.parent)
            say(f"{self.path} was removed or renamed: it is written anew, with all its lines.")
        self._file.close()
        self._file = _opened(self.path)
        self._unwritten = lines + self._unwritten

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
        lines = read_lines(path, most=None)
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
