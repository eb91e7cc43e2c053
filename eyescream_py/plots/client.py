"""Requests to Visdom's HTTP interface, each with a time limit.

visdom's own client waits for ever on a frozen server and prints a traceback for each call that a
missing one does not answer; its wire format is a JSON object per window, so it is spoken here.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import http.client
import io
import json
import math
import re
import socket
import threading
import urllib.parse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from eyescream_py.system.errors import UserError
from eyescream_py.system.threads import start_thread

TIMEOUT_S = 3.0  # for a whole request and its answer
MAX_ANSWER = 1 << 20  # bytes; a page has 3 kB
LOCKED = "X-Eyescream-Visdom"  # plots/page.py sends it with every refusal
_MOVED = (301, 302, 303, 307, 308)
_PLAIN = re.compile(r"[\w./-]*", re.ASCII)  # of a base URL
_IPV6 = re.compile(r"[\da-f.]*:[\da-f.]*:[\da-f.:]*", re.ASCII | re.IGNORECASE)  # no brackets
_NAME = re.compile(r"[\w.:-]+")  # of a host; colons in an IPv6 address
# Panes of this width stand three in a row on a page of 1400 px.
PANE_WIDTH, _CURVE_HEIGHT, _TITLE_HEIGHT = 440, 275, 20
_LEGEND_WIDTH, _LEGEND_ROW, _BUTTONS_HEIGHT = 370, 19, 26
_LETTER, _MARK = 7, 45  # of a name in the legend: pixels per letter, and of the line before it
_GAP, _GAP_SHADE = 1, 255  # pixels between pictures, before the grid is enlarged


class Listener(enum.Enum):
    """What was found at an address."""

    NOBODY = enum.auto()
    VISDOM = enum.auto()
    LOCKED = enum.auto()  # a Visdom of this package whose key is another one
    LOGIN = enum.auto()  # asks for a name and a password
    SILENT = enum.auto()  # takes a connection and does not answer in time
    STRANGER = enum.auto()


class RefusedError(http.client.HTTPException):
    """The server answered, and did not take what it was sent."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True)
class PlotFlags:
    """What a command calls the flags that choose its Visdom, for its error messages."""

    server: str = "--visdom_server"
    port: str = "--visdom_port"
    off: str = "--noplot"


FACES = PlotFlags()


@dataclass(frozen=True)
class Address:
    """Where a Visdom server is, or may be started. `base` comes before every path: empty, or a
    slash and the server's key or base URL."""

    host: str
    port: int
    secure: bool = False
    base: str = ""

    @classmethod
    def parse(cls, server: str, port: int, flags: PlotFlags = FACES) -> Address:
        """`http://host`, `https://host/base` or `host`; raises UserError naming the flag at
        fault."""
        if not 1 <= port <= 65535:
            raise UserError(f"{flags.port}={port}: give a number from 1 to 65535")
        try:
            typed = f"[{server}]" if _IPV6.fullmatch(server) else server
            url = urllib.parse.urlsplit(typed if "://" in typed else f"http://{typed}")
            host, typed_port = url.hostname, url.port
            (host or "").encode("idna")  # what the resolver will be asked for
        except ValueError:
            url, host, typed_port = urllib.parse.urlsplit(""), None, None
        odd = url.username or url.query or url.fragment or not _PLAIN.fullmatch(url.path)
        if (
            not host
            or not _NAME.fullmatch(host)
            or typed_port
            or odd
            or url.scheme not in ("http", "https")
        ):
            raise UserError(
                f"{flags.server}={server}: give a name like http://localhost, and the port with "
                f"{flags.port}"
            )
        return cls(host, port, url.scheme == "https", url.path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether a server started on this machine's loopback address answers here."""
        return self.host in ("localhost", "127.0.0.1") and not self.secure

    def with_key(self, key: str) -> Address:
        """The same server below the path that its key opens; without a key, at its root."""
        return replace(self, base=f"/{key}" if key else "")

    def page(self, env: str) -> str:
        """The address of an environment's page."""
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{self._authority}{self.base}/env/{urllib.parse.quote(env)}"

    def socket(self, path: str) -> str:
        """The address of one of the server's sockets."""
        scheme = "wss" if self.secure else "ws"
        return f"{scheme}://{self._authority}{self.base}/{path}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        """A connection, not opened yet, whose every wait ends after TIMEOUT_S seconds."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=TIMEOUT_S)

    def probe(self) -> Listener:
        """Find out who listens, within TIMEOUT_S seconds. OSError where no thread can be had."""
        found = [Listener.SILENT]
        # In a thread: looking up a name takes what the system's resolver takes, minutes at worst,
        # and each of its addresses has a time limit of its own.
        asking = threading.Thread(target=lambda: found.append(self._ask()), daemon=True)
        start_thread(asking)
        asking.join(TIMEOUT_S)
        return found[-1]

    def _ask(self) -> Listener:
        connection = self.connection()
        try:
            response, page = exchange(connection, "GET", f"{self.base}/")
            return _judged(response, page.lower(), f"{self.base}/env/")
        except TimeoutError:
            return Listener.SILENT
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError, ValueError):
            return Listener.STRANGER  # ValueError: it leads to an address that is none
        except OSError:
            return Listener.NOBODY
        finally:
            connection.close()


