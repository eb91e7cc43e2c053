"""`--G_ema`: an exponential moving average of the generator, which samples better than its last
step.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Follows `network`; `average` holds parameters a <- d*a + (1-d)*p and its latest statistics.

    d is `decay`, in the first `updates` less: (1+updates)/(10+updates), so that the start weights
    are soon forgotten. Source: Yazici et al. 2019, "The unusual effectiveness of averaging in GAN
    training".
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = network, decay, 0
        self.average = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        ours = [p.detach() for p in self.average.parameters()]
        theirs = [p.detach() for p in self.network.parameters()]
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for a, b in zip(self.average.buffers(), self.network.buffers(), strict=True):
            a.copy_(b)
