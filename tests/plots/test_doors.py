"""Who may read and write at a run's Visdom server, and what a hostile server can do to a run."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websocket

from eyescream_py.plots import client
from eyescream_py.plots.client import Address, Listener, exchange
from eyescream_py.plots.keys import read_key, remove_key, write_key
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError
from tests.plots.servers import running_server
from tests.plots.test_plots import FACES, free_port, wait_until, windows
from tests.small_runs import FILES, SCRIPTS, invoke, pictures, use_small_networks

CURVE = {"eid": "run", "win": "w", "data": [{"type": "scatter"}], "layout": {}, "opts": {}}
KEY = "k" * 24


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server(KEY) as chosen:
        yield chosen


def ask(port: int, method: str, path: str, body: object = None, **headers: str) -> int:
    """The status of an answer; `Sec_Fetch_Site` becomes Sec-Fetch-Site."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, data, named)
        return connection.getresponse().status
    finally:
        connection.close()


def test_ours_may(port: int) -> None:
    assert ask(port, "POST", f"/{KEY}/events", CURVE) == 200
    assert ask(port, "GET", f"/{KEY}/env/run") == 200
    assert ask(port, "GET", f"/{KEY}/static/js/main.js") == 200
    assert ask(port, "GET", f"/{KEY}/env/run", Host=f"localhost:{port}") == 200
    by_link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask(port, "GET", f"/{KEY}/env/run", **by_link) == 200
    assert "w" in windows(port)


