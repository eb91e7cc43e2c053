"""The page of a run: `index.html` with its curves and its pictures by step, as users of pix2pix
know it. One static file beside the pictures; opening it asks nothing of a network.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from eyescream_py.image_model.pictures import save_row
from eyescream_py.system.files import atomic_write

WIDTH, HEIGHT = 640, 160  # of a curve, pixels
POINTS = 640  # of a curve at most; an even number
STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:70em}svg{background:#f4f4f4}"
    "img{image-rendering:pixelated;height:128px;margin:2px}code{white-space:pre-wrap}"
)
Point = tuple[float, float]  # step, value
_HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src 'self' file:; style-src 'unsafe-inline'\">"
)


def save_page_rows(folder: Path, samples: dict[str, Tensor], number: int) -> None:
    """`page_<i>.png` for the first `number` pictures: the batches of `samples` side by side."""
    count = min([number, *(len(batch) for batch in samples.values())])
    for i in range(count):
        save_row(folder / f"page_{i}.png", [batch[i] for batch in samples.values()])


def write_page(folder: Path, command_line: str, titles: Iterable[str], curves: Curves) -> None:
    """Write `folder/index.html` from `curves` and the pictures that stand there; `titles` name the
    pictures of a row, left to right. Raises OSError.
    """
    name = html.escape(folder.resolve().name)
    parts = [
        f"{_HEAD}<title>{name}</title><style>{STYLE}</style><h1>Run {name}</h1>",
        f"<p><code>{html.escape(command_line)}</code></p>",
        *(_drawn(metric, curve.points) for metric, curve in curves.by_metric.items()),
        f"<p>Each row: {html.escape(', '.join(titles))}.</p>",
        *(_pictures(folder, step) for step in _steps(folder)),
        "</html>\n",
    ]
    with atomic_write(folder / "index.html") as file:
        # a path on the command line may be no UTF-8
        file.write("\n".join(parts).encode(errors="backslashreplace"))


class Curve:
    """A metric's means over stretches of a run, POINTS at most: when so many are there, each two
    become one, and later stretches are twice as long.
    """

    def __init__(self) -> None:
        self._done: list[Point] = []
        self._open: list[Point] = []  # the stretch that is not full yet
        self._length = 1

    def add(self, step: int, value: float) -> None:
        """The metric's value in `step`."""
        self._open.append((step, value))
        if len(self._open) == self._length:
            self._done.append(_mean(self._open))
            self._open = []
        if len(self._done) == POINTS:
            self._done = [_mean(self._done[i : i + 2]) for i in range(0, POINTS, 2)]
            self._length *= 2

    @property
    def points(self) -> list[Point]:
        """(step, value) of each stretch, in order."""
        return self._done + ([_mean(self._open)] if self._open else [])


def _mean(points: list[Point]) -> Point:
    steps, values = zip(*points, strict=True)
    return sum(steps) / len(points), sum(values) / len(points)


class Curves:
    """The curves of a run, recorded as it goes."""

    def __init__(self) -> None:
        self.by_metric: dict[str, Curve] = {}

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics of a step; what is no finite number is passed over."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self.by_metric.setdefault(name, Curve()).add(step, value)


def _drawn(name: str, points: list[Point]) -> str:
    """A metric as an SVG line, with its smallest and largest value beside it."""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    first, last = steps[0], steps[-1]
    across = WIDTH / ((last - first) or 1)
    up = (HEIGHT - 10) / ((high - low) or 1)
    line = " ".join(
        f"{(step - first) * across:.1f},{HEIGHT - 5 - (value - low) * up:.1f}"
        for step, value in points
    )
    return (
        f"<h3>{html.escape(name)}: last {values[-1]:.4g}, from {low:.4g} to {high:.4g}, "
        f"steps {first:.0f} to {last:.0f}</h3>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<polyline fill="none" stroke="#15c" points="{line}"/></svg>'
    )


def _steps(folder: Path) -> list[int]:
    """The steps whose pictures are in `folder`, the newest first."""
    names = (path.name.removeprefix("step_") for path in folder.glob("step_*"))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _pictures(folder: Path, step: int) -> str:
    files = sorted(folder.glob(f"step_{step}/page_*.png"), key=lambda path: (len(path.name), path))
    images = "".join(
        f'<img src="step_{step}/{quote(os.fsencode(path.name))}" alt="step {step}" loading="lazy">'
        for path in files
    )
    return f"<h3>step {step}</h3>{images}"
