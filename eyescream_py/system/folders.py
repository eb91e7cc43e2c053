"""Folders that commands make, and take away again where nothing came of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from eyescream_py.system.errors import UserError
from eyescream_py.system.voice import say

_MADE = __name__  # in a click context's `meta`: what the command has made, outermost first


def make_folder(folder: str | Path, new: bool = False) -> Path:
    """Make a folder, and those above it, which may be there already (with `new` it may not).

    Where a command does so and then ends in an error, those of them that are empty go again.
    Raises OSError.
    """
    folder = Path(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    context = click.get_current_context(silent=True)
    if context is not None:  # before it is made, since of several some may be when one fails
        context.meta.setdefault(_MADE, []).extend(reversed(missing))
    folder.mkdir(parents=True, exist_ok=not new)
    return folder


def demand_empty(folder: str | Path) -> None:
    """UserError where `folder` holds anything, or is a file."""
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; give a new folder, or move its files away")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file stands where a folder is needed")


def new_folder(folder: str | Path) -> Path:
    """Make `folder`, which may be there, empty: nothing in it is ever overwritten. UserError."""
    demand_empty(folder)
    return make_folder(folder)


def make_again(folder: str | Path) -> None:
    """Make a run's folder where someone removed it in mid-run. OSError where that fails."""
    folder = Path(folder)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        say(f"The folder {folder} was removed or renamed: made again.")


@contextlib.contextmanager
def none_left_empty(context: click.Context) -> Iterator[None]:
    """Where the block ends in an error or is stopped, remove what `make_folder` made in it and
    nothing was written to."""
    try:
        yield
    except BaseException:
        for folder in reversed(context.meta.get(_MADE, [])):
            with contextlib.suppress(OSError):  # something is in it, or it is gone
                folder.rmdir()
        raise
