"""SAVE, before a run counts on it: made, cleaned, and with room for a checkpoint."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

from eyescream_py.system.errors import FULL, UserError, why
from eyescream_py.system.files import (
    NO_FILE,
    demand_room,
    remove_stale_temporaries,
)
from eyescream_py.system.folders import make_folder
from eyescream_py.system.saves import numbered, stamp


def demand_folder(folder: Path, room: int = 0) -> None:
    """Make SAVE, clear what killed writers left there, and see that it takes checkpoints, of `room`
    bytes together.

    Raises UserError where it does not.
    """
    try:
        make_folder(folder)
        for place in (folder, folder / "pictures"):
            if place.is_dir():
                remove_stale_temporaries(place)
        demand_room(folder / "probe", room)
    except OSError as error:
        reason = why(error)
        size = f"{room / 1e6:.0f} MB of " if error.errno in FULL else ""
        raise UserError(
            f"--save={folder}: cannot write {size}checkpoints there: {reason}"
        ) from error


def prepare_folder(folder: Path, name: str, room: int) -> None:
    """The same, and see that no folder stands where checkpoints `name` are to be."""
    for path in (folder / name, folder / f"{name}.old"):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else NO_FILE
            raise UserError(f"--save={folder}: {path} is {kind}; remove it or save elsewhere")
    demand_folder(folder, room)


def is_of_run(path: Path, checkpoint: Path) -> bool:
    """Whether the file `path` is the run's that saves `checkpoint`: that file, or the one before
    it."""
    ours = (checkpoint, checkpoint.with_name(f"{checkpoint.name}.old"))
    return path.resolve() in [own.resolve() for own in ours]


def keep_earlier_pictures(folder: Path, pictures: list[Path], stem: str) -> Path:
    """Move an earlier run's pictures to a folder of their own below `folder`, named by their date.

    Raises OSError where that fails.
    """
    made = stamp(max(path.stat().st_mtime for path in pictures))
    for number in itertools.count(1):
        dated = folder / f"{stem}_{made}{numbered(number)}"
        with suppress(FileExistsError):
            dated.mkdir()
            for path in pictures:
                path.rename(dated / path.name)
            return dated
    raise AssertionError("there is always a next number")
