"""What a run does where a file of it cannot be written: it says so, and goes on while it can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from eyescream_py.system.errors import UserError, why
from eyescream_py.system.voice import say

MOST_FAILED = 3  # saves in a row of a run of which no file holds anything


class Saves:
    """How the checkpoints of one run fare.

    `remedy` says what a person does where none can be written; `kept`: an earlier one of this run
    stands already.
    """

    def __init__(self, remedy: str, kept: bool = False) -> None:
        self._remedy, self.kept = remedy, kept
        self.failed = 0  # in a row

    @contextlib.contextmanager
    def of(self, path: str | Path, last: bool) -> Iterator[None]:
        """Write the checkpoint `path` in this block: what the system refuses is told, and the next
        save makes up for it. Raises UserError where there is none (`last`), or where three failed
        and nothing is kept.
        """
        try:
            yield
        except OSError as error:
            self.failed += 1
            reason = why(error)
            if last or (not self.kept and self.failed >= MOST_FAILED):
                raise UserError(f"could not save {path}: {reason}; {self._remedy}") from error
            say(f"Could not save {path}: {reason}; training goes on and tries again.")
        else:
            self.failed, self.kept = 0, True


@contextlib.contextmanager
def spared(what: str) -> Iterator[None]:
    """Write in this block what a run can do without, such as pictures: a line says where the system
    refuses it."""
    try:
        yield
    except OSError as error:
        say(f"Could not write {what}: {why(error)}; training goes on.")
