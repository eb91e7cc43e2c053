"""One writer per file: two runs in one folder would replace each other's work without a word."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from eyescream_py.system.errors import UserError
from eyescream_py.system.voice import printable

_UNSUPPORTED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_COMMAND_SHOWN = 80


@contextlib.contextmanager
def writing(path: str | Path, remedy: str) -> Iterator[None]:
    """Hold the lock of `path`, a file that this process is going to write, until the block ends.

    The lock is the system's (flock) on `.NAME.lock` beside it: it goes with its process, however
    that ends. Raises UserError, which names the process that holds it and ends with `remedy`, at
    once. Where the file system knows no locks, or forbids writing, the block runs without one.
    """
    path = Path(path)
    descriptor = _locked(path.with_name(f".{path.name}.lock"), path, remedy)
    try:
        yield
    finally:
        if descriptor is not None:
            # Removed while it is held: who waits for it finds a file that is no longer there.
            with contextlib.suppress(OSError):
                path.with_name(f".{path.name}.lock").unlink()
            os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder: str | Path, patience_s: float = 1.0) -> Iterator[None]:
    """Let one process at a time change a file that several append to; for moments only.

    The lock is that of the folder itself. Where it cannot be had in `patience_s` seconds (a
    stopped process, a file system without locks) the block runs all the same.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + patience_s
        while not _taken(descriptor) and time.monotonic() < end:
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Whether there is nothing to wait for: the lock is ours, or there are no locks here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _UNSUPPORTED
    return True


def _locked(lock: Path, path: Path, remedy: str) -> int | None:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                return None
            raise UserError(f"{holder} is writing {path}; {remedy}") from None
        if _is_same(descriptor, lock):
            break
        os.close(descriptor)  # its holder removed it between our two calls
    with contextlib.suppress(OSError):  # a full disk: the lock holds, it only names nobody
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _is_same(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock, follow_symlinks=False))
    except OSError:
        return False


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    if not text.isdigit():
        return "another process"
    try:
        words = Path(f"/proc/{text}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return f"process {text}"
    command = printable(" ".join(words.replace("\0", " ").split()))
    shown = command[:_COMMAND_SHOWN] + ("..." if len(command) > _COMMAND_SHOWN else "")
    return f"process {text} ({shown})" if shown else f"process {text}"
