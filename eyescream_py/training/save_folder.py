"""SAVE, before a run counts on it: made, cleaned, and with room for a checkpoint."""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import (
    NO_FILE,
    atomic_write,
    demand_room,
    remove_stale_temporaries,
)
from eyescream_py.system.folders import make_folder


def prepare_folder(folder: Path, name: str, room: int) -> None:
    """Make SAVE, clear what killed writers left there, and see that a checkpoint `name` of `room`
    bytes can be written.

    Raises UserError where it cannot.
    """
    for path in (folder / name, folder / f"{name}.old"):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else NO_FILE
            raise UserError(f"--save={folder}: {path} is {kind}; remove it or save elsewhere")
    try:
        make_folder(folder)
        for place in (folder, folder / "pictures"):
            if place.is_dir():
                remove_stale_temporaries(place)
        demand_room(folder / "probe", room)
    except OSError as error:
        reason = why(error)
        raise UserError(
            f"--save={folder}: cannot write a checkpoint of {room / 1e6:.0f} MB there: {reason}"
        ) from error


def keep_earlier(path: Path) -> Path:
    """Give the checkpoint of an earlier run a name with its date, beside its present one.

    Raises OSError where the folder takes no further file.
    """
    saved = datetime.fromtimestamp(path.stat().st_mtime)
    stem = f"{path.stem}_{saved:%Y-%m-%d_%H%M%S}"
    for number in itertools.count(1):
        dated = path.with_name(f"{stem}{_numbered(number)}{path.suffix}")
        try:
            os.link(path, dated)
        except FileExistsError:
            if dated.samefile(path):
                return dated
        except OSError:  # a file system without hard links
            with open(path, "rb") as source, atomic_write(dated) as file:
                shutil.copyfileobj(source, file)
            return dated
        else:
            return dated
    raise AssertionError("there is always a next number")


def keep_earlier_pictures(folder: Path, pictures: list[Path], stem: str) -> Path:
    """Move an earlier run's pictures to a folder of their own below `folder`, named by their date.

    Raises OSError where that fails.
    """
    made = datetime.fromtimestamp(max(path.stat().st_mtime for path in pictures))
    for number in itertools.count(1):
        dated = folder / f"{stem}_{made:%Y-%m-%d_%H%M%S}{_numbered(number)}"
        with suppress(FileExistsError):
            dated.mkdir()
            for path in pictures:
                path.rename(dated / path.name)
            return dated
    raise AssertionError("there is always a next number")


def _numbered(number: int) -> str:
    return f"_{number}" if number > 1 else ""
