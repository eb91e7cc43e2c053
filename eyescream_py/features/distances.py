"""How far two sets of pictures are apart as a feature network sees them.

Both distances are zero for equal distributions and grow with the difference. They are NOT the FID
and KID of papers, whose features are those of Inception-v3: these are of the network that is given,
so that only figures made with the same network, the same sides and as many pictures compare.

Fréchet distance: Heusel et al. 2017, arXiv 1706.08500. It is biased: it falls as the number of
pictures grows. Kernel distance: Binkowski et al. 2018, arXiv 1801.01401, unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from eyescream_py.features.base import FeatureNetwork
from eyescream_py.system.idle import say_idle

BATCH = 50
SMALLEST_SET = 4
SMALL, LARGE = 112, 224  # sides that pictures are seen at, pixels: smaller ones four times as fast


@dataclass(frozen=True)
class Comparison:
    """How far sets of pictures are from a reference set."""

    network: str  # what looked at them, in words
    side: int  # pixels, at which it did
    frechet: dict[str, float]
    kernel: dict[str, KernelDistance]


def suffices(judge: str, count: int) -> bool:
    """Whether the network `judge` (none for none) is asked about so many pictures; a line says
    where they are too few for one that was typed."""
    few = count < SMALLEST_SET
    say_idle((few, f"with fewer than {SMALLEST_SET} pictures", ("features",)))
    return judge != "none" and not few


def compared(
    network: FeatureNetwork, reference: torch.Tensor, sets: Mapping[str, torch.Tensor]
) -> Comparison:
    """Both distances of each of `sets` to `reference`, pictures as in `vectors_of`."""
    seen = vectors_of(network, reference)
    others = {name: vectors_of(network, pictures) for name, pictures in sets.items()}
    return Comparison(
        network.title,
        side_for(reference),
        {name: frechet_distance(seen, rows) for name, rows in others.items()},
        {name: kernel_distance(seen, rows) for name, rows in others.items()},
    )


def side_for(pictures: torch.Tensor) -> int:
    """The side in pixels at which pictures of this size are looked at."""
    return SMALL if max(pictures.shape[-2:]) <= SMALL else LARGE


def prepared(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(N, 1 or 3, H, W), floats 0..1 -> (N, 3, side, side), -1..1."""
    colours = pictures.float().expand(-1, 3, -1, -1)
    if colours.shape[-2:] != (side, side):
        colours = F.interpolate(colours, (side, side), mode="bicubic", antialias=True)
    return colours.clamp(0, 1) * 2 - 1


@torch.no_grad()
def vectors_of(
    network: FeatureNetwork, pictures: torch.Tensor, side: int | None = None, batch: int = BATCH
) -> torch.Tensor:
    """What the network says of pictures (N, 1 or 3, H, W), floats 0..1: (N, D) on their device.

    Each picture is resized to `side` x `side` pixels (`side_for` by default), smoothly both ways;
    gray ones become colour pictures.
    """
    side = side or side_for(pictures)
    return torch.cat([network.vectors(prepared(part, side)) for part in pictures.split(batch)])


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Squared Fréchet distance of the normal distributions that fit two sets (N, D) and (M, D).

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), the last as the sum of singular values of
    A B', where S1 = A'A and S2 = B'B: no root of a matrix that may be singular.
    """
    (mean1, root1), (mean2, root2) = _normal(first), _normal(second)
    shared = torch.linalg.svdvals(root1 @ root2.T).sum()
    spread = root1.square().sum() + root2.square().sum() - 2 * shared
    return max(0.0, float((mean1 - mean2).square().sum() + spread))


def _normal(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and a root (at most D, D) of the covariance, in double."""
    _check(rows)
    rows = rows.double()
    mean = rows.mean(0)
    root = (rows - mean) / (len(rows) - 1) ** 0.5
    return mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


@dataclass(frozen=True)
class KernelDistance:
    """An estimate and how far it would scatter if other pictures of the same kinds were taken."""

    value: float  # may be a little below zero for equal distributions
    spread: float  # one standard deviation


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> KernelDistance:
    """Squared maximum mean discrepancy of two sets (N, D), (M, D) by the kernel (x.y / D + 1)^3.

    Unbiased: the mean over all pairs of different pictures, so that its expectation is the same
    for every number of pictures. The spread is the jackknife's, leaving out one picture at a time.
    """
    _check(first)
    _check(second)
    a, b = first.double(), second.double()
    n, m = len(a), len(b)
    own1, own2, mixed = _row_sums(a), _row_sums(b), _kernel(a, b)
    across1, across2 = mixed.sum(1), mixed.sum(0)
    whole1, whole2, across = own1.sum(), own2.sum(), across1.sum()
    value = whole1 / (n * (n - 1)) + whole2 / (m * (m - 1)) - 2 * across / (n * m)
    # The estimate without picture i loses its row and its column.
    without1 = (
        (whole1 - 2 * own1) / ((n - 1) * (n - 2))
        + whole2 / (m * (m - 1))
        - 2 * (across - across1) / ((n - 1) * m)
    )
    without2 = (
        whole1 / (n * (n - 1))
        + (whole2 - 2 * own2) / ((m - 1) * (m - 2))
        - 2 * (across - across2) / (n * (m - 1))
    )
    variance = _jackknife(without1) + _jackknife(without2)
    return KernelDistance(float(value), float(variance.sqrt()))


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b.T / a.shape[1] + 1).pow(3)


def _row_sums(a: torch.Tensor) -> torch.Tensor:
    """Sums of the kernel over the other pictures of the same set: (N,)."""
    kernel = _kernel(a, a)
    return kernel.sum(1) - kernel.diagonal()


def _jackknife(without: torch.Tensor) -> torch.Tensor:
    count = len(without)
    return (count - 1) / count * (without - without.mean()).square().sum()


def _check(rows: torch.Tensor) -> None:
    if rows.ndim != 2 or len(rows) < SMALLEST_SET:
        raise ValueError(f"{SMALLEST_SET} vectors at least are needed (N, D), not {rows.shape}")
