"""Activations of torch.nn with the numbers that Lua's C code has at their edges.

Lua compares where torch computes: NaN is above no threshold, so that a ReLU makes 0 of it. Source:
the Lua package nn, lib/THNN/generic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


class SoftPlus(nn.Softplus):
    """log(1 + e^(beta x)) / beta (nn.SoftPlus).

    As in Lua, the slope is 1 from where the output, not the input, times beta is above
    ``threshold``.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not y.requires_grad:
            return y
        straight = y.detach() + (x - x.detach())
        return torch.where(y.detach() * self.beta > self.threshold, straight, y)
