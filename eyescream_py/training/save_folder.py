"""SAVE, before a run counts on it: made, cleaned, and with room for a checkpoint."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import remove_stale_temporaries


def prepare_folder(folder: Path, name: str, room: int) -> None:
    """Make SAVE, clear what killed writers left there, and see that a checkpoint `name` of `room`
    bytes can be written.

    Raises UserError where it cannot.
    """
    for path in (folder / name, folder / f"{name}.old"):
        if path.is_dir():
            raise UserError(f"--save={folder}: {path} is a folder; remove it or save elsewhere")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / "pictures"):
            if place.is_dir():
                remove_stale_temporaries(place)
        probe = folder / f".probe.{os.getpid()}.tmp"
        descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            _reserve(descriptor, room)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--save={folder}: cannot write a checkpoint of {room / 1e6:.0f} MB there: {reason}"
        ) from error


def _reserve(descriptor: int, room: int) -> None:
    with suppress(AttributeError):  # not every system can reserve
        try:
            os.posix_fallocate(descriptor, 0, max(room, 1))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
