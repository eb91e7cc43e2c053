"""What a page's sliders say, as it arrives: one thread listens, only the newest values count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable

from tornado.httpclient import HTTPError, HTTPRequest
from tornado.iostream import UnsatisfiableReadError
from tornado.websocket import WebSocketClosedError, WebSocketError, websocket_connect

from eyescream_py.plots.client import TIMEOUT_S, Address
from eyescream_py.plots.sliders import read_move
from eyescream_py.system.threads import start_thread

_RETRY_S = 0.5
_PING_S = 20  # a network that went away says nothing by itself
_MAX_MESSAGE = 1 << 16  # bytes; the values of 40 sliders have less than 2 kB
# what a server that is away, or a stranger's odd answer, raises
_PASSING = (
    OSError, HTTPError, WebSocketError, WebSocketClosedError, asyncio.TimeoutError,
    UnsatisfiableReadError,
)  # fmt: skip
# A server of this package, and Visdom's own, which also tells of what is none of our business.
_PATHS = ("moves", "vis_socket")


class Moves:
    """The newest values of one window's sliders. `address` is asked again for every connection:
    a server that was replaced may have another key."""

    def __init__(self, address: Callable[[], Address], env: str, window: str) -> None:
        self._address = address
        self._wanted = (env, window)
        self.connected = False
        self._newest: list[float] | None = None
        self._news = threading.Condition()  # guards the one above
        self._loop = asyncio.new_event_loop()
        self._listening = self._loop.create_task(self._listen())
        self._thread = threading.Thread(target=self._run, name="moves", daemon=True)
        start_thread(self._thread)

    def wait(self, seconds: float) -> list[float] | None:
        """The newest values that were not returned before; None after so many seconds without."""
        with self._news:
            self._news.wait_for(lambda: self._newest is not None, seconds)
            newest, self._newest = self._newest, None
            return newest

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._listening.cancel)
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        # a stranger's odd answer would be told in tracebacks, once a try
        logging.getLogger("tornado").addHandler(logging.NullHandler())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._listening)
        self._loop.close()

    async def _listen(self) -> None:
        while True:
            for path in _PATHS:
                # a server that is away, starting, or has no such path: all of it may pass
                with contextlib.suppress(*_PASSING):
                    await self._follow(path)
            await asyncio.sleep(_RETRY_S)

    async def _follow(self, path: str) -> None:
        """Take in what one connection says until it ends."""
        request = HTTPRequest(self._address().socket(path), connect_timeout=TIMEOUT_S)
        connecting = websocket_connect(
            request, max_message_size=_MAX_MESSAGE, ping_interval=_PING_S
        )
        line = await asyncio.wait_for(connecting, TIMEOUT_S)
        self.connected = True
        try:
            while (message := await line.read_message()) is not None:
                self._take(message)
        finally:
            self.connected = False
            line.close()

    def _take(self, message: str | bytes) -> None:
        try:
            move = read_move(json.loads(message))
        except (ValueError, RecursionError):
            return
        if move is None or move[:2] != self._wanted:
            return
        with self._news:
            self._newest = move[2]
            self._news.notify()
