"""Layers that published models hold, and that are no part of nn: of programs for single tasks.

texture_nets (NoiseFill, MaskedNoiseFill, GenNoise), DeepMask (SpatialSymmetricPadding), XNOR-Net
(BinActiveZ), mc-cnn (Normalize2, StereoJoin1, StereoJoin), waifu2x (ShakeShakeTable). Images are
(N,C,H,W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .stochastic import StochasticLayer


class NoiseFill(StochasticLayer):
    """The last ``planes`` are noise, uniform in 0 .. ``scale`` (texture_nets).

    ``append``: noise of -``scale`` .. ``scale`` comes after all planes (a descendant's class). As
    in Lua the gradient of planes that noise replaces flows on to them.
    """

    def __init__(self, planes: int, scale: float = 1.0, append: bool = False) -> None:
        super().__init__()
        self.planes, self.scale, self.append = planes, scale, append

    def forward(self, x: Tensor) -> Tensor:
        noise = self._uniform(x.new_empty(len(x), self.planes, *x.shape[2:]))
        if self.append:
            return torch.cat([x, (noise * 2 - 1) * self.scale], 1)
        if self.planes > x.shape[1]:
            raise ValueError(f"noise for {self.planes} planes, the input has {x.shape[1]}")
        kept, replaced = x.split([x.shape[1] - self.planes, self.planes], 1)
        return torch.cat([kept, noise * self.scale + (replaced - replaced.detach())], 1)

    def extra_repr(self) -> str:
        return f"{self.planes}, {self.scale:g}"


class MaskedNoiseFill(StochasticLayer):
    """The masks (N,colors,H,W), ``times`` times noise within them, and ``planes`` of noise alone,
    uniform in 0 .. ``mask_scale`` and 0 .. ``scale`` (texture_nets' doodles)."""

    def __init__(
        self, colors: int, times: int, planes: int, mask_scale: float = 1.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.colors, self.times, self.planes = colors, times, planes
        self.mask_scale, self.scale = mask_scale, scale

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.colors:
            raise ValueError(f"{self.colors} masks are needed, the input has {x.shape[1]}")
        within = [self._uniform(x) * x * self.mask_scale for _ in range(self.times)]
        noise = self._uniform(x.new_empty(len(x), self.planes, *x.shape[2:])) * self.scale
        return torch.cat([x, *within, noise], 1)

    def extra_repr(self) -> str:
        return f"{self.colors}, {self.times}, {self.planes}"


class GenNoise(StochasticLayer):
    """Normal noise of ``planes`` and of the input's size, times ``scale`` (texture_nets)."""

    def __init__(self, planes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.planes, self.scale = planes, scale

    def forward(self, x: Tensor) -> Tensor:
        shape = (len(x), self.planes, *x.shape[2:])
        return self._normal(x.new_empty(shape), 0, 1) * self.scale

    def extra_repr(self) -> str:
        return f"{self.planes}, {self.scale:g}"


class BinActiveZ(nn.Module):
    """The sign; gradients pass where the input is within -1 .. 1 (XNOR-Net)."""

    def forward(self, x: Tensor) -> Tensor:
        inside = x.detach().abs() < 1
        return x.detach().sign() + torch.where(inside, x - x.detach(), 0)


class SpatialSymmetricPadding(nn.Module):
    """Mirror the border, its outermost pixels too: c b a | a b c | c b a (DeepMask).

    ``padding``: left, right, top, bottom; negative numbers cut. As in Lua what is mirrored counts
    as constant: its gradient does not flow.
    """

    def __init__(self, padding: Sequence[int]) -> None:
        super().__init__()
        self.padding = tuple(padding)

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        return _mirrored(_mirrored(x, top, bottom, -2), left, right, -1)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.padding))


def _mirrored(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    size = x.shape[dim]
    x = x.narrow(dim, max(-before, 0), size + min(before, 0) + min(after, 0))
    size = x.shape[dim]
    if max(before, after) > size:
        raise ValueError(f"{size} pixels cannot be mirrored {max(before, after)} wide")
    border = x.detach()
    first = border.narrow(dim, 0, max(before, 0)).flip(dim)
    last = border.narrow(dim, size - max(after, 0), max(after, 0)).flip(dim)
    return torch.cat([first, x, last], dim)


class Normalize2(nn.Module):
    """Divide each pixel by the norm of its planes, sqrt(sum x^2 + 1e-5) (mc-cnn)."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + 1e-5).sqrt()


class StereoJoin1(nn.Module):
    """Products of the planes of pairs of images, 1 and 2, 3 and 4, ...: (2N,C,H,W) -> (N,1,H,W).

    mc-cnn trains with it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % 2:
            raise ValueError(f"StereoJoin1 takes pairs of images, not {len(x)}")
        return (x[::2] * x[1::2]).sum(1, keepdim=True)


class StereoJoin(nn.Module):
    """Costs of disparities 0 .. ``disparities`` - 1: (2,C,H,W) -> (1,disparities,H,W) (mc-cnn).

    The negative product of the left image's planes with those of the right one, so many pixels to
    the left; NaN where there is none.
    """

    def __init__(self, disparities: int) -> None:
        super().__init__()
        self.disparities = disparities

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or len(x) != 2:
            raise ValueError(f"StereoJoin takes (2,C,H,W), not {tuple(x.shape)}")
        left, right = x
        width = x.shape[-1]
        costs = []
        for d in range(min(self.disparities, width)):
            cost = -(left[..., d:] * right[..., : width - d]).sum(0)
            costs.append(nn.functional.pad(cost, (d, 0), value=math.nan))
        missing = self.disparities - len(costs)
        costs += [torch.full_like(costs[0], math.nan)] * missing
        return torch.stack(costs)[None]

    def extra_repr(self) -> str:
        return f"{self.disparities}"


class ShakeShakeTable(StochasticLayer):
    """{a, b} -> a + b; while training 2 (1 - r) a + 2 r b, with r drawn for each image (waifu2x).

    Gradients are those of other draws: s to a, 1 - s to b.
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        first, second = inputs
        if not self.training:
            return first + second
        r, s = (self._uniform(first.new_empty(len(first), 1, 1, 1)) for _ in range(2))
        value = (2 * ((1 - r) * first + r * second)).detach()
        slope = s * first + (1 - s) * second
        return value + (slope - slope.detach())
