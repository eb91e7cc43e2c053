"""Visdom's own server as a child process: on 127.0.0.1 only, ending with the run that started it.

`python -m eyescream_py.plots.server PORT` serves until its standard input closes, which the
system does when the parent ends in whatever way. Its state lives in a private temporary folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from eyescream_py.plots.assets import ensure_assets, read_manifest, static_folder
from eyescream_py.system.errors import UserError

ADDRESS = "127.0.0.1"
_RESTART_PAUSE_S = 15.0
_MAX_FAILED_STARTS = 3


class ServerProcess:
    """The server that a run owns; started again when it dies, given up when it never lives."""

    def __init__(self, port: int) -> None:
        self.port = port
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
            print("Plots are off: the Visdom server ends as soon as it is started.", flush=True)
            return
        self._reap()
        self._failed_starts += 1
        self._last_start = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__, str(self.port)],
            cwd=Path(__file__).parents[2],  # where the child finds this package
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is the run's to handle
        )

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
    """Serve until standard input closes; 0 then, 1 when the port cannot be had."""
    _complete_the_page()
    from tornado.ioloop import IOLoop

    loop = IOLoop.current()
    threading.Thread(target=_stop_with_parent, args=(loop,), daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="visdom-") as private:  # mode 0700
        try:
            _serve(port, private)
        except OSError as error:
            print(
                f"Visdom cannot listen on {ADDRESS}:{port} ({error.strerror}); "
                "--visdom_port chooses another port",
                file=sys.stderr,
            )
            return 1
    return 0


def _complete_the_page() -> None:
    static = static_folder()
    if static is None:
        return
    try:
        ensure_assets(read_manifest(), static)
    except UserError as error:
        print(error.message, file=sys.stderr)


def _stop_with_parent(loop: object) -> None:
    os.read(sys.stdin.fileno(), 1)
    loop.add_callback(loop.stop)  # type: ignore[attr-defined]


def _serve(port: int, env_path: str) -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]  # visdom imports it, the server never asks
    import tornado.websocket
    from visdom.server import app
    from visdom.server.handlers.socket_handlers import SocketHandler
    from visdom.server.run_server import start_server

    logging.disable()
    # visdom's settings are for its developers: no restart on changed files, no traceback pages.
    app.tornado_settings.update(autoreload=False, serve_traceback=False)
    # visdom lets every web site's scripts open its socket; tornado's own rule is the same origin.
    same_origin = tornado.websocket.WebSocketHandler.check_origin
    SocketHandler.check_origin = same_origin  # type: ignore[method-assign]
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        start_server(port=port, base_url="", env_path=env_path, bind_local=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
