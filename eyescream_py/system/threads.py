"""Threads that a system may refuse to start: its users have a limit (`ulimit -u`)."""

from __future__ import annotations

import errno
import threading

from eyescream_py.system.errors import UserError
from eyescream_py.system.voice import counted

NO_THREAD = "the system starts no further thread for this user; raise the limit (ulimit -u)"


def start_thread(thread: threading.Thread) -> None:
    """Start it. Raises OSError where the system does not."""
    try:
        thread.start()
    except RuntimeError as error:
        if not is_refused(error):
            raise
        raise OSError(errno.EAGAIN, NO_THREAD) from error


def is_refused(error: BaseException) -> bool:
    """Whether this is Python's error where the system starts no further thread."""
    return str(error) == "can't start new thread"


def demand_threads(count: int, needed_by: str) -> None:
    """See that so many more threads can be had: OpenMP, which starts its own later, ends the whole
    program where it gets none. Raises UserError that begins with `needed_by`."""
    end = threading.Event()
    waiting: list[threading.Thread] = []
    try:
        while len(waiting) < count:
            thread = threading.Thread(target=end.wait, daemon=True)
            start_thread(thread)
            waiting.append(thread)
    except OSError as error:
        room = counted(len(waiting), "thread")
        raise UserError(
            f"{needed_by}: the system starts only {room} more for this user; give fewer, or raise "
            "the limit (ulimit -u)"
        ) from error
    finally:
        end.set()
        for thread in waiting:
            thread.join()
