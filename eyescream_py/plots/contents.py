"""What a window of a run shows: pictures, curves, or sliders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eyescream_py.plots.client import curve_message, picture_message
from eyescream_py.plots.sliders import Slider, sliders_message

if TYPE_CHECKING:
    import torch

MAX_POINTS = 2000  # per series; then every second point is dropped


@dataclass
class Pictures:
    """A grid of pictures, shown `width` pixels wide."""

    title: str
    grid: np.ndarray  # (height,width,C) uint8
    width: int

    def copy(self) -> Pictures:
        """Itself: it is never changed."""
        return self

    def message(self, window: str, env: str) -> dict[str, Any]:
        """What Visdom is sent."""
        return picture_message(window, env, self.title, self.grid, self.width)


@dataclass
class Curve:
    """Named series over one axis; `series` maps a name to its xs and ys."""

    title: str
    labels: tuple[str, str]
    series: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    def append(self, x: float, values: dict[str, float]) -> None:
        """Add a point to every series named."""
        for name, value in values.items():
            xs, ys = self.series.setdefault(name, ([], []))
            xs.append(float(x))
            ys.append(float(value))
            if len(xs) > MAX_POINTS:
                del xs[1:-1:2], ys[1:-1:2]

    def copy(self) -> Curve:
        """A copy that later points leave alone."""
        series = {name: (list(xs), list(ys)) for name, (xs, ys) in self.series.items()}
        return Curve(self.title, self.labels, series)

    def message(self, window: str, env: str) -> dict[str, Any]:
        """What Visdom is sent."""
        return curve_message(window, env, self.title, self.labels, self.series)


@dataclass
class Sliders:
    """Sliders to be moved on the page."""

    title: str
    sliders: tuple[Slider, ...]

    def copy(self) -> Sliders:
        """Itself: it is never changed."""
        return self

    def message(self, window: str, env: str) -> dict[str, Any]:
        """What Visdom is sent."""
        return sliders_message(window, env, self.title, self.sliders)


def as_uint8(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """(N,C,H,W) values 0..1 -> uint8; a tensor is converted on its own device."""
    if not isinstance(images, np.ndarray):
        images = images.detach().float().nan_to_num(0).clamp(0, 1).mul(255).round().byte()
        return images.cpu().numpy()
    return np.rint(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)
