"""The pictures to show first: what D takes for real, what is like much of what G draws, and what is
like its own mirror image, as faces are.

D alone is a poor judge: the few pictures of a thousand that it likes best are often those that
deceive it. A fault seldom comes twice in the same place, so a picture that has close neighbours
among G's own is seldom a broken one (distances to the k nearest, as in Kynkäänniemi et al. 2019,
arXiv 1904.06991, but to G's pictures in the place of real ones), and seldom on both sides of a
face. Figures: docs/evaluate.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyescream_py.results.sampling import judge

FIRST, UNLIKE = 64, 0.95  # the first 64 differ by this share of the mean over all pairs
# of the median distance: how near others may be
APART = (0.0, 0.4, 0.44, 0.48, 0.52, 0.56, 0.6, 0.64, 0.68)
LOW = 0.25  # of all pictures: those that a ranking has among its last are not shown first
BLUR = 5  # pixels over which a picture is averaged, to see what detail it has beside that
COMPANY = 10  # nearest neighbours over which a picture's distance is averaged

Opinion = tuple[Tensor, Tensor | None]  # D's scores [N], and its last layer's inputs [N,K]


def choose(
    D: nn.Module, images: Tensor, batch: int = 256, opinion: Opinion | None = None
) -> Tensor:
    """Indices of the pictures [N,C,H,W], those to show first first.

    By the sum of five rankings: D's score, its score of the mirrored picture, likeness to the
    mirrored picture, nearness to other pictures in pixels (each centred and of unit length), and
    nearness in the inputs of D's last layer with weights (none where D has no such layer). Those
    among the last quarter of any of them, or of the ranking by fine detail, come after all others.
    Where the first are much the same face many times, as the middle of a crowd can be, those near
    to an earlier one come last. `opinion` is what `judge_and_read` returns, where it is known
    already.
    """
    liked, features = opinion or judge_and_read(D, images, batch)
    centred = images.float() - images.float().mean((1, 2, 3), keepdim=True)
    values = [liked, judge(D, images.flip(3), batch)]
    values += [_likeness_to_mirrored(centred), -_loneliness(centred.flatten(1))]
    if features is not None:
        values.append(-_loneliness(features))
    rankings = torch.stack([_ranks(row) for row in values])
    # a face without eyes and mouth is like many others: detail excludes, but earns nothing
    worst = torch.minimum(rankings.amin(0), _ranks(_detail(centred)))
    total = rankings.sum(0) + (worst > LOW * len(images)) * rankings.numel()
    return _apart(images, total.argsort(descending=True, stable=True))


def _likeness_to_mirrored(centred: Tensor) -> Tensor:
    """0 for a picture that is its own mirror image, less for others. [N,C,H,W] -> [N]"""
    rows = functional.normalize(centred.flatten(1), dim=1)
    return -(rows - functional.normalize(centred.flip(3).flatten(1), dim=1)).norm(dim=1)


def _detail(images: Tensor) -> Tensor:
    """How much a picture differs from itself blurred. [N,C,H,W] -> [N]"""
    edge = BLUR // 2
    framed = functional.pad(images, (edge,) * 4, mode="replicate")
    return (images - functional.avg_pool2d(framed, BLUR, stride=1)).flatten(1).norm(dim=1)


def _apart(images: Tensor, order: Tensor) -> Tensor:
    """The order [N], or where the first in it are too much alike, the one in which they are least
    apart and still differ enough.
    """
    rows = images.flatten(1).float()
    distances = torch.cdist(rows, rows)
    wanted, median = UNLIKE * _mean_between(distances), distances.median()
    for reach in APART:
        spread = _near_ones_last((distances < reach * median).cpu(), order)
        first = spread[:FIRST]
        if _mean_between(distances[first][:, first]) >= wanted:
            break
    return spread


def _mean_between(distances: Tensor) -> Tensor:
    """The mean distance of two different pictures. [N,N] -> scalar"""
    return distances.sum() / max(1, len(distances) * (len(distances) - 1))


def _near_ones_last(near: Tensor, order: Tensor) -> Tensor:
    """The order [N], in which those `near` [N,N] to an earlier one come after the others."""
    shown, alike, taken = [], [], torch.zeros(len(near), dtype=torch.bool)
    for index in order.tolist():
        if taken[index]:
            alike.append(index)
        else:
            shown.append(index)
            taken |= near[index]
    return order.new_tensor(shown + alike)


def judge_and_read(D: nn.Module, images: Tensor, batch: int) -> Opinion:
    """D's scores [N] of the pictures, and the inputs [N,K] of its last layer with weights."""
    weighted = [layer for layer in D.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    given: list[Tensor] = []
    if not weighted:
        return judge(D, images, batch), None
    hook = weighted[-1].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        liked = judge(D, images, batch)
    finally:
        hook.remove()
    if sum(map(len, given)) != len(images):  # it did not run, or reads no pictures one by one
        return liked, None
    return liked, torch.cat([part.flatten(1).float() for part in given])


def _loneliness(rows: Tensor) -> Tensor:
    """Mean distance of each row, as a unit vector, to its nearest others. [N,K] -> [N]"""
    rows = functional.normalize(rows, dim=1)
    distances = torch.cdist(rows, rows)
    distances.fill_diagonal_(torch.inf)
    nearest = min(COMPANY, len(rows) - 1)
    return distances.topk(nearest, largest=False).values.mean(1)


def _ranks(values: Tensor) -> Tensor:
    """How many values are no larger; what is no number is smallest. [N] -> int64 [N]"""
    values = values.nan_to_num(nan=-torch.inf)
    return torch.searchsorted(values.sort().values, values, right=True)
