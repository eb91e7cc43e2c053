"""Decoded pictures on disk: one raw file of uint8 rows and one JSON file that says what they were
made from.

A cache is used only when its JSON holds exactly the expected key and its raw file has the checksum
noted there; in every other case (changed folder, truncated, edited by hand, written by other code)
it is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eyescream_py.system.files import atomic_write, open_to_read, remove_stale_temporaries, reserve
from eyescream_py.system.folders import make_folder
from eyescream_py.system.text import read_bounded

CHUNK = 1 << 24


def cached_rows(
    stem: Path,
    key: dict[str, Any],
    shape: tuple[int, ...],
    fill: Callable[[np.ndarray], dict[str, Any]],
) -> tuple[np.ndarray, dict[str, Any]]:
    """The uint8 rows for `key`, memory-mapped from `stem`.u8, and the notes that `fill` returned.

    On a miss `fill` writes the rows into a mapping of the new file, so that they are never held
    twice. Processes that ask for the same rows at once wait for the one that makes them. Raises
    OSError where the folder cannot be written or the disk is full; what `fill` raises goes
    through, and then no cache is left behind.
    """
    make_folder(stem.parent)
    with _locked(stem.with_name(stem.name + ".lock")):
        remove_stale_temporaries(stem.parent)
        notes = _valid_notes(stem, key, shape)
        if notes is None:
            notes = _make(stem, key, shape, fill)
        # mapped before another process may put rows of another key in their place
        return np.memmap(_data(stem), np.uint8, "c", shape=shape), notes


def _data(stem: Path) -> Path:
    return stem.with_name(stem.name + ".u8")


def _record(stem: Path) -> Path:
    return stem.with_name(stem.name + ".json")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC  # for writing only, a pipe would be waited for
    with open(os.open(path, flags, 0o666), "r+b", buffering=0) as file:
        # Without locks (some network file systems) two processes may do the same work.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _valid_notes(stem: Path, key: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any] | None:
    try:
        record = json.loads(read_bounded(_record(stem), most=None))
        fits = (
            record["key"] == key
            and record["shape"] == list(shape)
            and _data(stem).stat().st_size == int(np.prod(shape))
            and record["checksum"] == _checksum(_data(stem), record["notes"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record["notes"] if fits else None


def _checksum(path: Path, notes: dict[str, Any]) -> str:
    """Of the rows and of what is noted about them."""
    digest = hashlib.blake2b(json.dumps(notes, sort_keys=True).encode(), digest_size=16)
    with open_to_read(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _make(
    stem: Path,
    key: dict[str, Any],
    shape: tuple[int, ...],
    fill: Callable[[np.ndarray], dict[str, Any]],
) -> dict[str, Any]:
    with atomic_write(_data(stem)) as file:
        # A full disk is an OSError here, but would kill the process inside a mapping.
        reserve(file, int(np.prod(shape)))
        rows = np.memmap(file.name, np.uint8, "r+", shape=shape)
        notes = fill(rows)
        rows.flush()
        checksum = _checksum(Path(file.name), notes)
    record = {"key": key, "shape": list(shape), "checksum": checksum, "notes": notes}
    with atomic_write(_record(stem)) as file:
        file.write(json.dumps(record, indent=1).encode())
    return notes
