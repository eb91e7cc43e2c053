"""What Visdom's HTTP interface wants to hear, with a time limit on every word.

visdom's own client waits for ever on a frozen server and prints a traceback for each call that a
missing one does not answer; its wire format is a JSON object per window, so it is spoken here.
"""

from __future__ import annotations

import base64
import enum
import http.client
import io
import json
import math
import urllib.parse
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eyescream_py.system.errors import UserError

TIMEOUT_S = 3.0
# Panes of this width stand three in a row on a page of 1400 px.
_PANE_WIDTH, _CURVE_HEIGHT, _TITLE_HEIGHT = 440, 300, 20
_GAP, _GAP_SHADE = 1, 255  # pixels between pictures, before the grid is enlarged


class Listener(enum.Enum):
    """What was found at an address."""

    NOBODY = enum.auto()
    VISDOM = enum.auto()
    SILENT = enum.auto()  # takes a connection and does not answer in time
    STRANGER = enum.auto()


@dataclass(frozen=True)
class Address:
    """Where a Visdom server is, or may be started."""

    host: str
    port: int
    secure: bool = False

    @classmethod
    def parse(cls, server: str, port: int) -> Address:
        """`http://host`, `https://host` or `host`; raises UserError naming the flag at fault."""
        if not 1 <= port <= 65535:
            raise UserError(f"--visdom_port={port}: give a number from 1 to 65535")
        try:
            url = urllib.parse.urlsplit(server if "://" in server else f"http://{server}")
            host, typed_port = url.hostname, url.port
        except ValueError:
            host, typed_port = None, None
        if not host or typed_port or url.scheme not in ("http", "https"):
            raise UserError(
                f"--visdom_server={server}: give a name like http://localhost, and the port with "
                "--visdom_port"
            )
        return cls(host, port, url.scheme == "https")

    @property
    def is_local(self) -> bool:
        """Whether a server started on this machine's loopback address answers here."""
        return self.host in ("localhost", "127.0.0.1")

    def page(self, env: str) -> str:
        """The address of an environment's page."""
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{self.host}:{self.port}/env/{urllib.parse.quote(env)}"

    def connection(self) -> http.client.HTTPConnection:
        """A connection, not opened yet, whose every wait ends after TIMEOUT_S seconds."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=TIMEOUT_S)

    def probe(self) -> Listener:
        """Find out who listens, within about TIMEOUT_S seconds."""
        connection = self.connection()
        try:
            connection.request("GET", "/")
            page = connection.getresponse().read(100_000)
        except TimeoutError:
            return Listener.SILENT
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError):
            return Listener.STRANGER
        except OSError:
            return Listener.NOBODY
        finally:
            connection.close()
        return Listener.VISDOM if b"visdom" in page.lower() else Listener.STRANGER


def post(connection: http.client.HTTPConnection, message: dict[str, Any]) -> None:
    """Show one window. Raises OSError or HTTPException when the server did not take it."""
    body = json.dumps(message, allow_nan=False)
    connection.request("POST", "/events", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    if response.status != http.HTTPStatus.OK:
        raise http.client.HTTPException(f"status {response.status}")


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


def picture_message(window: str, env: str, title: str, grid: np.ndarray) -> dict[str, Any]:
    """The message that shows `grid` (height,width,C) uint8, enlarged to fill its pane."""
    enlarge = max(1, round(_PANE_WIDTH / grid.shape[1]))
    image = Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)
    image = image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "png", compress_level=1)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    height = _TITLE_HEIGHT + round(_PANE_WIDTH * image.height / image.width)
    return {
        "win": window,
        "eid": env,
        "data": [{"type": "image", "content": {"src": source, "caption": None}}],
        "opts": {"title": title, "width": _PANE_WIDTH, "height": height},
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
    layout = {
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.15},
        "margin": {"l": 55, "r": 15, "t": 30, "b": 45},
        "xaxis": {"title": labels[0]},
        "yaxis": {"title": labels[1]},
    }
    return {
        "win": window,
        "eid": env,
        "data": lines,
        "layout": layout,
        "opts": {"title": title, "width": _PANE_WIDTH, "height": _CURVE_HEIGHT},
    }
