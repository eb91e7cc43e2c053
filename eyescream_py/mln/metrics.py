"""How near a reconstruction is to the truth: NRMSE, SSIM, magnitude correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def nrmse(image: Array, truth: Array, mask: Array | None = None) -> float:
    """|image - truth| / |truth| (2-norms) of complex or real arrays, inside `mask` where given."""
    inside = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(mask > 0, truth.shape)
    return float(np.linalg.norm((image - truth)[inside]) / np.linalg.norm(truth[inside]))


def ssim(image: Array, truth: Array) -> float:
    """Structural similarity of two (H, W) magnitude images, data range that of `truth` (Wang et
    al., 2004).
    """
    from skimage.metrics import structural_similarity

    one, two = np.abs(image).astype(np.float64), np.abs(truth).astype(np.float64)
    return float(structural_similarity(one, two, data_range=two.max() - two.min()))


def magnitude_correlation(image: Array, other: Array, mask: Array) -> float:
    """Pearson correlation of the magnitudes of two (H, W) images over the pixels where mask > 0."""
    return float(np.corrcoef(np.abs(image)[mask > 0], np.abs(other)[mask > 0])[0, 1])