def _judged(response: http.client.HTTPResponse, page: bytes, environments: str) -> Listener:
    """Who answers a request for the first page so; `environments`: where a Visdom leads."""
    moved = urllib.parse.urlsplit(response.getheader("Location") or "").path
    if response.getheader(LOCKED):
        return Listener.LOCKED
    if response.status in _MOVED and moved.startswith(environments):
        return Listener.VISDOM
    if response.status == http.HTTPStatus.UNAUTHORIZED or (
        response.status in _MOVED and "login" in moved.lower()
    ):
        return Listener.LOGIN
    if response.status == http.HTTPStatus.OK and b"visdom" in page:
        return Listener.LOGIN if b"<title>visdom login" in page else Listener.VISDOM
    return Listener.STRANGER


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request and its whole answer, at most MAX_ANSWER bytes and TIMEOUT_S seconds in all.

    A server that drips bytes would renew a socket's own time limit with each of them: a timer cuts
    the connection instead. Raises TimeoutError, other OSErrors, HTTPException.
    """
    expired = threading.Event()
    if connection.sock is None:
        connection.connect()
    timer = threading.Timer(TIMEOUT_S, _cut, (connection.sock, expired))
    timer.daemon = True
    start_thread(timer)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read(MAX_ANSWER)
        if not response.isclosed() and response.read(1):
            raise http.client.HTTPException("an endless answer")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        if expired.is_set():
            raise TimeoutError("no whole answer in time") from error
        raise
    except ValueError as error:  # Python's, of a piece of negative length
        connection.close()
        raise http.client.HTTPException("an answer that is none") from error
    finally:
        timer.cancel()
    return response, content


def _cut(sock: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def post(connection: http.client.HTTPConnection, base: str, message: dict[str, Any]) -> None:
    """Show one window. Raises OSError or HTTPException (RefusedError with its status) when the
    server did not take it."""
    body = json.dumps(message, allow_nan=False)
    response, _ = exchange(connection, "POST", f"{base}/events", body)
    if response.status != http.HTTPStatus.OK:
        raise RefusedError(response.status)


def picture_grid(pictures: np.ndarray, columns: int) -> np.ndarray:
    """(N,C,H,W) uint8 -> one (height,width,C) picture, row by row from the top left.

    Raises ValueError for other shapes, for no pictures, and for C other than 1 or 3.
    """
    if pictures.ndim != 4 or 0 in pictures.shape or pictures.shape[1] not in (1, 3) or columns < 1:
        raise ValueError(f"no pictures (N,C,H,W) of 1 or 3 channels: {pictures.shape}")
    N, C, H, W = pictures.shape
    columns = min(columns, N)
    rows = math.ceil(N / columns)
    cells = np.full((rows * columns, H + _GAP, W + _GAP, C), _GAP_SHADE, dtype=np.uint8)
    cells[:N, :H, :W] = pictures.transpose(0, 2, 3, 1)
    grid = cells.reshape(rows, columns, H + _GAP, W + _GAP, C).swapaxes(1, 2)
    return grid.reshape(rows * (H + _GAP), columns * (W + _GAP), C)[:-_GAP, :-_GAP]


def picture_message(
    window: str, env: str, title: str, grid: np.ndarray, width: int = PANE_WIDTH
) -> dict[str, Any]:
    """The message that shows `grid` (height,width,C) uint8, enlarged to fill a pane of `width`."""
    enlarge = max(1, round(width / grid.shape[1]))
    image = Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)
    image = image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "png", compress_level=1)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    height = _TITLE_HEIGHT + round(width * image.height / image.width)
    return {
        "win": window,
        "eid": env,
        "data": [{"type": "image", "content": {"src": source, "caption": None}}],
        "opts": {"title": title, "width": width, "height": height},
    }


def curve_message(
    window: str,
    env: str,
    title: str,
    labels: tuple[str, str],
    series: dict[str, tuple[list[float], list[float]]],
) -> dict[str, Any]:
    """The message that shows `series`, name -> (x, y); a y that is not finite is a gap."""
    lines = [
        {
            "type": "scatter",
            "mode": "lines" if len(x) > 1 else "markers",
            "name": name,
            "x": x,
            "y": [value if math.isfinite(value) else None for value in y],
        }
        for name, (x, y) in series.items()
    ]
    legend = _LEGEND_ROW * _legend_rows(list(series))
    layout = {
        "showlegend": True,
        # between the buttons and the curves, which keep their height whatever is named
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0},
        "margin": {"l": 55, "r": 15, "t": _BUTTONS_HEIGHT + legend, "b": 45},
        "xaxis": {"title": labels[0]},
        "yaxis": {"title": labels[1]},
    }
    return {
        "win": window,
        "eid": env,
        "data": lines,
        "layout": layout,
        "opts": {"title": title, "width": PANE_WIDTH, "height": _CURVE_HEIGHT + legend},
    }


def _legend_rows(names: list[str]) -> int:
    """How many rows the page gives a legend of `names`: one where they fit, else columns as wide as
    the longest."""
    widths = [_MARK + _LETTER * len(name) for name in names]
    if sum(widths) <= _LEGEND_WIDTH:
        return 1
    return math.ceil(len(names) / max(1, _LEGEND_WIDTH // max(widths)))
