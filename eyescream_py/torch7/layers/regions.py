"""densecap: regions of a picture with a caption each, and the layers that it is made of.

Boxes are rows (x, y, width, height) around their centre, in pixels of the picture from 1. Source:
jcjohnson/densecap, one Lua file per class, and box_utils.lua.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .stn import AffineGridGenerator


class MakeAnchors(nn.Module):
    """Features (N,C,H,W) -> k boxes around each of their places: (N,4k,H,W), by size alone.

    ``anchors`` (2,k): widths and heights; ``start`` and ``step``: x and y of the first place's
    centre, and from one to the next.
    """

    anchors: Tensor

    def __init__(
        self, start: tuple[float, float], step: tuple[float, float], anchors: Tensor
    ) -> None:
        super().__init__()
        self.start, self.step = start, step
        self.register_buffer("anchors", anchors)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        columns = torch.arange(width).to(x) * self.step[0] + self.start[0]
        rows = torch.arange(height).to(x) * self.step[1] + self.start[1]
        shape = (batch, self.anchors.shape[1], height, width)
        wide, high = (size.to(x).view(1, -1, 1, 1) for size in self.anchors)
        parts = [part.expand(shape) for part in (columns, rows.view(-1, 1), wide, high)]
        return torch.stack(parts, 2).flatten(1, 2)


class ReshapeBoxFeatures(nn.Module):
    """(N,k*D,H,W) -> (N,k*H*W,D)."""

    def __init__(self, boxes: int) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.boxes, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)


class ApplyBoxTransform(nn.Module):
    """[boxes (...,4), changes (...,4)] -> boxes moved by changes times their sizes, and resized by
    the changes' exponentials."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        boxes, changes = inputs
        centres, sizes = boxes.split(2, -1)
        moves, scales = changes.split(2, -1)
        return torch.cat([centres + moves * sizes, sizes * scales.exp()], -1)


class PosSlicer(nn.Module):
    """[rows, true ones] -> as many of the first rows as there are true ones; all, if none."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        rows, true = inputs
        return rows[: len(true)] if true.numel() else rows


class RegularizeLayer(nn.Module):
    """Its input; ``weight`` times it is added to the gradient, which is taken ``times``."""

    def __init__(self, weight: float, times: float = 1.0) -> None:
        super().__init__()
        self.weight, self.times = weight, times

    def forward(self, x: Tensor) -> Tensor:
        y = x.view_as(x)
        if y.requires_grad:
            y.register_hook(lambda grad: grad * self.times + self.weight * x.detach())
        return y


class LocalizationLayer(nn.Module):
    """Features of one picture (1,C,H,W) -> [features of the likeliest regions (B,C,height,width),
    their boxes (B,4), and two empty tensors], in evaluation.

    ``proposals``: features -> boxes, anchors, changes and scores, (1,K,4) and (1,K,2) of a region
    and of none. Of regions that share more than ``overlap`` of their union the likelier stays, of
    all at most ``most``. ``picture``: its (height, width), to be set before each call.
    """

    picture: tuple[int, int] | None = None

    def __init__(
        self,
        proposals: nn.Module,
        size: tuple[int, int],
        overlap: float = 0.3,
        most: int | None = 300,
        clip: bool = True,
    ) -> None:
        super().__init__()
        self.proposals, self.size = proposals, size
        self.overlap, self.most, self.clip = overlap, most, clip

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.training:
            raise ValueError("regions are drawn by true ones while training: call eval()")
        if self.picture is None:
            raise ValueError("set picture to its (height, width) first")
        boxes, _, _, scores = (part[0] for part in self.proposals(x))
        if self.clip:
            boxes, valid = clipped(boxes, *self.picture)
            boxes, scores = boxes[valid], scores[valid]
        chosen = likeliest(boxes, scores.softmax(1)[:, 0], self.overlap, self.most)
        boxes = boxes[chosen]
        empty = x.new_zeros(0)
        return [self._pooled(x, boxes, self.picture), boxes, empty, empty]

    def _pooled(self, x: Tensor, boxes: Tensor, picture: tuple[int, int]) -> Tensor:
        """The features at a grid of places in each box, interpolated."""
        extent = boxes.new_tensor(picture)
        centres, sizes = (part.flip(1) for part in boxes.split(2, 1))  # y before x
        matrices = torch.cat(
            [
                torch.diag_embed(sizes / extent),
                ((2 * centres - extent - 1) / (extent - 1))[..., None],
            ],
            2,
        )
        grids = AffineGridGenerator(*self.size)(matrices)
        planes = x.expand(len(boxes), -1, -1, -1)
        return F.grid_sample(planes, grids.flip(-1), padding_mode="zeros", align_corners=True)


class DenseCap(nn.Module):
    """A picture (1,3,H,W) -> [scores, boxes and changes of its regions, final boxes, words, and two
    empty tensors], in evaluation.

    Scores, final boxes and words are of the regions that share at most ``overlap`` of their union.
    """

    def __init__(self, net: nn.Sequential, overlap: float = 0.3) -> None:
        super().__init__()
        self.net, self.overlap = net, overlap

    def forward(self, x: Tensor) -> list[Any]:
        for layer in self.net:
            if isinstance(layer, LocalizationLayer):
                layer.picture = (x.shape[2], x.shape[3])
        made = list(self.net(x))
        if self.overlap > 0:
            kept = likeliest(made[3], made[0][:, 0], self.overlap)
            for number in (0, 3, 4):
                made[number] = made[number][kept]
        return made


def corners(boxes: Tensor) -> Tensor:
    """Left, top, right and bottom of boxes (B,4), the pixels there included."""
    centres, sizes = boxes.split(2, 1)
    return torch.cat([centres - (sizes - 1) / 2, centres + (sizes - 1) / 2], 1)


def clipped(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes (B,4) within a picture, and which of them have an extent there."""
    low = boxes.new_tensor([1, 1, 2, 2])
    high = boxes.new_tensor([width - 1, height - 1, width, height])
    first, last = corners(boxes).clamp(low, high).split(2, 1)
    return torch.cat([(first + last) / 2, last - first], 1), (last > first).all(1)


@torch.no_grad()
def likeliest(boxes: Tensor, scores: Tensor, overlap: float, most: int | None = None) -> Tensor:
    """Indices by falling score, without boxes that share more than ``overlap`` with a likelier."""
    edges = corners(boxes)
    areas = (edges[:, 2:] - edges[:, :2] + 1).prod(1)
    left = scores.float().argsort(descending=True, stable=True)
    chosen: list[Tensor] = []
    while len(left) and (most is None or len(chosen) < most):
        best, left = left[0], left[1:]
        chosen.append(best)
        first = edges[left, :2].maximum(edges[best, :2])
        last = edges[left, 2:].minimum(edges[best, 2:])
        shared = (last - first + 1).clamp(min=0).prod(1)
        left = left[shared / (areas[left] + areas[best] - shared) <= overlap]
    return torch.stack(chosen) if chosen else left[:0]
