"""Visdom's server as a child process: on 127.0.0.1 only, ending with the run that started it.

`python -m eyescream_py.plots.server PORT` reads its key from standard input and serves until that
closes, which the system does when the parent ends in whatever way.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from eyescream_py.plots.assets import ensure_assets, read_manifest, static_folder
from eyescream_py.plots.keys import remove_key, write_key
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.threads import start_thread
from eyescream_py.system.voice import say, warn

ADDRESS = "127.0.0.1"
_RESTART_PAUSE_S = 15.0
_MAX_FAILED_STARTS = 3


class ServerProcess:
    """The server that a run owns; started again when it dies, given up when it never lives."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.given_up = False
        self._failed_starts = 0
        self._last_start = -_RESTART_PAUSE_S
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def was_started(self) -> bool:
        """Whether this run ever had a server of its own."""
        return self._process is not None

    def ensure_running(self) -> None:
        """Start the server unless it runs, was tried a moment ago, or was given up."""
        if self.pid or self.given_up or time.monotonic() - self._last_start < _RESTART_PAUSE_S:
            return
        if self._failed_starts >= _MAX_FAILED_STARTS:
            self.given_up = True
            say("Plots are off: the Visdom server ends as soon as it is started.")
            return
        self._reap()
        self._failed_starts += 1
        self._last_start = time.monotonic()
        try:
            self._start()
        except OSError as error:  # no further process, no memory for one
            say(f"Visdom cannot be started: {why(error)}")

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__, str(self.port)],
            cwd=Path(__file__).parents[2],  # where the child finds this package
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is the run's to handle
        )
        if self._process.stdin:  # not on the command line, where every user could read it
            self._process.stdin.write(f"{self.key}\n".encode())
            self._process.stdin.flush()

    def answered(self) -> None:
        """Note that the server works, so that a later death is a first failure again."""
        self._failed_starts = 0

    def stop(self, patience_s: float = 2.0) -> None:
        """End the server; it is killed when it does not go within `patience_s` seconds."""
        if self._process is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()


def main(port: int) -> int:
    """Serve until standard input, whose first line is the key, closes; 0 then, 1 when the port, or
    a thread, cannot be had."""
    key = sys.stdin.readline().strip()
    _complete_the_page()
    # visdom imports torch, which the server never asks for.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from tornado.ioloop import IOLoop

    from eyescream_py.plots.page import listen

    logging.disable()
    loop = IOLoop.current()
    try:
        start_thread(threading.Thread(target=_stop_with_parent, args=(loop,), daemon=True))
    except OSError as error:
        warn(f"Visdom cannot be started: {why(error)}")
        return 1
    try:
        listen(port, key)
    except OSError as error:
        warn(f"Visdom cannot listen on {ADDRESS}:{port} ({why(error)}): choose another port")
        return 1
    write_key(port, key)
    try:
        loop.start()
    finally:
        remove_key(port, key)
    return 0


def _complete_the_page() -> None:
    static = static_folder()
    if static is None:
        return
    try:
        ensure_assets(read_manifest(), static)
    except UserError as error:
        warn(error.message)


def _stop_with_parent(loop: object) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    loop.add_callback(loop.stop)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
