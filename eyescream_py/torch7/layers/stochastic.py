"""Layers that draw random numbers. Sources: the Lua packages nn and dpnn (WhiteNoise)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..random import RandomSource


class StochasticLayer(nn.Module):
    """A layer that draws random numbers: from ``source``, or torch's default generator if None."""

    source: RandomSource | None = None

    def _bernoulli(self, x: Tensor, shape: torch.Size, p: float) -> Tensor:
        mask = torch.empty(shape, dtype=x.dtype, device=x.device)
        return mask.bernoulli_(p) if self.source is None else self.source.bernoulli_(mask, p)

    def _normal(self, x: Tensor, mean: float, std: float) -> Tensor:
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if self.source is None:
            return noise.normal_(mean, std)
        return self.source.normal_(noise, mean, std)

    def _uniform(self, x: Tensor) -> Tensor:
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return noise.uniform_() if self.source is None else self.source.uniform_(noise, 0, 1)


def set_random_source(module: nn.Module, source: RandomSource | None) -> None:
    """Make every stochastic layer inside ``module`` draw from ``source`` (None: torch's own)."""
    for layer in module.modules():
        if isinstance(layer, StochasticLayer):
            layer.source = source


class Dropout(StochasticLayer):
    """Zero each element with probability ``p`` while training (nn.Dropout).

    ``scaled`` (Lua's v2): training divides by 1-p and evaluation is the identity. Unscaled (files
    of before 2014): training does not scale, evaluation multiplies by 1-p.
    ``stochastic_inference`` drops in evaluation too.
    """

    def __init__(
        self, p: float = 0.5, scaled: bool = True, stochastic_inference: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability {p} is outside 0 <= p < 1")
        self.p = p
        self.scaled = scaled
        self.stochastic_inference = stochastic_inference

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0:
            return x
        if not (self.training or self.stochastic_inference):
            return x if self.scaled else x * (1 - self.p)
        if self.scaled and self.source is None:
            return F.dropout(x, self.p, training=True)
        mask = self._bernoulli(x, x.shape, 1 - self.p)
        return x * (mask.div_(1 - self.p) if self.scaled else mask)

    def extra_repr(self) -> str:
        return f"{self.p:g}" + ("" if self.scaled else ", scaled=False")


class SeqDropout(Dropout):
    """A Dropout that drops the same of all entries of the first dimension (rnn's nn.SeqDropout)."""

    of_its_own = True

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not (self.training or self.stochastic_inference):
            return super().forward(x)
        mask = self._bernoulli(x, x[:1].shape, 1 - self.p)
        return x * (mask.div_(1 - self.p) if self.scaled else mask)


class SpatialDropout(StochasticLayer):
    """Zero whole channels of (N,C,H,W) or (C,H,W) with probability ``p`` (nn.SpatialDropout).

    Unlike Dropout this does not scale while training; evaluation multiplies by 1-p.
    """

    def __init__(self, p: float = 0.5, stochastic_inference: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability {p} is outside 0..1")
        self.p = p
        self.stochastic_inference = stochastic_inference

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.stochastic_inference):
            return x * (1 - self.p)
        mask = self._bernoulli(x, x.shape[:-2], 1 - self.p)  # [N,C]
        return x * mask[..., None, None]

    def extra_repr(self) -> str:
        return f"{self.p:g}"


class WhiteNoise(StochasticLayer):
    """Add normal noise while training; evaluation adds the mean alone (dpnn's nn.WhiteNoise)."""

    def __init__(self, mean: float = 0.0, std: float = 0.1) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self._normal(x, self.mean, self.std)
        return x + self.mean if self.mean else x

    def extra_repr(self) -> str:
        return f"mean={self.mean:g}, std={self.std:g}"
