"""Layers of the package nnx, of before nn had their like: they change the size of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pooling import resize_linear


class SpatialPadding(nn.Module):
    """Zeros around an image, whose height and width are the dimensions ``y_dim`` and ``x_dim``.

    ``padding``: left, right, top, bottom; negative numbers cut (nn.SpatialPadding).
    """

    def __init__(self, padding: tuple[int, int, int, int], y_dim: int = 2, x_dim: int = 3) -> None:
        super().__init__()
        self.padding, self.y_dim, self.x_dim = padding, y_dim, x_dim

    def forward(self, x: Tensor) -> Tensor:
        dims = (self.y_dim - 1, self.x_dim - 1)
        return F.pad(x.movedim(dims, (-2, -1)), self.padding).movedim((-2, -1), dims)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.padding))


class SpatialReSampling(nn.Module):
    """An image of another size (nn.SpatialReSampling, SpatialReSamplingEx, SpatialUpSampling).

    ``mode``: bilinear (corners aligned); or simple, each pixel repeated, or the first of a block
    taken; or average, of a block's pixels. ``size``: height and width, each a number of pixels, or
    a fraction of the input's, which becomes a whole number by ``rounds`` or by cutting. Height is
    the dimension ``y_dim`` and width the one after; None: they are the last two.
    """

    def __init__(
        self,
        mode: str,
        size: tuple[int | float, int | float],
        y_dim: int | None = 2,
        rounds: bool = True,
    ) -> None:
        super().__init__()
        self.mode, self.size, self.y_dim, self.rounds = mode, size, y_dim, rounds

    def forward(self, x: Tensor) -> Tensor:
        first = x.dim() - 2 if self.y_dim is None else self.y_dim - 1
        planes = x.movedim((first, first + 1), (-2, -1))
        sizes = [
            self._size(given, now) for given, now in zip(self.size, planes.shape[-2:], strict=True)
        ]
        return self._resized(planes, sizes).movedim((-2, -1), (first, first + 1))

    def _size(self, given: int | float, now: int) -> int:
        if isinstance(given, int):
            return given
        return math.floor(given * now + 0.5) if self.rounds else int(given * now)

    def _resized(self, x: Tensor, sizes: list[int]) -> Tensor:
        if self.mode == "bilinear":
            rows = x.reshape(-1, 1, *x.shape[-2:])
            return resize_linear(rows, sizes).reshape(*x.shape[:-2], *sizes)
        larger = [size >= now for size, now in zip(sizes, x.shape[-2:], strict=True)]
        if larger[0] != larger[1]:
            raise ValueError(f"images of {tuple(x.shape[-2:])} cannot become {tuple(sizes)}")
        for dim, size in zip((-2, -1), sizes, strict=True):
            x = self._repeated(x, dim, size) if larger[0] else self._fewer(x, dim, size)
        return x

    def _repeated(self, x: Tensor, dim: int, size: int) -> Tensor:
        times = -(-size // x.shape[dim])
        return x.index_select(dim, torch.arange(size, device=x.device) // times)

    def _fewer(self, x: Tensor, dim: int, size: int) -> Tensor:
        blocks = x.narrow(dim, 0, size * (x.shape[dim] // size)).unflatten(dim, (size, -1))
        axis = dim if dim == -1 else -2
        return blocks.mean(axis) if self.mode == "average" else blocks.select(axis, 0)

    def extra_repr(self) -> str:
        return f"{self.mode}, {self.size[0]} x {self.size[1]}"
