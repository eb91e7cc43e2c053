import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from eyescream_py.image_model.page import POINTS, curves, save_page_rows, write_page


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
def run(tmp_path: Path) -> Path:
    records = [{"step": n, "L1": 1 / n, "G": float("nan") if n == 3 else n} for n in range(1, 1001)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    batch = torch.rand(12, 1, 8, 8)
    for step in (500, 1000):
        (tmp_path / f"step_{step}").mkdir()
        save_page_rows(tmp_path / f"step_{step}", {"input": batch, "output": batch}, 11)
    return tmp_path


def test_page_shows_each_step_and_curve_and_fetches_nothing_from_afar(run: Path) -> None:
    write_page(run, 'train --log_dir "<b>&"', ["input", "output"])
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


def test_curves_are_means_of_stretches_and_pass_over_what_is_no_number(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = curves(records)
    assert len(found["L1"]) == len(found["G"]) == POINTS
    assert all(step == pytest.approx(value) for step, value in found["G"])  # G was the step


def test_names_stay_names_and_a_path_may_be_no_text(run: Path) -> None:
    odd = "page_'\"><b>.png"
    (run / "step_500" / odd).write_bytes(b"")
    write_page(run, "train --log_dir caf\udce9", ["input"])
    text = (run / "index.html").read_text()
    page = Sources()
    page.feed(text)
    assert "b" not in page.tags
    assert f"step_500/{odd}" in [unquote(source) for source in page.found]
    assert "caf\\udce9" in text


def test_a_constant_curve_of_one_step_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "L1": 0.5}\n')
    write_page(tmp_path, "train", [])
    assert 'points="0.0,155.0"' in (tmp_path / "index.html").read_text()
