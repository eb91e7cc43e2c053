"""plots: what reaches Visdom, and that nothing about its server can stop or slow a run."""

from __future__ import annotations

import base64
import http.client
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import websocket
from PIL import Image

from eyescream_py.plots import contents
from eyescream_py.plots import windows as plots_room
from eyescream_py.plots.client import Address, Listener, PlotFlags, curve_message, picture_grid
from eyescream_py.plots.keys import read_key
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError

ROOT = Path(__file__).parents[2]
AT_ONCE_S = 1.0  # far below the three seconds for which the sender waits on a frozen server
FACES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def windows(port: int, env: str = "run") -> dict[str, Any]:
    """Every window of an environment, as the page gets them; empty while nobody answers."""
    try:
        return page_windows(port, env)
    except (OSError, ValueError, http.client.HTTPException, websocket.WebSocketException):
        return {}


def page_windows(port: int, env: str) -> dict[str, Any]:
    base = f"127.0.0.1:{port}/{read_key(port)}"
    page = websocket.create_connection(
        f"ws://{base}/socket", timeout=3, http_no_proxy=["127.0.0.1"], suppress_origin=True
    )
    try:
        register = json.loads(page.recv())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
        path = f"/{read_key(port)}/env/{env}"
        connection.request("POST", path, json.dumps({"sid": register["data"]}))
        assert connection.getresponse().status == 200
        connection.close()
        found = {}
        while (message := json.loads(page.recv())).get("command") != "layout":
            if message.get("command") == "window":
                found[message["id"]] = message
        return found
    finally:
        page.close()


def curves(port: int, window: str) -> dict[str, tuple[list[float], list[float | None]]]:
    """The series of a curve window by name: x values, y values."""
    data = windows(port).get(window, {"content": {"data": []}})["content"]["data"]
    return {line["name"]: (line["x"], line["y"]) for line in data}


def server_pid(plots: Plots) -> int:
    assert plots._sender is not None
    assert plots._sender._server is not None
    return wait_until(lambda: plots._sender._server.pid)


def longest_call_s(plots: Plots, curve: str, calls: int = 40) -> float:
    """The longest time that a pair of calls took, of `calls` made within a second."""
    longest = 0.0
    for index in range(calls):
        start = time.perf_counter()
        plots.images(4, FACES, "faces")
        plots.curve(curve, index, {"D": 0.5}, "Loss")
        longest = max(longest, time.perf_counter() - start)
        time.sleep(0.02)
    return longest


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Short pauses, and a dead server started again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots_room, "_PAUSE_S", 0.05)
        patch.setattr(plots_room, "_RETRY_S", 0.1)
        patch.setattr("eyescream_py.plots.server._RESTART_PAUSE_S", 0.5)
        yield


@pytest.fixture(scope="module")
def running(quick: None) -> Iterator[tuple[Plots, int]]:
    """Plots with a server of their own that shows window 4."""
    port = free_port()
    plots = Plots.open(True, "http://localhost", port, "run")
    plots.images(4, FACES, "faces", columns=2)
    try:
        wait_until(lambda: "4" in windows(port))
        yield plots, port
    finally:
        plots.close()


