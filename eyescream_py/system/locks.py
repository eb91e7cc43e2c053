"""One writer per file: two runs in one folder would replace each other's work without a word."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from eyescream_py.system.errors import UserError
from eyescream_py.system.voice import printable

_UNSUPPORTED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_COMMAND_SHOWN = 80
_HOLDER_BYTES = 300  # of a process's number and its machine's name


class HeldError(OSError):
    """Another process, `holder` in words, is writing the file."""

    def __init__(self, holder: str, path: Path) -> None:
        super().__init__(errno.EWOULDBLOCK, f"{holder} is writing it", str(path))
        self.holder = holder


class Lock:
    """The lock of `path`, a file that this process is going to write.

    It is the system's (flock) on `.NAME.lock` beside it: it goes with its process, however that
    ends. Where the file system knows no locks, or forbids writing, there is none and nothing fails.
    Raises HeldError, which names the process that holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, path.with_name(f".{path.name}.lock")
        self._descriptor = _locked(self._lock, path)
        self._moves = 0

    def follow(self) -> int:
        """See that the lock's file is the one that was locked. How often it was not (it was
        removed, or its folder renamed), so that what is in its folder may be another process's;
        the one there now is ours then, where it can be made. Raises HeldError where a process has
        it.
        """
        if self._descriptor is not None and not _is_same(self._descriptor, self._lock):
            now = _locked(self._lock, self.path)
            self._moves += 1
            if now is not None:  # else the old one stays, by which the next call tries again
                os.close(self._descriptor)
                self._descriptor = now
        return self._moves

    def release(self) -> None:
        """Let the lock go, and take its file away where it is ours; a second time is none."""
        if self._descriptor is None:
            return
        # Removed while it is held: who waits for it finds a file that is no longer there.
        if _is_same(self._descriptor, self._lock):
            with contextlib.suppress(OSError):
                self._lock.unlink()
        os.close(self._descriptor)
        self._descriptor = None


@contextlib.contextmanager
def writing(path: str | Path, remedy: str) -> Iterator[Lock]:
    """Hold the `Lock` of `path` until the block ends. Raises UserError, which names the process
    that holds it and ends with `remedy`, at once.
    """
    path = Path(path)
    try:
        lock = Lock(path)
    except HeldError as error:
        raise UserError(f"{error.holder} is writing {path}; {remedy}") from None
    try:
        yield lock
    finally:
        lock.release()


@contextlib.contextmanager
def alone_in(folder: str | Path, patience_s: float = 1.0) -> Iterator[None]:
    """Let one process at a time change a file that several append to; for moments only.

    The lock is that of the folder itself. Where it cannot be had in `patience_s` seconds (a
    stopped process, a file system without locks) the block runs all the same.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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


def _locked(lock: Path, path: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                return None
            raise HeldError(holder, path) from None
        if _is_same(descriptor, lock):
            break
        os.close(descriptor)  # its holder removed it between our two calls
    with contextlib.suppress(OSError):  # a full disk: the lock holds, it only names nobody
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
    return descriptor


def _is_same(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock, follow_symlinks=False))
    except OSError:
        return False


def _holder(descriptor: int) -> str:
    told = os.pread(descriptor, _HOLDER_BYTES, 0).decode("ascii", "replace")
    text, _, host = (part.strip() for part in told.partition(" "))
    if not text.isdigit():
        return "another process"
    if host not in ("", socket.gethostname()):  # a folder that machines or containers share
        return f"process {text} on {printable(host)}"
    try:
        words = Path(f"/proc/{text}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return f"process {text}"
    command = printable(" ".join(words.replace("\0", " ").split()))
    shown = command[:_COMMAND_SHOWN] + ("..." if len(command) > _COMMAND_SHOWN else "")
    return f"process {text} ({shown})" if shown else f"process {text}"
