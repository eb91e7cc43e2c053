"""A page from another port, in a real Chromium: it can neither read nor write a run's plots."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.chromium import CHROMIUM, Tab, open_tab
from tests.plots.servers import running_server
from tests.plots.test_plots import windows

KEY = "s" * 24
EVENT = {"eid": "main", "win": "planted", "data": [{"type": "scatter"}], "layout": {}, "opts": {}}
TRIES = """
(async () => {
  const base = 'http://127.0.0.1:PORT/KEY', seen = {};
  const event = 'EVENT';
  const note = async (name, work) => {
    try { seen[name] = await work(); } catch (error) { seen[name] = 'refused'; }
  };
  await note('read', async () => (await fetch(base + '/env/main')).text());
  await note('read opaque', async () => (await fetch(base + '/env/main', {mode: 'no-cors'})).type);
  await note('write', async () => (await fetch(base + '/events', {
    method: 'POST', mode: 'no-cors', headers: {'Content-Type': 'text/plain'}, body: event})).type);
  await note('write json', async () => (await fetch(base + '/events', {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: event})).text());
  await note('socket', () => new Promise((resolve, reject) => {
    const socket = new WebSocket(base.replace('http', 'ws') + '/socket');
    socket.onmessage = message => resolve(message.data);
    socket.onerror = reject;
  }));
  await note('frame', () => new Promise(resolve => {
    const frame = document.createElement('iframe');
    frame.src = base + '/env/main';
    frame.onload = () => {
      try { resolve(frame.contentDocument.body.innerText); } catch (error) { resolve('refused'); }
    };
    document.body.append(frame);
  }));
  const form = document.createElement('form');
  form.method = 'POST'; form.action = base + '/events'; form.enctype = 'text/plain';
  form.target = 'elsewhere';
  const field = document.createElement('input');
  field.name = event.slice(0, -1) + ',"x":"'; field.value = '"}';
  form.append(field); document.body.append(form); form.submit();
  await new Promise(resolve => setTimeout(resolve, 1000));
  window.seen = seen;
})()
"""


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<body>a page of somebody else</body>")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def stranger() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def visdom() -> Iterator[int]:
    with running_server(KEY) as port:
        yield port


def outcome(tab: Tab, port: int) -> dict[str, str]:
    """What each try came to, from the page that `tab` shows."""
    script = TRIES.replace("PORT", str(port)).replace("KEY", KEY)
    tab.evaluate(script.replace("EVENT", json.dumps(EVENT)))
    tab.wait_for("window.seen !== undefined", 30)
    return tab.evaluate("window.seen")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_page_from_another_port_and_our_own(stranger: int, visdom: int, tmp_path: Path) -> None:
    with open_tab(f"http://127.0.0.1:{stranger}/", tmp_path / "stranger") as tab:
        tab.wait_for("document.body.innerText.includes('somebody else')", 30)
        seen = outcome(tab, visdom)
    # Even with the key, which no other page can know: the origin alone is refused.
    assert set(seen) == {"read", "read opaque", "write", "write json", "socket", "frame"}
    assert set(seen.values()) <= {"refused", "opaque"}, seen
    assert seen["read"] == seen["write json"] == seen["socket"] == seen["frame"] == "refused"
    assert "planted" not in windows(visdom, "main")

    with open_tab(f"http://127.0.0.1:{visdom}/{KEY}/env/main", tmp_path / "own") as tab:
        tab.wait_for("document.body.innerText.includes('visdom')", 30)
        seen = outcome(tab, visdom)
        tab.wait_for("document.querySelectorAll('.react-grid-item').length > 0", 30)
    assert "visdom" in seen["read"]
    assert json.loads(seen["socket"])["command"] == "register"
    assert "planted" in windows(visdom, "main")
