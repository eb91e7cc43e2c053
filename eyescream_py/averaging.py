"""`--G_ema`: an exponential moving average of the generator, which samples better than its last
step.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Follows `network`; `average` holds parameters a <- decay*a + (1-decay)*p and its latest
    statistics.

    Source: Yazici et al. 2019, "The unusual effectiveness of averaging in GAN training".
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.average = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        ours = [p.detach() for p in self.average.parameters()]
        theirs = [p.detach() for p in self.network.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - self.decay)
        for a, b in zip(self.average.buffers(), self.network.buffers(), strict=True):
            a.copy_(b)
