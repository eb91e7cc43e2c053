"""Where and when k-space is sampled: spirals, Cartesian masks, their times. k is in units of
1/FOV.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eyescream_py.system.errors import UserError

Floats = NDArray[np.float64]
MOST_PAIRS = 50_000_000  # of samples; they take 2.6 GB


def spiral(samples: int, turns: float, k_max: float, density: float = 1.0) -> Floats:
    """A single spiral from k = 0 to |k| = `k_max`, (2, samples), evenly spaced along the curve.

    Radius grows as (angle / last angle) ** density: 1 is Archimedean, above 1 samples the centre
    more densely. Raises ValueError for fewer than 2 samples or numbers that are not positive.
    """
    if samples < 2 or min(turns, k_max, density) <= 0:
        raise ValueError("a spiral needs at least 2 samples and positive turns, k_max and density")
    fraction = np.linspace(0.0, 1.0, 64 * max(samples, int(turns) + 1))
    curve = k_max * fraction**density * np.exp(2j * np.pi * turns * fraction)
    length = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(curve)))))
    even = np.interp(np.linspace(0.0, length[-1], samples), length, fraction)
    points = k_max * even**density * np.exp(2j * np.pi * turns * even)
    return np.stack([points.real, points.imag])


def cartesian(mask: NDArray[np.bool_]) -> Floats:
    """The positions of a centred (N, N) sampling mask, (2, M), row by row: index minus N/2."""
    rows, columns = np.nonzero(mask)
    return np.stack([rows - mask.shape[0] // 2, columns - mask.shape[1] // 2]).astype(np.float64)


def poisson_disc_mask(
    side: int,
    acceleration: float,
    rng: np.random.Generator,
    calibration: int = 10,
    falloff: float = 1.5,
) -> NDArray[np.bool_]:
    """A centred (side, side) variable-density mask of about side^2 / acceleration samples in the
    inscribed disc.

    Points are taken in random order unless one already taken is nearer than a radius that grows
    from the centre outwards; the radius scale is found by bisection. The central `calibration`
    square is always full.
    """
    centre = np.arange(side) - side // 2
    radius = np.hypot(centre[:, None], centre[None, :])
    order = rng.permutation(np.flatnonzero(radius <= side / 2))
    low, high = 0.0, float(side) / 4
    for _ in range(12):
        scale = (low + high) / 2
        mask = _disc_mask(order, scale * (0.3 + (radius / (side / 2)) ** falloff), calibration)
        low, high = (scale, high) if mask.sum() > side**2 / acceleration else (low, scale)
    return mask


def _disc_mask(order: NDArray[np.int64], distance: Floats, calibration: int) -> NDArray[np.bool_]:
    side = distance.shape[0]
    blocked = np.zeros((side, side), bool)
    mask = np.zeros((side, side), bool)
    for row, column in zip(*np.unravel_index(order, mask.shape), strict=True):
        if blocked[row, column]:
            continue
        mask[row, column] = True
        reach = distance[row, column]
        top, left = max(0, int(row - reach)), max(0, int(column - reach))
        rows = np.arange(top, min(side, int(row + reach) + 1))
        columns = np.arange(left, min(side, int(column + reach) + 1))
        near = (rows[:, None] - row) ** 2 + (columns[None, :] - column) ** 2 < reach**2
        blocked[np.ix_(rows, columns)] |= near
    first = max(0, side // 2 - calibration // 2)
    middle = slice(first, first + calibration)
    mask[middle, middle] = True
    return mask


def is_on_grid(trajectory: Floats, side: int) -> bool:
    """Whether every sample lies on an integer k that a plain FFT of `side` pixels serves, -side/2
    .. side/2 - 1 where `side` is even.
    """
    whole = bool(np.array_equal(trajectory, np.round(trajectory)))
    return whole and trajectory.min() >= -(side // 2) and trajectory.max() < side - side // 2


def density_compensation(trajectory: Floats, sweeps: int = 15, width: float = 1.0) -> Floats:
    """Density-compensation weights (M,) by the fixed-point iteration w <- w / (kernel * w) (Pipe
    and Menon, 1999).

    The kernel is a truncated Gaussian of standard deviation `width` / 2; sums of weights are areas
    in k-space. Raises UserError where all samples lie within each other's kernels, as in another
    unit than 1/FOV, and their pairs fill the memory.
    """
    from scipy.sparse import csr_matrix
    from scipy.spatial import cKDTree

    tree = cKDTree(trajectory.T)
    count = int(tree.count_neighbors(tree, 1.5 * width))
    if count > MOST_PAIRS:
        raise UserError(
            f"Trajm2: its {trajectory.shape[1]} samples have {count} pairs within {1.5 * width:g} "
            "/ FOV, too many to weigh; give it in 1/FOV"
        )
    pairs = tree.sparse_distance_matrix(tree, 1.5 * width, output_type="coo_matrix")
    kernel = csr_matrix(
        (np.exp(-2 * (pairs.data / width) ** 2), (pairs.row, pairs.col)), shape=pairs.shape
    )
    weights = np.ones(trajectory.shape[1])
    for _ in range(sweeps):
        weights /= kernel @ weights
    area = 2 * np.pi * (width / 2) ** 2 * (1 - np.exp(-2 * 1.5**2))
    return weights * area


def sample_times(samples: int, readout: float) -> Floats:
    """Times (samples,) of one readout of `readout` seconds, first sample at 0, last at
    `readout`.
    """
    return np.linspace(0.0, readout, samples)


def segment_interpolation(times: Floats, segments: int) -> Floats:
    """b (segments, M): linear interpolation in time between `segments` equally spaced times 0 ..
    max(times).

    At most two entries per sample are not zero and each column sums to 1. One segment is all
    ones.
    """
    if segments == 1:
        return np.ones((1, len(times)))
    position = times / times[-1] * (segments - 1) if times[-1] > 0 else np.zeros_like(times)
    return np.maximum(0.0, 1.0 - np.abs(position[None, :] - np.arange(segments)[:, None]))
