"""What a server answers that no server should: the run's plots outlive it, without a traceback."""

import contextlib
import http.client
import socket

import pytest

from eyescream_py.plots.client import Address, Listener, post
from eyescream_py.plots.moves import Moves
from eyescream_py.plots.windows import Plots
from tests.plots.test_doors import Server
from tests.plots.test_plots import FACES, wait_until

ODD = [
    b"HTTP/1.1 302 Found\r\nLocation: http://[x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nvisdom\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nvisdom",
    b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A" * 70_000 + b"\r\n\r\nvisdom",
    b"\x00\x01\x02",
]


@pytest.mark.parametrize("answer", ODD)
def test_an_odd_answer_is_no_visdom(answer: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    server = Server(lambda taken: taken.sendall(answer))
    address = Address("127.0.0.1", server.port)
    assert address.probe() is Listener.STRANGER
    with pytest.raises((OSError, http.client.HTTPException)):
        post(address.connection(), "", {})
    server.listener.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("answer", ODD)
def test_plots_outlive_odd_answers(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Visdom when the run begins, then nonsense: the run keeps trying."""

    def write(taken: socket.socket) -> None:
        asked.append(1)
        welcome = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nvisdom"
        taken.sendall(answer if len(asked) > 1 else welcome)

    asked: list[int] = []
    monkeypatch.setattr("eyescream_py.plots.windows._RETRY_S", 0.02)
    server = Server(write)
    plots = Plots.open(True, "127.0.0.1", server.port, "run")
    plots.images(4, FACES, "faces")
    wait_until(lambda: len(asked) > 3)
    plots.close()
    server.listener.close()


@pytest.mark.parametrize("answer", ODD)
def test_sliders_outlive_odd_answers(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(taken: socket.socket) -> None:
        asked.append(1)
        taken.sendall(answer)

    asked: list[int] = []
    monkeypatch.setattr("eyescream_py.plots.moves._RETRY_S", 0.02)
    monkeypatch.setattr("eyescream_py.plots.moves.TIMEOUT_S", 0.5)
    server = Server(write)
    listener = Moves(lambda: Address("127.0.0.1", server.port), "run", "knobs")
    wait_until(lambda: len(asked) > 3)
    with contextlib.suppress(RuntimeError):  # its loop is closed where it gave up
        listener.close()
    server.listener.close()
