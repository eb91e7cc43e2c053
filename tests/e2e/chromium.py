"""A headless Chromium, driven through its DevTools socket: a page is looked at when it is ready."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0", "--window-size=1400,1300"),
)


class Tab:
    """One page."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._number = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a DevTools command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                return answer.get("result", {})  # none while a page gives way to the next

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer.get("result", {}).get("value")

    def wait_for(self, script: str, seconds: float) -> None:
        """Return when a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(script):
            assert time.monotonic() < end, f"never true in the page: {script}"
            time.sleep(0.2)

    def screenshot(self) -> bytes:
        """The visible part as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextlib.contextmanager
def open_tab(url: str, profile: Path) -> Iterator[Tab]:
    """Open `url` in a Chromium of its own, which ends with the block."""
    assert CHROMIUM is not None
    quiet = subprocess.DEVNULL
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            socket = websocket.create_connection(
                _address(profile), timeout=60, suppress_origin=True, http_no_proxy=["127.0.0.1"]
            )
            browser = Tab(socket)
            target = browser.call("Target.createTarget", url=url)["targetId"]
            root = _address(profile).partition("/devtools")[0]
            page = websocket.create_connection(
                f"{root}/devtools/page/{target}",
                timeout=60,
                suppress_origin=True,
                http_no_proxy=["127.0.0.1"],
            )
            yield Tab(page)
            page.close()
            browser.call("Browser.close")
            socket.close()
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _address(profile: Path) -> str:
    """The browser's DevTools socket, which it writes into its profile when it is up."""
    file = profile / "DevToolsActivePort"
    end = time.monotonic() + 60
    while not file.is_file() or file.read_text().count("\n") < 1:
        assert time.monotonic() < end, "Chromium does not come up"
        time.sleep(0.1)
    port, path = file.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{port}{path}"
