"""Decoded pictures on disk: one raw file of uint8 rows and one JSON file that says what they were
made from.

A cache is used only when its JSON holds exactly the expected key and its raw file has the checksum
noted there; in every other case (changed folder, truncated, edited by hand, written by other code)
it is made anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eyescream_py.system.files import atomic_write, remove_stale_temporaries, reserve
from eyescream_py.system.folders import make_folder
from eyescream_py.system.text import read_bounded

MOST_READ = 1 << 30  # bytes of rows that are held in memory


def cached_rows(
    stem: Path,
    key: dict[str, Any],
    shape: tuple[int, ...],
    fill: Callable[[np.ndarray], dict[str, Any]],
) -> tuple[np.ndarray, dict[str, Any]]:
    """The uint8 rows for `key`, from `stem`.u8, and the notes that `fill` returned.

    They are read into memory, where nobody can cut them short; only those that might not fit there
    (MOST_READ) are mapped. On a miss `fill` writes the rows into a mapping of the new file, so that
    they are never held twice. Processes that ask for the same rows at once wait for the one that
    makes them. Raises OSError where the folder cannot be written or the disk is full; what `fill`
    raises goes through, and then no cache is left behind.
    """
    make_folder(stem.parent)
    with _locked(stem.with_name(stem.name + ".lock")):
        remove_stale_temporaries(stem.parent)
        found = _valid(stem, key, shape)
        if found is None:
            notes = _make(stem, key, shape, fill)
            # opened before another process may put rows of another key in their place
            found = _rows(_data(stem), shape), notes
        return found


def _data(stem: Path) -> Path:
    return stem.with_name(stem.name + ".u8")


def _record(stem: Path) -> Path:
    return stem.with_name(stem.name + ".json")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT  # for writing only, a pipe would be waited for
    with open(os.open(path, flags, 0o666), "r+b", buffering=0) as file:
        # Without locks (some network file systems) two processes may do the same work.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _valid(
    stem: Path, key: dict[str, Any], shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[str, Any]] | None:
    try:
        record = json.loads(read_bounded(_record(stem), most=None))
        if record["key"] != key or record["shape"] != list(shape):
            return None
        rows, notes = _rows(_data(stem), shape), record["notes"]
        return (rows, notes) if record["checksum"] == _checksum(rows, notes) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rows(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of a file, which writing into them leaves as it is. OSError."""
    size = int(np.prod(shape))
    cut = OSError(errno.EINVAL, f"no file of {size} bytes", str(path))
    if path.stat().st_size != size:
        raise cut
    if size > MOST_READ:
        return np.memmap(path, np.uint8, "c", shape=shape)
    rows = np.empty(shape, np.uint8)
    with path.open("rb") as file:
        if file.readinto(rows.reshape(-1).data) != size:
            raise cut
    return rows


def _checksum(rows: np.ndarray, notes: dict[str, Any]) -> str:
    """Of the rows and of what is noted about them."""
    digest = hashlib.blake2b(json.dumps(notes, sort_keys=True).encode(), digest_size=16)
    digest.update(rows.reshape(-1).data)
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
        checksum = _checksum(rows, notes)
    record = {"key": key, "shape": list(shape), "checksum": checksum, "notes": notes}
    with atomic_write(_record(stem)) as file:
        file.write(json.dumps(record, indent=1).encode())
    return notes
