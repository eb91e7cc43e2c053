"""How near a reconstruction is to the truth: NRMSE, SSIM, magnitude correlation.

Where a figure is undefined, as beside a truth of zeros, it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def nrmse(image: Array, truth: Array, mask: Array | None = None) -> float:
    """|image - truth| / |truth| (2-norms) of complex or real arrays, inside `mask` where given."""
    inside = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(mask > 0, truth.shape)
    power = float(np.linalg.norm(truth[inside]))
    return float(np.linalg.norm((image - truth)[inside])) / power if power > 0 else math.nan


def ssim(image: Array, truth: Array) -> float:
    """Structural similarity of two (H, W) magnitude images, data range that of `truth` (Wang et
    al., 2004).
    """
    from skimage.metrics import structural_similarity

    one, two = np.abs(image).astype(np.float64), np.abs(truth).astype(np.float64)
    span = two.max() - two.min()
    if not span > 0 or min(two.shape) < 3:  # the least window has 3 pixels
        return math.nan
    window = min(7, min(two.shape) - 1 + min(two.shape) % 2)
    return float(structural_similarity(one, two, data_range=span, win_size=window))


def magnitude_correlation(image: Array, other: Array, mask: Array) -> float:
    """Pearson correlation of the magnitudes of two (H, W) images over the pixels where mask > 0."""
    pair = np.abs(image)[mask > 0], np.abs(other)[mask > 0]
    if any(len(values) < 2 or values.std() == 0 for values in pair):
        return math.nan
    return float(np.corrcoef(*pair)[0, 1])


def mean(figures: Iterable[float]) -> float:
    """The mean of the figures that are defined."""
    defined = [figure for figure in figures if not math.isnan(figure)]
    return float(np.mean(defined)) if defined else math.nan


def written(figure: float | None) -> str:
    """A figure in a table: four decimals, or a dash where it is undefined."""
    return "-" if figure is None or math.isnan(figure) else f"{figure:.4f}"


def recorded(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as JSON has them: null where one is undefined."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in figures.items()
    }
