"""A run's windows as a person sees them: the real server, its page in a headless Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyescream_py.plots.client import Address, Listener
from eyescream_py.plots.keys import read_key
from eyescream_py.plots.windows import Plots
from tests.e2e.chromium import CHROMIUM, open_tab

ROOT = Path(__file__).parents[2]
TITLES = (
    "semi-random generated images (after G)",
    "best samples (first is best)",
    "worst samples (first is worst)",
    "original images from training set",
)


@dataclass
class Page:
    """What Chromium made of the page."""

    text: str
    screenshot: np.ndarray  # (height,width,3) uint8

    def pictures(self) -> list[np.ndarray]:
        """The pictures that the page shows, decoded."""
        sources = re.findall(r'src="data:image/png;base64,([^"]+)"', self.text)
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in sources]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def open_page(url: str, folder: Path) -> Page:
    """Look at the page once its windows are drawn and have come to rest."""
    titles = " && ".join(f"document.body.innerText.includes({title!r})" for title in TITLES)
    with open_tab(url, folder / "profile") as tab:
        tab.wait_for(titles, 60)
        tab.wait_for("document.querySelectorAll('.scatterlayer').length >= 2", 60)
        time.sleep(2)  # the windows glide to their places
        screenshot = tab.screenshot()
        text = tab.evaluate("document.documentElement.outerHTML")
    (folder / "page.png").write_bytes(screenshot)
    return Page(text, np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB")))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page after two short epochs, with the server that train.py found listening."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: the page is not looked at (.ci/run installs it)")
    folder = tmp_path_factory.mktemp("visdom_page")
    port = free_port()
    plots = Plots.open(True, "http://localhost", port, "e2e")
    try:
        wait_for_server(port)
        subprocess.run(
            [
                *(sys.executable, "train.py", "--scale=16", "--grayscale", "--gpu=-1"),
                *("--epochs=2", "--N_epoch=100", f"--save={folder / 'logs'}"),
                *(f"--visdom_port={port}", "--visdom_env=e2e"),
            ],
            cwd=ROOT,
            check=True,
            timeout=240,
        )
        yield open_page(f"http://127.0.0.1:{port}/{read_key(port)}/env/e2e", folder)
    finally:
        plots.close()


def wait_for_server(port: int) -> None:
    end = time.monotonic() + 60
    while Address.parse("localhost", port).probe() is Listener.NOBODY or not read_key(port):
        assert time.monotonic() < end, "Visdom does not answer"
        time.sleep(0.1)


@pytest.mark.browser
class TestPage:
    @pytest.mark.parametrize("title", TITLES)
    def test_shows_every_window(self, page: Page, title: str) -> None:
        assert title in page.text

    def test_shows_the_pictures(self, page: Page) -> None:
        pictures = page.pictures()
        assert len(pictures) == len(TITLES)
        for picture in pictures:
            assert picture.shape[1] > 300
            assert picture.std() > 10  # neither blank nor one shade

    def test_draws_the_curves(self, page: Page) -> None:
        assert page.text.count("js-plotly-plot") >= 2
        assert page.text.count("scatterlayer") >= 2

    def test_looks_like_a_page_of_windows(self, page: Page) -> None:
        height, width, _ = page.screenshot.shape
        assert width == 1400
        assert height > 1000
        background = np.all(page.screenshot == page.screenshot[-1, -1], axis=2)
        assert 0.1 < background.mean() < 0.8
        shades = np.unique(page.screenshot.reshape(-1, 3), axis=0)
        assert len(shades) > 100  # the pictures' grays, not just the page's own few colours


LONG_NAMES = ("generator_adversarial_loss", "discriminator_real_loss")
EDGES = """JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(plot => [
    plot.querySelector('.legend .bg').getBoundingClientRect().bottom,
    plot.querySelector('.nsewdrag').getBoundingClientRect().top,
    plot.querySelector('.nsewdrag').getBoundingClientRect().height]))"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_no_legend_lies_over_its_curves(tmp_path: Path) -> None:
    """Windows of 1, 3 and 6 curves, whose names are as long as srez's: below each legend the curves
    have as much room."""
    port = free_port()
    plots = Plots.open(True, "http://localhost", port, "legends")
    try:
        for count in (1, 3, 6):
            values = {f"{LONG_NAMES[n % 2]}_{n}": 1.0 + n for n in range(count)}
            for x in range(3):
                plots.curve(f"{count} curves", x, values, "losses", "batch", "loss")
        wait_for_server(port)
        with open_tab(f"http://127.0.0.1:{port}/{read_key(port)}/env/legends", tmp_path) as tab:
            tab.wait_for("document.querySelectorAll('.scatterlayer').length >= 3", 60)
            edges = json.loads(tab.evaluate(EDGES))
    finally:
        plots.close()
    assert len(edges) == 3
    for legend, top, height in edges:
        assert legend <= top + 1
        assert 190 < height < 230