class TestContent:
    def test_pictures_arrive_as_they_were(self, running: tuple[Plots, int]) -> None:
        window = windows(running[1])["4"]
        data = base64.b64decode(window["content"]["src"].partition(",")[2])
        shown = np.asarray(Image.open(io.BytesIO(data)))
        enlarged = shown.shape[0] // 17  # two rows of 8 pixels and a gap
        expected = (FACES[3, 0] * 255).round().byte().numpy()
        assert window["title"] == "faces"
        assert np.array_equal(shown[::enlarged, ::enlarged][9:, 9:], expected)

    def test_a_curve_grows_point_by_point(self, running: tuple[Plots, int]) -> None:
        plots, port = running
        for epoch, loss in enumerate([0.5, float("nan"), 0.25]):
            plots.curve("loss", epoch, {"D": loss, "G": 1.0}, "Loss", "epoch", "nats")
        expected = {"D": [0.5, None, 0.25], "G": [1.0, 1.0, 1.0]}

        wait_until(lambda: {n: y for n, (_, y) in curves(port, "loss").items()} == expected)
        layout = windows(port)["loss"]["content"]["layout"]
        assert (layout["xaxis"]["title"], layout["yaxis"]["title"]) == ("epoch", "nats")

    def test_an_endless_curve_stays_small_and_keeps_both_ends(self) -> None:
        curve = contents.Curve("Loss", ("", ""))
        for x in range(20_000):
            curve.append(x, {"D": x})
        xs, ys = curve.series["D"]
        assert len(xs) <= contents.MAX_POINTS
        assert (xs[0], xs[-1]) == (0, 19_999)
        assert xs == sorted(xs)
        assert xs == ys

    def test_messages_are_json_without_nan(self) -> None:
        series = {"D": ([0.0, 1.0], [float("inf"), float("nan")])}
        message = curve_message("loss", "run", "Loss", ("", ""), series)
        assert message["data"][0]["y"] == [None, None]
        json.dumps(message, allow_nan=False)

    @pytest.mark.parametrize("shape", [(4, 8, 8), (0, 1, 8, 8), (4, 2, 8, 8), (4, 1, 0, 8)])
    def test_what_is_no_picture_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="no pictures"):
            picture_grid(np.zeros(shape, np.uint8), 10)

    def test_values_outside_0_to_1_are_clipped(self) -> None:
        values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, float("nan")]).reshape(1, 1, 1, 6)
        expected = [0, 0, 128, 255, 255, 0]
        for pictures in (values, values.bfloat16(), values.numpy()):
            assert contents.as_uint8(pictures).ravel().tolist() == expected

    def test_a_wrong_call_is_said_once_and_raises_nothing(
        self, running: tuple[Plots, int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        plots, port = running
        for _ in range(3):
            plots.images(5, torch.zeros(3, 8, 8), "wrong")
            plots.curve("wrong", float("nan"), {"D": 1}, "wrong")
        plots.images(6, FACES, "right")
        wait_until(lambda: "6" in windows(port))
        assert "5" not in windows(port)
        assert capsys.readouterr().out.count("is left out") == 2


class TestServer:
    def test_listens_on_the_loopback_address_only(self, running: tuple[Plots, int]) -> None:
        listening = []
        for table in ("tcp", "tcp6"):
            rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            local_and_state = [(row.split()[1], row.split()[3]) for row in rows]
            listening += [
                local.partition(":")[0]
                for local, state in local_and_state
                if state == "0A" and int(local.partition(":")[2], 16) == running[1]
            ]
        assert listening == ["0100007F"]

    def test_ends_with_the_run_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setenv("HOME", str(home))
        port = free_port()
        plots = Plots.open(True, "localhost", port, "run")
        plots.images(4, FACES, "faces")
        wait_until(lambda: "4" in windows(port))
        (private,) = tmp_path.glob("eyescream_py-*")
        assert private.stat().st_mode & 0o777 == 0o700
        assert (private / f"visdom_{port}").stat().st_mode & 0o777 == 0o600
        plots.close()
        assert Address.parse("localhost", port).probe() is Listener.NOBODY
        assert list(tmp_path.iterdir()) == [home]
        assert list(home.iterdir()) == []
        plots.images(4, FACES, "after the end")
        plots.close()

    def test_ends_when_the_run_is_killed(self) -> None:
        port = free_port()
        program = f"""
            import time
            from eyescream_py.plots.windows import Plots
            Plots.open(True, "localhost", {port}, "run")
            time.sleep(60)
        """
        run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
        address = Address.parse("localhost", port)
        try:
            wait_until(lambda: address.probe() is not Listener.NOBODY)
        finally:
            run.kill()
            run.wait()
        wait_until(lambda: address.probe() is Listener.NOBODY, 5)

    def test_a_second_run_uses_it_and_leaves_it(
        self, running: tuple[Plots, int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        port = running[1]
        second = Plots.open(True, "http://localhost", port, "logs/second run")
        second.images(4, FACES, "faces")
        wait_until(lambda: "4" in windows(port, "logs_second_run"))
        second.close()
        shown = f"http://localhost:{port}/{read_key(port)}/env/logs_second_run"
        assert shown in capsys.readouterr().out
        assert "4" in windows(port)


class TestTrouble:
    def test_a_killed_server_costs_nothing_and_is_replaced(
        self, running: tuple[Plots, int]
    ) -> None:
        plots, port = running
        plots.curve("history", -1, {"D": 0.5}, "Loss")
        wait_until(lambda: "history" in windows(port))
        os.kill(server_pid(plots), signal.SIGKILL)
        assert longest_call_s(plots, "history") < AT_ONCE_S
        whole = [-1, *range(40)]
        wait_until(lambda: curves(port, "history").get("D", ([], []))[0] == whole)
        assert "4" in windows(port)

    def test_a_frozen_server_costs_nothing_and_catches_up(self, running: tuple[Plots, int]) -> None:
        plots, port = running
        pid = server_pid(plots)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert longest_call_s(plots, "frozen") < AT_ONCE_S
            plots.images("thawed", FACES, "faces")
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: "thawed" in windows(port))

    def test_closing_beside_a_frozen_server_takes_seconds_at_most(self) -> None:
        port = free_port()
        plots = Plots.open(True, "localhost", port, "run")
        plots.images(4, FACES, "faces")
        wait_until(lambda: "4" in windows(port))
        pid = server_pid(plots)
        os.kill(pid, signal.SIGSTOP)
        plots.images(4, FACES, "never shown")
        start = time.monotonic()
        plots.close()
        assert time.monotonic() - start < 60  # it would never answer
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_a_port_of_another_program_is_an_error(self) -> None:
        handler = http.server.SimpleHTTPRequestHandler
        handler.log_message = lambda *args: None  # type: ignore[method-assign]
        with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with pytest.raises(UserError, match="--visdom_port"):
                Plots.open(True, "http://localhost", server.server_port, "run")
            server.shutdown()

    def test_a_mute_port_does_not_hold_up_the_run(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("eyescream_py.plots.client.TIMEOUT_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as mute:
            plots = Plots.open(True, "localhost", mute.getsockname()[1], "run")
            assert longest_call_s(plots, "loss", 10) < AT_ONCE_S
            plots.close()
        assert "does not answer" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("server", "port"), [("", 8097), ("ftp://x", 8097), ("http://x:9", 8097), ("x", 70_000)]
    )
    def test_an_address_that_is_none_is_an_error(self, server: str, port: int) -> None:
        with pytest.raises(UserError, match="--visdom_"):
            Plots.open(True, server, port, "run")

    def test_an_error_names_the_flags_of_the_command(self) -> None:
        flags = PlotFlags("--plot-server", "--plot-port")
        with pytest.raises(UserError, match=r"^--plot-server=ftp://x: .* with --plot-port$"):
            Plots.open(True, "ftp://x", 8097, "run", flags=flags)
        with pytest.raises(UserError, match=r"^--plot-port=0: "):
            Plots.open(True, "localhost", 0, "run", flags=flags)

    def test_without_visdom_there_is_one_line_and_no_plots(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        plots = Plots.open(True, "localhost", free_port(), "run")
        plots.images(4, FACES, "faces")
        plots.close()
        assert capsys.readouterr().out.count("\n") == 1

    def test_plots_turned_off_start_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        port = free_port()
        plots = Plots.open(False, "no address at all", port, "run")
        plots.images(4, FACES, "faces")
        plots.curve("loss", 0, {"D": 1.0}, "Loss")
        plots.close()
        assert Address.parse("localhost", port).probe() is Listener.NOBODY
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "rows"),
    [(["L1"], 1), (["total", "features", "pixels"], 1), (["a long name of a loss"] * 3, 3),
     (["D", "G", "L1", "features", "self_L1", "R"], 2), (["x" * 99] * 2, 2)],
)  # fmt: skip
def test_a_window_grows_with_its_legend(names, rows):
    """The curves keep their height: what the legend takes is added on top of them."""
    one, more = (
        curve_message("w", "run", "Loss", ("", ""), {f"{n}{i}": ([1], [2]) for i, n in named})
        for named in (enumerate([""]), list(enumerate(names)))
    )
    grown = more["opts"]["height"] - one["opts"]["height"]
    assert grown == more["layout"]["margin"]["t"] - one["layout"]["margin"]["t"]
    assert grown == 19 * (rows - 1)
