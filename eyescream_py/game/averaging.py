"""`--G_ema`: an exponential moving average of the generator, which samples better than its last
step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ema:
    """Follows `network`; `average` holds parameters a <- d*a + (1-d)*p and its latest statistics.

    d is `decay`, in the first `updates` less: (1+updates)/(10+updates), so that the start weights
    are soon forgotten. Source: Yazici et al. 2019, "The unusual effectiveness of averaging in GAN
    training". With a `power` d is (1-1/updates)^power: the average's memory is a fixed share of
    the run so far, however long that becomes (Karras et al. 2024, arXiv 2312.02696).
    """

    def __init__(self, network: nn.Module, decay: float, power: float = 0.0) -> None:
        self.network, self.decay, self.power, self.updates = network, decay, power, 0
        self.average = copy.deepcopy(network).requires_grad_(False)
        self._norms = [m for m in self.average.modules() if isinstance(m, nn.BatchNorm2d)]
        self._settled = 0  # `updates` when the statistics last fitted the weights, as a copy's do

    @torch.no_grad()
    def update(self) -> None:
        ours = [p.detach() for p in self.average.parameters()]
        theirs = [p.detach() for p in self.network.parameters()]
        self.updates += 1
        if self.power:
            decay = (1 - 1 / self.updates) ** self.power
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for a, b in zip(self.average.buffers(), self.network.buffers(), strict=True):
            a.copy_(b)

    def resume(self, updates: int) -> None:
        """Go on after so many; `average` holds weights and statistics as they were saved."""
        self.updates = self._settled = updates

    @torch.no_grad()
    def settle(self, inputs: Iterable[Tensor]) -> None:
        """Measure the average's own batch statistics over `inputs`, if it changed since.

        The statistics of the last network do not fit averaged weights (Izmailov et al. 2018).
        """
        if not self._norms or self._settled == self.updates:
            return
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        self.average.train()
        for batch in inputs:
            self.average(batch)
        for norm, momentum in zip(self._norms, momenta, strict=True):
            norm.momentum = momentum
        self._settled = self.updates
