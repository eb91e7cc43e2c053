"""The key of a run's Visdom server: who knows it may read and write, nobody else.

It is part of every address of the server, as in the line that a run prints. A further run of the
same user finds it in a file that only that user can read.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from eyescream_py.system.files import atomic_write
from eyescream_py.system.locks import Lock

_KEY = re.compile(r"[\w-]{16,64}")


def new_key() -> str:
    """A random word of 24 characters, which a page of the server must know."""
    return secrets.token_urlsafe(18)


def read_key(port: int) -> str:
    """The key of this user's server at `port`; empty where there is none, or where the file could
    be another user's."""
    try:
        with open(_file(port), "rb", opener=_no_link) as file:
            status = os.fstat(file.fileno())
            key = file.read(100).decode("ascii")
    except (OSError, ValueError):
        return ""
    ours = status.st_uid == os.getuid() and not status.st_mode & 0o077
    return key if ours and _KEY.fullmatch(key) else ""


def _no_link(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def write_key(port: int, key: str) -> None:
    """Keep the key for this user's other runs; where that is impossible they have no plots."""
    with contextlib.suppress(OSError):
        if _made_folder():
            with atomic_write(_file(port)) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(key.encode())


def _made_folder() -> bool:
    """Make this user's folder; False where it is another's: in /tmp anyone may have made it first.
    OSError."""
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    folder.chmod(0o700)
    return True


def claim(name: str) -> Lock | None:
    """Let this user's other processes see that this one shows something under `name`; None where
    that is impossible. Raises HeldError, which names the process, where one has claimed it."""
    try:
        made = _made_folder()
    except OSError:
        return None
    words = re.sub(r"[^\w.-]+", "_", name)[:150]
    return Lock(_folder() / f"claim_{words}") if made else None


def release(lock: Lock) -> None:
    """Give a claim up."""
    lock.release()
    with contextlib.suppress(OSError):
        _folder().rmdir()


def remove_key(port: int, key: str) -> None:
    """Forget the key, unless another server has taken the port since."""
    if read_key(port) == key:
        with contextlib.suppress(OSError):
            _file(port).unlink()
            _folder().rmdir()  # fails, as it should, where other servers have keys


def _file(port: int) -> Path:
    return _folder() / f"visdom_{port}"


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = runtime if os.path.isdir(runtime) and os.access(runtime, os.W_OK) else None
    return Path(base or tempfile.gettempdir()) / f"eyescream_py-{os.getuid()}"
