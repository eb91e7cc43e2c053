"""How near generated pictures are to real ones, measured on pixels alone.

The sliced Wasserstein distance on patches of a Laplacian pyramid follows Karras et al. 2018
("Progressive growing of GANs", section 5), with one difference: patches of both sets are
normalised by the real set's mean and deviation, so that blur and wrong contrast count. Every
figure depends on its arguments and a seed only; nothing here touches another stream.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from eyescream_py.results.sampling import nearest
from eyescream_py.torch7.random import TorchSource

PATCH = 7  # pixels along a side
PATCHES_PER_PICTURE = 16
DIRECTIONS = 256
SMALLEST_HALVED = 16  # pictures below this size are the pyramid's last level
PAIRED = 500  # pictures whose pairwise distances make the diversity
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson 1983


def _blur(images: Tensor) -> Tensor:
    """The 5x5 binomial filter of every channel, mirrored at the border. [N,C,H,W]"""
    line = images.new_tensor(_BINOMIAL)
    kernel = torch.outer(line, line).expand(images.shape[1], 1, 5, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel, groups=images.shape[1])


def halved(images: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,C,(H+1)//2,(W+1)//2]: blurred, then every second pixel."""
    return _blur(images)[:, :, ::2, ::2]


def doubled(images: Tensor, height: int, width: int) -> Tensor:
    """The pyramid's way up: pixels apart, zeros between them, blurred with four times the weight.

    [N,C,h,w] -> [N,C,height,width], where `halved` of that size is (h,w).
    """
    apart = images.new_zeros(*images.shape[:2], height, width)
    apart[:, :, ::2, ::2] = images
    return 4 * _blur(apart)


def pyramid(images: Tensor) -> list[Tensor]:
    """Laplacian levels from the finest to the coarsest; the last one is the small picture itself.

    Sizes of 32 px give levels of 32, 16 and 8.
    """
    levels = []
    while min(images.shape[-2:]) >= SMALLEST_HALVED:
        small = halved(images)
        levels.append(images - doubled(small, *images.shape[-2:]))
        images = small
    return [*levels, images]


def patches(images: Tensor, source: TorchSource, per_picture: int = PATCHES_PER_PICTURE) -> Tensor:
    """Patches at random places as [N*per_picture, C*k*k]; k is 7, or the picture's size if less."""
    count, channels, height, width = images.shape
    k = min(PATCH, height, width)
    windows = images.unfold(2, k, 1).unfold(3, k, 1)  # [N,C,H-k+1,W-k+1,k,k], a view
    n = count * per_picture
    rows, columns = (
        source.indices_(torch.empty(n, dtype=torch.int64, device=images.device), size - k + 1)
        for size in (height, width)
    )
    picture = torch.arange(count, device=images.device).repeat_interleave(per_picture)
    return windows[picture, :, rows, columns].reshape(n, channels * k * k)


def directions(dimensions: int, source: TorchSource, count: int = DIRECTIONS) -> Tensor:
    """`count` random unit vectors. [dimensions,count]"""
    vectors = torch.empty(dimensions, count, device=source.device)
    vectors = source.normal_(vectors, 0, 1)
    return vectors / vectors.norm(dim=0)


def sliced_wasserstein(real: Tensor, other: Tensor, along: Tensor) -> float:
    """1000 times the mean distance of the sorted projections of two sets. [N,P], [N,P], [P,K]"""
    if real.shape != other.shape:
        raise ValueError(f"two sets of one shape are needed: {real.shape} and {other.shape}")
    total = 0.0
    for part in along.split(64, dim=1):  # bounds the memory
        apart = (real @ part).sort(0).values - (other @ part).sort(0).values
        total += float(apart.abs().mean()) * part.shape[1]
    return 1000 * total / along.shape[1]


def _normalised(descriptors: Tensor, like: Tensor, channels: int) -> Tensor:
    """`descriptors` less the mean of `like` over its deviation, channel by channel. [N,C*k]"""
    a, b = (d.reshape(len(d), channels, -1) for d in (descriptors, like))
    mean = b.mean((0, 2), keepdim=True)
    deviation = b.std((0, 2), keepdim=True).clamp_min(1e-8)
    return ((a - mean) / deviation).flatten(1)


def distances(real: Tensor, other: Tensor, seed: int = 0) -> dict[str, float]:
    """Sliced Wasserstein distances (x1000) of two equally large sets, floats 0..1 [N,C,H,W].

    `image` is that of whole pictures, `patch16` that of 7x7 patches of the 16 px level, and so on;
    `mean` is the mean over the patch levels. Smaller is nearer.
    """
    if real.shape != other.shape:
        raise ValueError(f"two sets of one shape are needed: {real.shape} and {other.shape}")
    source = TorchSource(seed, real.device)
    result = {"image": _distance(real.flatten(1), other.flatten(1), real.shape[1], source)}
    for a, b in zip(pyramid(real), pyramid(other), strict=True):
        pair = patches(a, source), patches(b, source)
        result[f"patch{a.shape[-1]}"] = _distance(*pair, a.shape[1], source)
    levels = [value for name, value in result.items() if name != "image"]
    return {**result, "mean": sum(levels) / len(levels)}


def _distance(real: Tensor, other: Tensor, channels: int, source: TorchSource) -> float:
    along = directions(real.shape[1], source)
    return sliced_wasserstein(
        _normalised(real, real, channels), _normalised(other, real, channels), along
    )


def diversity(images: Tensor) -> float:
    """Mean 2-norm between two different pictures of the set (at most its first 500)."""
    flat = images[:PAIRED].flatten(1).double()
    count = len(flat)
    if count < 2:
        raise ValueError("two pictures at least are needed to compare them")
    return float(torch.cdist(flat, flat).sum() / (count * (count - 1)))


def nearest_distances(images: Tensor, candidates: Tensor) -> Tensor:
    """2-norm of each picture to the nearest candidate, 0 of a copy. [N,C,H,W], [M,C,H,W] -> [N]"""
    # the product that finds the nearest cancels digits: no distance is read from it
    return (images - candidates[nearest(images, candidates)]).flatten(1).norm(dim=1)


def auc(positive: Tensor, negative: Tensor) -> float:
    """Chance that a positive's score is above a negative's, ties half: the area under the ROC."""
    below, upto = _ranks_among(positive, negative)
    return float((below + upto).double().mean() / (2 * len(negative)))


def _ranks_among(values: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each value how many of `others` are less, and how many are not greater."""
    ordered = others.sort().values
    return torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)


def roc(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """(false positive rate, true positive rate) at every threshold, from (0,0) to (1,1)."""
    thresholds = torch.cat([positive, negative]).unique().flip(0)
    rates = [
        (len(scores) - _ranks_among(thresholds, scores)[0]).double() / len(scores)
        for scores in (negative, positive)
    ]
    zero = torch.zeros(1, dtype=torch.float64, device=positive.device)
    return torch.cat([zero, rates[0]]), torch.cat([zero, rates[1]])
