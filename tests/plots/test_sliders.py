"""Sliders in Visdom: what is drawn, who may move them, and what reaches the run."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import websocket

from eyescream_py.plots.client import Address
from eyescream_py.plots.keys import read_key
from eyescream_py.plots.moves import Moves
from eyescream_py.plots.server import ServerProcess
from eyescream_py.plots.sliders import (
    MOST,
    Slider,
    move_message,
    pane,
    read_move,
    read_sliders,
    sliders_message,
)
from tests.plots.servers import running_server
from tests.plots.test_doors import KEY, ask
from tests.plots.test_plots import free_port, wait_until, windows

SLIDERS = (Slider("seed", 0, 99, 1, 3, typed=True), Slider("t", 0, 1, 0.01, 0.25))
MESSAGE = sliders_message("knobs", "run", "play", SLIDERS)
EVIL = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server(KEY) as chosen:
        yield chosen


def page(port: int, path: str = f"{KEY}/socket", **more: object) -> websocket.WebSocket:
    return websocket.create_connection(
        f"ws://127.0.0.1:{port}/{path}", timeout=60, http_no_proxy=["127.0.0.1"],
        **({"suppress_origin": True} | more),
    )  # fmt: skip


def order(**changes: object) -> str:
    """What the page sends when a slider is at 0.5."""
    data = move_message("run", "knobs", [3, 0.5]) | {"pane_data": False} | changes
    return json.dumps({"cmd": "forward_to_vis", "data": data})


@pytest.fixture
def moves(port: int) -> Iterator[Moves]:
    assert ask(port, "POST", f"/{KEY}/events", MESSAGE) == 200
    listener = Moves(lambda: Address("127.0.0.1", port, base=f"/{KEY}"), "run", "knobs")
    try:
        with_page = page(port)
        wait_until(lambda: with_page.send(order()) and listener.wait(0.1))
        listener.wait(0.1)
        with_page.close()
        yield listener
    finally:
        listener.close()


class TestDrawing:
    def test_what_is_shown_is_read_back(self) -> None:
        assert read_sliders(json.loads(json.dumps(MESSAGE))["data"][0]["sliders"]) == SLIDERS

    def test_names_cannot_leave_their_place(self) -> None:
        drawn = pane(f"w{EVIL}", f"e{EVIL}", (Slider(EVIL, 0, 1, 0.1, 0),))
        assert "<img" not in drawn
        assert drawn.count("<input") == 1

    def test_a_value_is_brought_to_its_slider(self) -> None:
        seed, share = SLIDERS
        assert [seed.taken(x) for x in (-4, 7.4, 1e12)] == [0, 7, 99]
        assert [share.taken(x) for x in (-4, 0.123, 2)] == [0, 0.123, 1]

    @pytest.mark.parametrize(
        "rows",
        [
            None, [], {}, [1], [{}], [asdict(SLIDERS[0])] * (MOST + 1),
            [asdict(SLIDERS[0]) | {"name": 7}], [asdict(SLIDERS[0]) | {"name": "x" * 81}],
            [asdict(SLIDERS[0]) | {"low": "0"}], [asdict(SLIDERS[0]) | {"low": True}],
            [asdict(SLIDERS[0]) | {"value": float("nan")}], [asdict(SLIDERS[0]) | {"typed": 1}],
            [asdict(SLIDERS[0]) | {"more": 1}],
        ],
    )  # fmt: skip
    def test_what_are_no_sliders(self, rows: object) -> None:
        with pytest.raises(ValueError, match="slider"):
            read_sliders(rows)


class TestServer:
    def test_sliders_are_shown(self, port: int) -> None:
        assert ask(port, "POST", f"/{KEY}/events", MESSAGE) == 200
        assert windows(port)["knobs"]["content"] == pane("knobs", "run", SLIDERS)

    @pytest.mark.parametrize(
        "change",
        [
            {"content": MESSAGE["data"][0]["content"] + "<b>x</b>"}, {"content": None},
            {"sliders": None}, {"sliders": []}, {"sliders": MESSAGE["data"][0]["sliders"][:1]},
            {"content": "<script>alert(1)</script>", "sliders": []}, {"type": "properties"},
        ],
    )  # fmt: skip
    def test_other_text_is_not(self, port: int, change: dict) -> None:
        changed = MESSAGE | {"data": [MESSAGE["data"][0] | change]}
        assert ask(port, "POST", f"/{KEY}/events", changed) == 400

    def test_sliders_of_another_window_are_not(self, port: int) -> None:
        assert ask(port, "POST", f"/{KEY}/events", MESSAGE | {"win": "others"}) == 400
        assert ask(port, "POST", f"/{KEY}/events", MESSAGE | {"eid": "others"}) == 400
        twice = MESSAGE | {"data": MESSAGE["data"] * 2}
        assert ask(port, "POST", f"/{KEY}/events", twice) == 400

    @pytest.mark.parametrize("path", ["moves", "wrong/moves", f"{KEY}x/moves"])
    def test_without_the_key_nobody_listens(self, port: int, path: str) -> None:
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            page(port, path)

    @pytest.mark.parametrize("path", [f"{KEY}/moves", f"{KEY}/socket"])
    @pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
    def test_other_sites_neither_listen_nor_move(self, port: int, path: str, origin: str) -> None:
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            page(port, path, suppress_origin=False, origin=origin)
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            page(port, path, host="evil.example")

    def test_too_many_listeners_are_sent_away(self, port: int) -> None:
        lines = [page(port, f"{KEY}/moves") for _ in range(25)]
        assert lines[-1].recv() == ""
        for line in lines:
            line.close()


class TestMoves:
    def test_a_move_arrives(self, port: int, moves: Moves) -> None:
        line = page(port)
        line.send(order(values=[5, 0.75]))
        assert moves.wait(10) == [5, 0.75]
        assert moves.wait(0.05) is None
        line.close()

    @pytest.mark.parametrize(
        "change",
        [
            {"eid": "other"}, {"target": "other"}, {"target": ["knobs"]}, {"eid": None},
            {"event_type": "KeyPress"}, {"values": []}, {"values": None}, {"values": ["1"]},
            {"values": [True]}, {"values": [float("nan")]}, {"values": [float("inf")]},
            {"values": [1e30]}, {"values": [0.0] * (MOST + 1)}, {"values": [[1]]},
        ],
    )  # fmt: skip
    def test_anything_else_does_not(self, port: int, moves: Moves, change: dict) -> None:
        line = page(port)
        line.send(order(**change))
        for odd in ("", "no json", "[]", "[" * 100_000, json.dumps({"cmd": "close"})):
            line.send(odd)
        line.send(order(values=[1, 1]))  # after all those, so that nothing is still on its way
        assert moves.wait(10) == [1, 1]
        line.close()

    def test_only_what_was_checked_is_passed_on(self, port: int, moves: Moves) -> None:
        listener, line = page(port, f"{KEY}/moves"), page(port)
        line.send(order(values=[5, 0.75], more="x" * 1000))
        assert json.loads(listener.recv()) == move_message("run", "knobs", [5, 0.75])
        listener.close()
        line.close()

    def test_a_listener_that_sleeps_misses_all_but_the_newest(self, port: int) -> None:
        assert ask(port, "POST", f"/{KEY}/events", MESSAGE) == 200
        sleeper, line = page(port, f"{KEY}/moves"), page(port)
        sleeper.sock.setsockopt(1, 8, 4096)  # a small receive buffer
        for step in range(20_000):
            line.send(order(values=[step % 100, 0.5, *[0.1234567] * 30]))
        line.send(order(values=[7, 1]))
        told, newest = 0, None
        while newest != [7, 1]:
            newest = json.loads(sleeper.recv())["values"]
            told += 1
        assert told < 15_000, told
        sleeper.close()
        line.close()

    def test_a_page_s_moves_are_not_lost_to_another_s(self, port: int) -> None:
        for env in ("run", "other"):
            message = sliders_message("knobs", env, "play", SLIDERS)
            assert ask(port, "POST", f"/{KEY}/events", message) == 200
        sleeper, line = page(port, f"{KEY}/moves"), page(port)
        sleeper.sock.setsockopt(1, 8, 4096)
        line.send(order(values=[7, 1]))
        for step in range(20_000):
            line.send(order(eid="other", values=[step % 100, 0.5, *[0.1234567] * 30]))
        line.send(order(values=[8, 1]))
        line.send(order(eid="other", values=[9, 1]))
        newest: dict[str, list[float]] = {}
        while newest != {"run": [8, 1], "other": [9, 1]}:
            told = json.loads(sleeper.recv())
            newest[told["eid"]] = told["values"]
        sleeper.close()
        line.close()

    def test_a_stranger_s_odd_answers_are_no_tracebacks(self, capfd) -> None:
        answer = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = Address("127.0.0.1", server.getsockname()[1])
            listener = Moves(lambda: address, "run", "knobs")
            line, _ = server.accept()
            line.recv(4096)
            line.sendall(answer)
            assert listener.wait(0.3) is None
            line.close()
            listener.close()
        assert capfd.readouterr() == ("", "")

    def test_a_pane_s_other_words_are_no_move(self) -> None:
        for packet in (None, [], {}, {"event_type": "PropertyUpdate", "values": [1]}):
            assert read_move(packet) is None

    def test_a_server_that_comes_back_is_found(self) -> None:
        port = free_port()
        listener = Moves(lambda: Address("127.0.0.1", port, base=f"/{KEY}"), "run", "knobs")
        server = ServerProcess(port, KEY)
        try:
            time.sleep(0.2)
            server.ensure_running()
            wait_until(lambda: read_key(port) == KEY)
            assert ask(port, "POST", f"/{KEY}/events", MESSAGE) == 200
            line = page(port)
            wait_until(lambda: line.send(order()) and listener.wait(0.2))
            line.close()
        finally:
            listener.close()
            server.stop()
