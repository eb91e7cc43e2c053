"""Layers of well-known programs, which are no part of nn.

fast-neural-style (ShaveImage, TotalVariation), neural-style (ContentLoss, StyleLoss, TVLoss: they
only measure), waifu2x's package w2nn, neuraltalk2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShaveImage(nn.Module):
    """Cut ``size`` pixels from every side of (N,C,H,W) (fast-neural-style)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) <= 2 * self.size:
            raise ValueError(
                f"there is nothing left of {tuple(x.shape)} without {self.size} pixels"
            )
        return x[..., self.size : x.shape[-2] - self.size, self.size : x.shape[-1] - self.size]


class PassOn(nn.Module):
    """A layer that only measures or adds to gradients while training: it returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class TotalVariation(nn.Module):
    """Return the image; its gradient gets the slopes between neighbours, times ``strength``.

    Source: fast-neural-style's and neural-style's total variation layers.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return _TotalVariation.apply(x, self.strength)

    def extra_repr(self) -> str:
        return f"{self.strength:g}"


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, strength: float) -> Tensor:  # type: ignore[no-untyped-def]
        context.save_for_backward(x)
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = context.saved_tensors
        inner = x[..., :-1, :-1]
        right, below = inner - x[..., :-1, 1:], inner - x[..., 1:, :-1]
        slopes = torch.zeros_like(x)
        slopes[..., :-1, :-1] += right + below
        slopes[..., :-1, 1:] -= right
        slopes[..., 1:, :-1] -= below
        return grad + context.strength * slopes, None


class Clip01(nn.Module):
    """Limit to 0..1; gradients pass unchanged, as in waifu2x (w2nn.InplaceClip01, w2nn.Clip01)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().clamp(0, 1) + (x - x.detach())


class DepthExpand2x(nn.Module):
    """(N,4C,H,W) -> (N,C,2H,2W), four planes as the pixels of one (w2nn.DepthExpand2x).

    Rows take turns between the halves of the planes, columns between the halves of those; a
    PixelShuffle, in contrast, takes neighbours.
    """

    def forward(self, x: Tensor) -> Tensor:
        count, planes, height, width = x.shape
        parts = x.reshape(count, 2, 2, planes // 4, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(count, planes // 4, 2 * height, 2 * width)


class ScaleTable(nn.Module):
    """{images, factors} -> images times the factors (N,C,1,1) of their planes (w2nn.ScaleTable)."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0] * inputs[1]


class AuxiliaryLossTable(nn.Module):
    """The table itself in training, its entry ``i``, from 1, in evaluation (waifu2x)."""

    def __init__(self, i: int = 1) -> None:
        super().__init__()
        self.i = i

    def forward(self, inputs: list[Tensor]) -> Tensor | list[Tensor]:
        return list(inputs) if self.training else inputs[self.i - 1]


class FeatExpander(nn.Module):
    """Repeat each row ``n`` times (neuraltalk2)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.n, 0)


class GramMatrix(nn.Module):
    """Products of all pairs of planes: (C,H,W) -> (C,C), or with a batch (neural-style).

    ``normalize``: divided by C * H * W, as fast-neural-style's are.
    """

    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(-2)
        products = flat @ flat.transpose(-1, -2)
        return products / (flat.shape[-2] * flat.shape[-1]) if self.normalize else products
