"""Ctrl-C outside of a command's own work, where Python would answer it with a traceback: while
modules are imported, and when the work is done. Imports nothing of the package, nor click.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

CODE = 128 + signal.SIGINT  # what a shell says of a command that Ctrl-C ended


def quiet() -> None:
    """Let Ctrl-C end this process without a word, as the system does; what is started as a program
    calls it before it imports anything else. A Ctrl-C that is ignored, as behind `&`, stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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
