"""Spatial transformers (stnbhwd) and the layers of the package inn that nn lacks.

Images of stnbhwd are (N,H,W,C), grids (N,H,W,2) of rows, then columns, from -1 to 1 at the centres
of the outer pixels. Source: qassemoquab/stnbhwd and szagoruyko/imagine-nn, one Lua file per class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AffineTransformMatrixGenerator(nn.Module):
    """Parameters (N,P) or (P) -> matrices (N,2,3): rotation * scale * shift.

    P: an angle in radians if ``rotation``, then a factor if ``scale``, then two shifts if
    ``translation``; without any of them the matrix itself, 6. One version of Lua's class had two
    factors, of the matrix's columns; files do not tell which, the number of parameters does.
    """

    def __init__(self, rotation: bool, scale: bool, translation: bool) -> None:
        super().__init__()
        self.rotation, self.scale, self.translation = rotation, scale, translation

    def forward(self, x: Tensor) -> Tensor:
        rows = x if x.dim() == 2 else x[None]
        angles, shifts, given = int(self.rotation), 2 * self.translation, rows.shape[1]
        whole = not (angles or self.scale or shifts)
        factors = given - angles - shifts
        if factors not in ((6,) if whole else (1, 2) if self.scale else (0,)):
            expected = 6 if whole else angles + self.scale + shifts
            raise ValueError(f"{given} parameters where {expected} are expected")
        if whole:
            matrices = rows.reshape(-1, 2, 3)
        else:
            matrices = self._made(*rows.split([angles, factors, shifts], 1))
        return matrices if x.dim() == 2 else matrices[0]

    def _made(self, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        square = torch.eye(2, dtype=angle.dtype, device=angle.device).expand(len(angle), 2, 2)
        if self.rotation:
            sin, cos = angle.sin(), angle.cos()
            square = torch.stack([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)], 1)
        if self.scale:
            square = square * scale[:, None]
        if not self.translation:
            return torch.cat([square, square.new_zeros(len(square), 2, 1)], 2)
        return torch.cat([square, square @ shift[:, :, None]], 2)


class AffineGridGenerator(nn.Module):
    """Matrices (N,2,3) or (2,3) -> where each pixel of (height, width) is taken from."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device)
            for size in (self.height, self.width)
        )
        grid = torch.stack([*torch.meshgrid(rows, columns, indexing="ij")], -1)
        grid = torch.cat([grid, torch.ones_like(grid[..., :1])], -1)
        return torch.einsum("hwk,...jk->...hwj", grid, x)


class BilinearSampler(nn.Module):
    """{images, grids} -> the images at the grids' places, 0 outside (nn.BilinearSamplerBHWD)."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        images, grids = inputs
        if images.dim() == 3:
            return self.forward([images[None], grids[None]])[0]
        planes = images.permute(0, 3, 1, 2)
        y = F.grid_sample(planes, grids.flip(-1), padding_mode="zeros", align_corners=True)
        return y.permute(0, 2, 3, 1).contiguous()


class MeanSubtraction(nn.Module):
    """Images less ``mean`` (C,H,W) (inn.MeanSubtraction)."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


class ConstAffine(nn.Module):
    """Each plane times its ``a`` plus its ``b``, both (C) (inn.ConstAffine and its kin)."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)
        self.a: Tensor
        self.b: Tensor

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.a.view(shape) + self.b.view(shape)
