"""`sample.py --explore` as a person uses it: sliders dragged in Chromium, faces that follow."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyescream_py import load_generator
from eyescream_py.results.explore import Explorer, Place, enlarged
from tests.commands import start
from tests.e2e.chromium import CHROMIUM, Tab, open_tab
from tests.plots.test_plots import free_port, wait_until

FACE = "faces16"
PICTURE = """(title => {
  const panes = [...document.querySelectorAll('.window')];
  const pane = panes.find(each => each.querySelector('.bar').innerText.includes(title));
  return pane ? pane.querySelector('img').src : '';
})"""
SET = """((index, value) => {
  const field = document.querySelectorAll('.es-sliders input')[index];
  field.value = value;
  field.dispatchEvent(new Event('input', {bubbles: true}));
})"""


@contextmanager
def exploring(port: int, *flags: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The running command and the address that it printed."""
    process = start(
        "sample.py", "--explore", f"--G_base=pretrained:{FACE}", "--gpu=-1",
        f"--visdom_port={port}", *flags,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("Plots: "))
        assert "Ctrl-C ends it" in process.stdout.readline()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.wait()


def shown(tab: Tab, title: str) -> np.ndarray:
    """The pixels of the window of that title; empty while there is none."""
    source = tab.evaluate(f"{PICTURE}({title!r})").partition("base64,")[2]
    if not source:
        return np.zeros(0, np.uint8)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))


def expected(place: Place) -> np.ndarray:
    face = enlarged(Explorer(load_generator(f"pretrained:{FACE}")).face(place), 192)
    return (face * 255).round().byte()[0, 0].numpy()


def wait_for_face(tab: Tab, place: Place) -> None:
    """Return when the page shows exactly the face at `place`."""
    title, wanted = f"{place.a} to {place.b}, t = {place.t:g}", expected(place).astype(int)

    def is_shown() -> bool:
        pixels = shown(tab, title).astype(int)
        return pixels.shape == wanted.shape and bool(np.abs(pixels - wanted).max() <= 1)

    wait_until(is_shown, 60)


def play(url: str, folder: Path) -> None:
    """Drag, type, reset; each time the face is the one that the arithmetic says."""
    with open_tab(url, folder / "profile") as tab:
        tab.wait_for("document.querySelectorAll('.es-sliders input').length === 13", 60)
        still = (0.0,) * 10
        wait_for_face(tab, Place(1, 2, 0, still))
        drag(tab, 3)
        tab.wait_for("document.querySelectorAll('.es-sliders output')[1].innerText > 1", 20)
        step = float(tab.evaluate("document.querySelectorAll('.es-sliders output')[1].innerText"))
        moved = (step, *still[1:])
        wait_for_face(tab, Place(1, 2, 0, moved))
        press(tab, "ArrowRight", 39)  # a window of Visdom's would swallow it
        tab.wait_for(f"document.querySelectorAll('.es-sliders input')[3].value > {step}", 20)
        tab.evaluate(f"{SET}(3, {step})")
        tab.evaluate(f"{SET}(1, 7)")
        tab.evaluate(f"{SET}(2, 0.5)")
        wait_for_face(tab, Place(1, 7, 0.5, moved))
        tab.evaluate("document.querySelector('.es-sliders button').click()")
        wait_for_face(tab, Place(1, 7, 0, still))
        for title in ("the way from A to B", "seeds 1 to 50"):
            assert shown(tab, title).std() > 20


def press(tab: Tab, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def drag(tab: Tab, index: int) -> None:
    """Press the mouse on a slider's handle and pull it to the right, as a hand does."""
    box = f"document.querySelectorAll('.es-sliders input')[{index}].getBoundingClientRect()"
    left, width, y = (tab.evaluate(f"{box}.{side}") for side in ("left", "width", "y"))
    y += tab.evaluate(f"{box}.height") / 2
    moves = [
        ("mousePressed", 0.5),
        ("mouseMoved", 0.6),
        ("mouseMoved", 0.8),
        ("mouseReleased", 0.8),
    ]
    for kind, share in moves:
        tab.call(
            "Input.dispatchMouseEvent", type=kind, x=left + share * width, y=y, button="left",
            buttons=1, clickCount=1,
        )  # fmt: skip


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
class TestPage:
    def test_faces_follow_and_ctrl_c_ends_it(self, tmp_path: Path) -> None:
        port = free_port()
        with exploring(port) as (process, url):
            play(url, tmp_path)
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            assert rest == "Stopped by Ctrl-C while exploring; nothing is saved.\n"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is still there"

    def test_with_a_visdom_that_the_user_started(self, tmp_path: Path) -> None:
        port = free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "visdom.server", "-port", str(port), "--hostname", "127.0.0.1",
             "-bind_local", "-env_path", str(tmp_path / "envs")],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        try:
            wait_until(lambda: not refuses(port), 60)
            with exploring(port, "--visdom_server=http://127.0.0.1") as (_, url):
                play(url, tmp_path)
        finally:
            server.kill()
            server.wait()


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
