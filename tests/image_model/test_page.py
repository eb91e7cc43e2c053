import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.image_model.page import POINTS, Curves, save_page_rows, write_page
from eyescream_py.image_model.pictures import to_pixels


class Sources(HTMLParser):
    """All that a page would fetch, and the tags it leaves open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def samples() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {title: torch.rand(12, 1, 8, 8) for title in ("input", "output")}


@pytest.fixture
def run(tmp_path: Path, samples: dict[str, torch.Tensor]) -> Path:
    for step in (500, 1000):
        (tmp_path / f"step_{step}").mkdir()
        save_page_rows(tmp_path / f"step_{step}", samples, 11)
    return tmp_path


def curves_of(steps: int) -> Curves:
    """L1 = 1 / step, and G = step but for one step without a number."""
    curves = Curves()
    for n in range(1, steps + 1):
        curves.add(n, {"L1": 1 / n, "G": math.nan if n == 3 else n})
    return curves


def test_a_row_holds_the_pictures_in_the_order_of_their_titles(
    run: Path, samples: dict[str, torch.Tensor]
) -> None:
    with Image.open(run / "step_500" / "page_3.png") as file:
        left, right = np.split(np.asarray(file), 2, axis=1)
    np.testing.assert_array_equal(left, to_pixels(samples["input"][3]))
    np.testing.assert_array_equal(right, to_pixels(samples["output"][3]))
    assert not np.array_equal(left, right)


def test_page_shows_each_step_and_curve_and_fetches_nothing_from_afar(run: Path) -> None:
    write_page(run, 'train --log_dir "<b>&"', ["input", "output"], curves_of(1000))
    text = (run / "index.html").read_text()
    page = Sources()
    page.feed(text)
    assert page.found == [f"step_{s}/page_{i}.png" for s in (1000, 500) for i in range(11)]
    assert all((run / source).is_file() for source in page.found)
    assert page.tags.isdisjoint({"script", "link", "iframe", "b"})
    assert "://" not in text
    assert "train --log_dir &quot;&lt;b&gt;&amp;&quot;" in text
    assert re.findall(r"<h3>(\w+): last", text) == ["L1", "G"]
    assert text.count("<polyline") == 2


@pytest.mark.parametrize("steps", [2, 639, 640, 1000, 5000])
def test_curves_are_means_of_stretches_and_pass_over_what_is_no_number(steps: int) -> None:
    curves = curves_of(steps).by_metric
    for curve in curves.values():
        assert min(steps - 1, POINTS // 2) <= len(curve.points) <= POINTS
    assert all(step == pytest.approx(value) for step, value in curves["G"].points)  # G was the step
    means, length = curves["L1"].points, 1 << max(0, math.ceil(math.log2((steps + 1) / POINTS)))
    assert means[0][1] == pytest.approx(sum(1 / n for n in range(1, length + 1)) / length)
    assert means[-1][0] > steps - length


def test_names_stay_names_and_a_path_may_be_no_text(run: Path) -> None:
    odd = "page_'\"><b>.png"
    (run / "step_500" / odd).write_bytes(b"")
    write_page(run, "train --log_dir caf\udce9", ["input"], Curves())
    text = (run / "index.html").read_text()
    page = Sources()
    page.feed(text)
    assert "b" not in page.tags
    assert f"step_500/{odd}" in [unquote(source) for source in page.found]
    assert "caf\\udce9" in text


def test_a_constant_curve_of_one_step_is_drawn(tmp_path: Path) -> None:
    write_page(tmp_path, "train", [], curves_of(1))
    assert 'points="0.0,155.0"' in (tmp_path / "index.html").read_text()
