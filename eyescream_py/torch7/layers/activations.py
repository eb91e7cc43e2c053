"""Activations of torch.nn with the numbers that Lua's C code has at their edges.

Lua compares where torch computes: NaN is above no threshold, so that a ReLU makes 0 of it. Source:
the Lua package nn, lib/THNN/generic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ReLU(nn.ReLU):
    """x where positive, else 0, of NaN too (nn.ReLU)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0)


class HardTanh(nn.Hardtanh):
    """x within ``min_val`` .. ``max_val``; ``max_val`` of NaN (nn.HardTanh, nn.Clamp)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.masked_fill(x.isnan(), self.max_val))


class ReLU6(nn.ReLU6):
    """x within 0 .. 6; 6 of NaN, as Lua's is a HardTanh (nn.ReLU6)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.masked_fill(x.isnan(), self.max_val))


class SoftShrink(nn.Softshrink):
    """x, nearer to 0 by ``lambd``; 0 of NaN (nn.SoftShrink)."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.where(x > self.lambd, x - self.lambd, 0)
        return torch.where(x < -self.lambd, x + self.lambd, far)


class HardShrink(nn.Hardshrink):
    """x where further from 0 than ``lambd``; 0 of NaN (nn.HardShrink)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x > self.lambd) | (x < -self.lambd), x, 0)


class _ByOutput(torch.autograd.Function):
    """``y`` of ``x``, with a slope that ``slope`` finds from the output's memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        y = y.clone()
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        return grads[0] * ctx.slope(y), None, None


class SoftPlus(nn.Softplus):
    """log(1 + e^(beta x)) / beta (nn.SoftPlus).

    As in Lua the slope is computed from the output: 1 where that times beta is above ``threshold``.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.detach() if torch.is_grad_enabled() else x)
        return _ByOutput.apply(x, y, self.slope) if x.requires_grad else y

    def slope(self, y: Tensor) -> Tensor:
        """The derivative, from the output."""
        scaled = y * self.beta
        return torch.where(scaled > self.threshold, 1, -torch.expm1(-scaled))


class ELU(nn.ELU):
    """x where positive, else alpha (e^x - 1), with a slope computed from the output (nn.ELU)."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.detach() if torch.is_grad_enabled() else x)
        return _ByOutput.apply(x, y, self.slope) if x.requires_grad else y

    def slope(self, y: Tensor) -> Tensor:
        """The derivative, from the output."""
        return torch.where(y <= 0, y + self.alpha, 1)


class LeakyReLU(nn.LeakyReLU):
    """x where positive, else ``negval`` * x; 0.333 is the face generator's default slope."""

    def __init__(self, negval: float = 0.333) -> None:
        super().__init__(negval)

    @property
    def negval(self) -> float:
        """The slope where x is negative, by Lua's name."""
        return self.negative_slope


class Threshold(nn.Threshold):
    """x where above ``threshold``, else ``value`` (nn.Threshold), in a form that ONNX has too."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.threshold, x, self.value)


def feature_dim(x: Tensor) -> int:
    """Where Lua's soft-max layers look for the classes: (F), (N,F), (C,H,W) or (N,C,H,W)."""
    return 0 if x.dim() in (1, 3) else 1


class SoftMax(nn.Module):
    """Soft-max over the features or channels (nn.SoftMax, nn.SpatialSoftMax)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, feature_dim(x))


class SoftMin(nn.Module):
    """Soft-max of -x (nn.SoftMin)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(-x, feature_dim(x))


class LogSoftMax(nn.Module):
    """Logarithm of the soft-max (nn.LogSoftMax, nn.SpatialLogSoftMax)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, feature_dim(x))


class PReLU(nn.PReLU):
    """PReLU with a slope for each feature of (F), (N,F) or (N,F,...) (nn.PReLU(n)).

    Lua's took three dimensions for (F,H,W) until 2017, since then for (N,F,L); so does this where
    the second fits.
    """

    def forward(self, x: Tensor) -> Tensor:
        slopes = self.num_parameters
        alone = x.dim() == 1 or (x.dim() == 3 and x.shape[1] != slopes == x.shape[0])
        return super().forward(x[None])[0] if alone else super().forward(x)
