"""Lua nn's layers on volumes, (N,C,T,H,W) or (C,T,H,W), beyond torch.nn's own; the full
convolution of images, which is like theirs.

Source: the Lua package nn, one file per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .stochastic import StochasticLayer


class _FullConvolution:
    """What both full convolutions share: of {input, target} the output has the target's size."""

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(x, Tensor):
            return super().forward(x)  # type: ignore[misc]
        layer: Any = self
        image, target = x
        spare = zip(layer.kernel_size, layer.padding, layer.stride, strict=True)
        sizes = target.shape[-len(layer.kernel_size) :]
        adjust = [(n + 2 * p - k) % s for n, (k, p, s) in zip(sizes, spare, strict=True)]
        run = F.conv_transpose2d if len(sizes) == 2 else F.conv_transpose3d
        geometry = layer.stride, layer.padding, adjust, layer.groups
        return run(image, layer.weight, layer.bias, *geometry)


class SpatialFullConvolution(_FullConvolution, nn.ConvTranspose2d):  # type: ignore[misc]
    """ConvTranspose2d that also takes {input, target} (nn.SpatialFullConvolution)."""


class VolumetricFullConvolution(_FullConvolution, nn.ConvTranspose3d):  # type: ignore[misc]
    """ConvTranspose3d that also takes {input, target} (nn.VolumetricFullConvolution)."""


class VolumetricDropout(StochasticLayer):
    """Zero whole channels with probability ``p``; evaluation multiplies by 1-p, training does not
    scale (nn.VolumetricDropout)."""

    def __init__(self, p: float = 0.5, stochastic_inference: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability {p} is outside 0..1")
        self.p, self.stochastic_inference = p, stochastic_inference

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.stochastic_inference):
            return x * (1 - self.p)
        mask = self._bernoulli(x, x.shape[:-3], 1 - self.p)  # [N,C]
        return x * mask[..., None, None, None]
