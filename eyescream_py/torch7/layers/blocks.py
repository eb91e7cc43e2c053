"""Blocks that programs made classes of their own: of residual networks and of deepspeech.torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .stochastic import StochasticLayer


class ShakeShakeBlock(StochasticLayer):
    """skip(x) + (first(x) + second(x)) / 2 for images (N,C,H,W) (Gastaldi's Shake-Shake).

    While training the branches weigh r and 1 - r instead, in the output if ``forward_shake``, in
    the gradients, with another r, if ``backward_shake``; ``by_image``: each image draws its own.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        skip: nn.Module,
        forward_shake: bool = True,
        backward_shake: bool = True,
        by_image: bool = True,
    ) -> None:
        super().__init__()
        self.first, self.second, self.skip = first, second, skip
        self.forward_shake, self.backward_shake = forward_shake, backward_shake
        self.by_image = by_image

    def _share(self, x: Tensor, shakes: bool) -> Tensor | float:
        images = len(x) if self.by_image else 1
        return self._uniform(x.new_empty(images, 1, 1, 1)) if shakes and self.training else 0.5

    def forward(self, x: Tensor) -> Tensor:
        kept = self.skip(x).clone()  # the branches begin with a ReLU in the input's memory
        r, s = (self._share(x, shakes) for shakes in (self.forward_shake, self.backward_shake))
        first, second = self.first(x), self.second(x)
        value, slope = r * first + (1 - r) * second, s * first + (1 - s) * second
        return kept + value.detach() + (slope - slope.detach())

    def extra_repr(self) -> str:
        return f"{self.forward_shake}, {self.backward_shake}, by_image={self.by_image}"


class ResidualDrop(nn.Module):
    """skip(x) + (1 - ``death_rate``) net(x); while training all of net(x), or with a closed
    ``gate`` nothing of it (networks of stochastic depth, whose program opens and closes gates)."""

    def __init__(self, net: nn.Module, skip: nn.Module, death_rate: float, gate: bool) -> None:
        super().__init__()
        self.net, self.skip = net, skip
        self.death_rate, self.gate = death_rate, gate

    def forward(self, x: Tensor) -> Tensor:
        kept = self.skip(x).clone()
        if self.training:
            return kept + self.net(x) if self.gate else kept
        return kept + self.net(x) * (1 - self.death_rate)

    def extra_repr(self) -> str:
        return f"death_rate={self.death_rate:g}, gate={self.gate}"


class SequenceWise(nn.Module):
    """``inner`` on the rows (T*N,F) of (T,N,F), and ``after`` on what they become, (T,N,F')."""

    def __init__(self, inner: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner, self.after = inner, after

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        rows = self.inner(x.reshape(steps * batch, -1))
        return self.after(torch.reshape(rows, (steps, batch, -1)))
