"""What a person can meet outside of a command's own work, where Python would answer with a
traceback: Ctrl-C while modules are imported and when the work is done, and a package that is not
installed. Imports nothing of the package, nor click.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType

OLDEST = (3, 11)  # Python
CODE = 128 + signal.SIGINT  # what a shell says of a command that Ctrl-C ended


def quiet() -> None:
    """Let Ctrl-C end this process without a word, as the system does, and a missing package with
    one line; what is started as a program calls it before it imports anything else. A Ctrl-C that
    is ignored, as behind `&`, stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.excepthook = _told


def _told(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """An error that nobody caught, with Python's traceback; of a missing package one line."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if kind is not ModuleNotFoundError or name in ("", "eyescream_py"):
        sys.__excepthook__(kind, error, traceback)
        return
    python = f"{sys.executable} (Python {sys.version_info.major}.{sys.version_info.minor})"
    print(
        f"Error: Python 3.11 to 3.14 is needed, this is {python}"
        if sys.version_info < OLDEST
        else f"Error: {python} lacks the package {name}: pip install -r requirements.txt; or make "
        "install, then .venv/bin/python",
        file=sys.stderr,
    )
    raise SystemExit(2)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """What a command works in: Ctrl-C is KeyboardInterrupt there, so that files are put in order on
    the way out, and ends the process with one line and CODE.
    """
    was_quiet = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    )
    try:
        if was_quiet:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C.", file=sys.stderr)
        raise SystemExit(CODE) from None
    finally:
        if was_quiet:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
