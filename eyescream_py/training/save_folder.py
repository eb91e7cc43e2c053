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


def prepare_folder(folder: Path, name: str, room: int, continues: bool) -> None:
    """Make SAVE, clear what killed writers left there, and see that checkpoints `name` of `room`
    bytes can be written: the next is whole before it takes the place of the last, which is there
    where the run `continues` one of SAVE's. What stands there otherwise is another run's and stays.

    Raises UserError where it cannot.
    """
    for path in (folder / name, folder / f"{name}.old"):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else NO_FILE
            raise UserError(f"--save={folder}: {path} is {kind}; remove it or save elsewhere")
    count = 1 if continues else 2  # the next one, and the last
    try:
        make_folder(folder)
        for place in (folder, folder / "pictures"):
            if place.is_dir():
                remove_stale_temporaries(place)
        demand_room(folder / "probe", count * room)
    except OSError as error:
        reason = why(error)
        what = "two checkpoints" if count == 2 and error.errno in FULL else "a checkpoint"
        raise UserError(
            f"--save={folder}: cannot write {what} of {room / 1e6:.0f} MB there: {reason}"
        ) from error


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