@pytest.mark.parametrize(
    "path", ["/", "/events", "/env/run", "/socket", "/static/js/main.js", "/wrong/env/run", "//",
             f"/{KEY[:-1]}/env/run", f"/{KEY}x/env/run", "/env/run?key=" + KEY],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_without_the_key_nothing(port: int, path: str, method: str) -> None:
    assert ask(port, method, path, CURVE if method == "POST" else None) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:8097", "Host": "127.0.0.1:PORT"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example:PORT"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": ""},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
@pytest.mark.parametrize("path", ["events", "env/run", "socket", "static/js/main.js"])
def test_other_sites_nothing_even_with_the_key(port: int, path: str, headers: dict) -> None:
    named = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
    assert ask(port, "GET", f"/{KEY}/{path}", **named) == 403
    assert ask(port, "POST", f"/{KEY}/{path}", CURVE, Content_Type="text/plain", **named) == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
@pytest.mark.parametrize("path", [f"/{KEY}/socket", "/socket", f"/{KEY}/vis_socket"])
def test_sockets_refuse_other_sites(port: int, path: str, origin: str) -> None:
    url = f"ws://127.0.0.1:{port}{path}"
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(url, timeout=60, origin=origin, http_no_proxy=["127.0.0.1"])


@pytest.mark.parametrize(
    "path", ["socket_wrap", "vis_socket", "vis_socket_wrap", "fork_env", "delete_env", "save",
             "update", "close", "win_exists", "win_data", "win_hash", "env_state", "error/x",
             "user/style.css", "env/..", "env/a/b", "env/%2e%2e%2fx", "env//etc/passwd",
             "static/../../../../../../etc/passwd", "static/%2e%2e/%2e%2e/VERSION"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_off(port: int, path: str) -> None:
    for method in ("GET", "POST"):
        status = ask(port, method, f"/{KEY}/{path}", {"eid": "main"} if method == "POST" else None)
        assert status in (403, 404, 405) or path == "env/.."


@pytest.mark.parametrize(
    "change",
    [{"eid": "../x"}, {"eid": "/etc/x"}, {"eid": "a/b"}, {"eid": ""}, {"eid": ".."}, {"eid": 7},
     {"eid": "x" * 200}, {"eid": None}, {"win": ""}, {"win": None}, {"data": []}, {"data": "x"},
     {"data": [{"type": "text", "content": "<script>alert(1)</script>"}]},
     {"data": [{"type": "properties", "content": []}]},
     {"data": [{"type": "image", "content": {"src": "https://evil.example/x.png"}}]},
     {"data": [{"type": "image",
                "content": {"src": "data:image/png;base64,", "caption": "<b>x</b>"}}]}],
)  # fmt: skip
def test_messages_that_are_no_windows_of_ours(port: int, change: dict) -> None:
    assert ask(port, "POST", f"/{KEY}/events", CURVE | change) == 400


def test_the_page_s_socket_takes_no_orders(port: int, tmp_path: Path) -> None:
    victim = tmp_path / "name.json"
    victim.write_text("{}")
    url = f"ws://127.0.0.1:{port}/{KEY}/socket"
    page = websocket.create_connection(
        url, timeout=60, suppress_origin=True, http_no_proxy=["127.0.0.1"]
    )
    page.recv()
    for order in ("delete_env", "save", "save_layouts", "close"):
        page.send(json.dumps({"cmd": order, "eid": str(tmp_path / "name"), "prev_eid": "main",
                              "data": {}}))  # fmt: skip
    page.close()
    assert ask(port, "POST", f"/{KEY}/env/%2F{tmp_path.name}", {"eid": str(victim)}) == 404
    assert victim.read_text() == "{}"
    assert ask(port, "POST", f"/{KEY}/events", CURVE) == 200


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_a_page_opened_before_the_first_window_waits_for_it(port: int) -> None:
    """Visdom's page begins with the environment that the server calls active, else with "main"."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    response, page = exchange(connection, "GET", f"/{KEY}/env/early-0a1b2c")
    connection.close()
    assert response.status == 200
    assert b"'early-0a1b2c'" in page.replace(b'"', b"'")


def test_a_large_post_takes_no_memory(port: int) -> None:
    """A body of 400 MB is refused by its length; one without a length at 16 MB."""
    pids = [int(p.name) for p in Path("/proc").glob("[0-9]*") if is_server(p, port)]
    before = resident_mb(pids[0])
    head = f"POST /{KEY}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    for kind in ("Content-Length: 400000000", "Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            raw.sendall(f"{head}{kind}\r\n\r\n".encode())
            try:
                for _ in range(100):
                    block = b"x" * (1 << 20)
                    raw.sendall(b"100000\r\n" + block + b"\r\n" if "chunked" in kind else block)
            except OSError:
                continue
            raise AssertionError("100 MB were taken")
    assert resident_mb(pids[0]) - before < 100


def test_a_page_that_sleeps_takes_no_memory_and_wakes_up_to_the_newest(port: int) -> None:
    """300 pictures of 0.5 MB for a tab that reads nothing: a long run's, or moved sliders'."""
    pid = next(int(p.name) for p in Path("/proc").glob("[0-9]*") if is_server(p, port))
    page = websocket.create_connection(
        f"ws://127.0.0.1:{port}/{KEY}/socket", timeout=60, suppress_origin=True,
        http_no_proxy=["127.0.0.1"],
    )  # fmt: skip
    sid = json.loads(page.recv())["data"]
    assert ask(port, "POST", f"/{KEY}/events", CURVE) == 200
    assert ask(port, "POST", f"/{KEY}/env/run", {"sid": sid}) == 200
    before = resident_mb(pid)
    picture = {"src": "data:image/png;base64," + "A" * (1 << 19), "caption": None}
    for number in range(300):
        shown = CURVE | {"data": [{"type": "image", "content": picture}]}
        shown |= {"win": f"w{number % 3}", "opts": {"title": f"{number}"}}
        assert ask(port, "POST", f"/{KEY}/events", shown) == 200
    assert resident_mb(pid) - before < 60
    titles: dict[str, str] = {}
    while titles.get("w2") != "299":
        told = json.loads(page.recv())
        titles |= {told["id"]: told["title"]} if told["command"] == "window" else {}
    assert titles == titles | {"w0": "297", "w1": "298"}
    page.close()


def is_server(process: Path, port: int) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"eyescream_py.plots.server" in words and str(port).encode() in words


class Server:
    """A server that writes what it likes to whoever connects."""

    def __init__(self, write: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.write = write
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(taken,), daemon=True).start()

    def _answer(self, taken: socket.socket) -> None:
        with taken:
            try:
                taken.recv(1 << 16)
                self.write(taken)
            except OSError:
                return


def endless(taken: socket.socket) -> None:
    taken.sendall(b"HTTP/1.1 200 OK\r\n\r\nvisdom")
    while True:
        taken.sendall(b"x" * (1 << 20))


def drip(taken: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"visdom" * 1000:
        taken.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("write", "found"), [(endless, Listener.STRANGER), (drip, Listener.SILENT)]
)
def test_a_hostile_server_costs_a_moment_and_no_memory(
    write: Callable[[socket.socket], None], found: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    server = Server(write)
    before, start = resident_mb(os.getpid()), time.monotonic()
    assert Address.parse("127.0.0.1", server.port).probe() is found
    connection = Address.parse("127.0.0.1", server.port).connection()
    with pytest.raises((OSError, http.client.HTTPException)):
        exchange(connection, "POST", "/events", "{}")
    assert time.monotonic() - start < 60  # the answers take minutes, or never end
    assert resident_mb(os.getpid()) - before < 50
    server.listener.close()


def test_a_name_that_is_looked_up_for_minutes_costs_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: end.wait(120) and [])
    start = time.monotonic()
    assert Address.parse("slow.example", 8097).probe() is Listener.SILENT
    assert time.monotonic() - start < 60
    end.set()


def answering(status: str, body: str = "") -> Server:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    return Server(lambda taken: taken.sendall(answer))


def test_a_page_of_errors_is_no_visdom() -> None:
    server = answering("500 Internal Server Error", "visdom fell over")
    with pytest.raises(UserError, match="not Visdom"):
        Plots.open(True, "127.0.0.1", server.port, "run")
    server.listener.close()


def test_a_server_with_a_login_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(taken: socket.socket) -> None:
        status = "200 OK" if not asked else "400 Bad Request"
        asked.append(status)
        taken.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nvisdom".encode())

    asked: list[str] = []
    monkeypatch.setattr("eyescream_py.plots.windows._RETRY_S", 0.05)
    server = Server(write)
    plots = Plots.open(True, "127.0.0.1", server.port, "run")
    plots.images(4, FACES, "faces")
    wait_until(lambda: len(asked) > 3)
    plots.close()
    said = capsys.readouterr().out
    assert said.count("takes nothing (status 400; does it ask for a login?)") == 1
    server.listener.close()


REAL_VISDOM = (
    "import sys; sys.modules['torch'] = None\nfrom visdom.server.run_server import main; main()"
)


@pytest.fixture
def with_login(tmp_path: Path) -> Iterator[int]:
    """The port of Visdom's own server with -enable_login."""
    chosen = free_port()
    (tmp_path / "visdom/.visdom").mkdir(parents=True)
    login = {"VISDOM_USE_ENV_CREDENTIALS": "1", "VISDOM_COOKIE": "c", "VISDOM_USERNAME": "u"}
    server = subprocess.Popen(
        [sys.executable, "-c", REAL_VISDOM, "-enable_login", "-bind_local", "-port", str(chosen)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **login, "VISDOM_PASSWORD": "p", "HOME": str(tmp_path / "visdom")},
    )  # fmt: skip
    try:
        wait_until(lambda: Address.parse("127.0.0.1", chosen).probe() is not Listener.NOBODY)
        yield chosen
    finally:
        server.kill()
        server.wait()


def test_a_run_goes_on_beside_a_real_server_with_a_login(
    with_login: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_networks(monkeypatch)
    assert ask(with_login, "POST", "/events", CURVE) == 400
    flags = [flag for flag in SCRIPTS["train"] if flag != "--noplot"]
    places = f"--save={tmp_path / 'run'}", f"--dataset={pictures(tmp_path, 'train')}"
    done = invoke("train", *flags, *places, "--epochs=1", f"--visdom_port={with_login}")
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if "Plots" in line or "Visdom" in line)
    assert line == (
        f"Plots are off: the server at 127.0.0.1:{with_login} asks for a login, which runs have "
        "not; --visdom_port chooses another port."
    )
    assert (tmp_path / "run" / FILES["train"]).is_file()


@pytest.mark.parametrize("status", ["401 Unauthorized", "302 Found\r\nLocation: /login?next=/"])
def test_a_login_before_any_server_is_told(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    server = answering(status)
    assert not Plots.open(True, "127.0.0.1", server.port, "run").is_on
    assert capsys.readouterr().out.count("asks for a login") == 1
    with pytest.raises(UserError, match=r"--explore: .* asks for a login"):
        Plots.open(True, "127.0.0.1", server.port, "run", needed_by="--explore")
    server.listener.close()


def test_another_user_s_server_means_no_plots(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eyescream_py.plots.windows.read_key", lambda port: "")
    assert not Plots.open(True, "127.0.0.1", port, "run").is_on
    assert "is another user's; --visdom_port" in capsys.readouterr().out


def test_keys_that_others_could_have_written_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    write_key(7, KEY)
    assert read_key(7) == KEY
    (file,) = tmp_path.rglob("visdom_7")
    file.chmod(0o644)
    assert read_key(7) == ""
    file.unlink()
    os.symlink("/etc/passwd", file)
    assert read_key(7) == ""
    write_key(7, KEY)
    remove_key(7, "another")
    assert read_key(7) == KEY
    remove_key(7, KEY)
    assert list(tmp_path.iterdir()) == []
