"""Object detection: DeepMask, SharpMask, and the layers of Fast R-CNN (inn, multipathnet).

Boxes are rows (image, left, top, right, bottom), counted from 1, as floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class DeepMask(nn.Module):
    """Images (N,3,H,W) -> [masks, scores], of two branches on one trunk (facebook's DeepMask).

    N is the batch of its training where views in the branches fix it.
    """

    def __init__(self, trunk: nn.Module, masks: nn.Module, scores: nn.Module) -> None:
        super().__init__()
        self.trunk, self.masks, self.scores = trunk, masks, scores

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.trunk(x)
        return [self.masks(x), self.scores(x)]


class SharpMask(nn.Module):
    """Images -> [masks, scores]; the masks are refined by what layers of the trunk gave.

    ``refs``: the first takes the trunk's output, each later one [that of the layer of the trunk
    at ``places``, counted from 1, and what the one before made].
    """

    def __init__(
        self,
        trunk: nn.Sequential,
        scores: nn.Module,
        refs: Sequence[nn.Module],
        places: Sequence[int],
    ) -> None:
        super().__init__()
        self.trunk, self.scores, self.refs = trunk, scores, nn.ModuleList(refs)
        self.places = tuple(places)

    def forward(self, x: Tensor) -> list[Tensor]:
        made = []
        for layer in self.trunk:
            x = layer(x)
            made.append(x)
        masks = self.refs[0](x)
        for place, refinement in zip(self.places, list(self.refs)[1:], strict=True):
            masks = refinement([made[place - 1], masks])
        return [masks, self.scores(x)]


class ROIPooling(nn.Module):
    """[images (N,C,H,W), boxes (R,5)] -> the maxima of each box's parts, (R,C,height,width).

    ``scale``: of the planes to the picture in which boxes are measured. ``second``: parts do not
    overlap, as since ``v2``. A part without a pixel is 0.
    """

    def __init__(self, height: int, width: int, scale: float = 1.0, second: bool = True) -> None:
        super().__init__()
        self.height, self.width, self.scale, self.second = height, width, scale, second

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        images, boxes = inputs
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes are (R,5), not {tuple(boxes.shape)}")
        corners = _rounded((boxes[:, 1:].float() - 1) * self.scale).tolist()
        pooled = [
            self._pooled(self._image(images, number), box)
            for number, box in zip(boxes[:, 0].tolist(), corners, strict=True)
        ]
        return torch.stack(pooled) if pooled else images.new_zeros(0, images.shape[1], *self._size)

    @property
    def _size(self) -> tuple[int, int]:
        return self.height, self.width

    def _image(self, images: Tensor, number: float) -> Tensor:
        if not 1 <= number < len(images) + 1:
            raise ValueError(f"a box is in image {number:g}, and there are {len(images)}")
        return images[int(number) - 1]

    def _pooled(self, image: Tensor, box: list[float]) -> Tensor:
        left, top, right, bottom = map(int, box)
        rows = self._parts(top, bottom, self.height, image.shape[1])
        columns = self._parts(left, right, self.width, image.shape[2])
        low, high = min(row.start for row in rows), max(row.stop for row in rows)
        band = image[:, low:high]
        # of equals the first in the order of memory, as in Lua: along a row first, then down
        across = torch.stack([_largest(band[:, :, column], 2) for column in columns], 2)
        shifted = [slice(row.start - low, max(row.stop - low, 0)) for row in rows]
        return torch.stack([_largest(across[:, row], 1) for row in shifted], 1)

    def _parts(self, first: int, last: int, count: int, size: int) -> list[slice]:
        length = torch.tensor(float(max(last - first + (not self.second), 1)))
        edges = torch.arange(count + 1) * (length / count)
        begins, ends = edges[:-1], edges[1:]
        rounds = (_rounded, _rounded) if self.second else (torch.floor, torch.ceil)
        limits = (rounds[0](begins), rounds[1](ends))
        starts, stops = ((limit.int() + first).clamp(0, size).tolist() for limit in limits)
        return [slice(a, b) for a, b in zip(starts, stops, strict=True)]

    def extra_repr(self) -> str:
        return f"{self.height}x{self.width}, scale={self.scale:g}"


def _rounded(x: Tensor) -> Tensor:
    """As C does, halves away from zero."""
    return x.sign() * (x.abs() + 0.5).floor()


def _largest(part: Tensor, dim: int) -> Tensor:
    """The maximum along a dimension; 0 of nothing."""
    if part.shape[dim]:
        return part.max(dim).values
    return part.new_zeros([size for d, size in enumerate(part.shape) if d != dim])


class Foveal(nn.Module):
    """Each box and it 1.5, 2 and 4 times as large around its centre: (R,5) -> (4R,5)."""

    def forward(self, boxes: Tensor) -> Tensor:
        number, corner = boxes[:, :1], boxes[:, 1:3]
        sides = boxes[:, 3:] - corner
        larger = [boxes]
        for times, shift in ((1.5, 0.25), (2.0, 0.5), (4.0, 1.5)):
            first = corner - sides * shift
            larger.append(torch.cat([number, first, first + sides * times], 1))
        return torch.stack(larger, 1).flatten(0, 1)


class ContextRegion(nn.Module):
    """Corners of boxes (R,5) times the matrix ``tr`` (4,4), which scales them."""

    tr: Tensor

    def __init__(self, tr: Tensor) -> None:
        super().__init__()
        self.register_buffer("tr", tr)

    def forward(self, boxes: Tensor) -> Tensor:
        return torch.cat([boxes[:, :1], boxes[:, 1:] @ self.tr], 1).detach()


class ConvertFrom(nn.Module):
    """[boxes (R,5), offsets (R,4)] -> the boxes moved by offsets times their sizes, and resized by
    their exponentials."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        boxes, offsets = inputs
        first, last = boxes[:, 1:3], boxes[:, 3:]
        sides = last - first
        centre = (first + last) * 0.5 + offsets[:, :2] * sides
        half = offsets[:, 2:].exp() * sides * 0.5
        return torch.cat([boxes[:, :1], centre - half, centre + half], 1)


class BBoxNorm(nn.Module):
    """Offsets (N,4K) in their own units again, but while training: times ``std`` plus ``mean``,
    four numbers each."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x
        return (x.reshape(-1, 4) * self.std + self.mean).reshape(x.shape)


class ModeSwitch(nn.Module):
    """One module while training, another in evaluation."""

    def __init__(self, while_training: nn.Module, otherwise: nn.Module) -> None:
        super().__init__()
        self.while_training, self.otherwise = while_training, otherwise

    def forward(self, x: Any) -> Any:
        return self.while_training(x) if self.training else self.otherwise(x)
