"""`--G_ema`: an exponential moving average of the generator, which samples better than its last
step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eyescream_py.torch7.flat import Flat, copy_each_


class Ema:
    """Follows `network`; `average` holds parameters a <- d*a + (1-d)*p and its latest statistics.

    d is `decay`, in the first `updates` less: (1+updates)/(10+updates), so that the start weights
    are soon forgotten. Source: Yazici et al. 2019, "The unusual effectiveness of averaging in GAN
    training". With a `power` d is (1-1/updates)^power: the average's memory is a fixed share of
    the run so far, however long that becomes (Karras et al. 2024, arXiv 2312.02696). `flat` holds
    the network's weights where they lie in one buffer.
    """

    def __init__(
        self, network: nn.Module, decay: float, power: float = 0.0, flat: Flat | None = None
    ) -> None:
        self.network, self.decay, self.power = network, decay, power
        self.average = copy.deepcopy(network).requires_grad_(False)
        pairs = zip(self.average.parameters(), network.parameters(), strict=True)
        self._pairs: list[tuple[Tensor, Tensor]] = list(pairs)
        if flat:  # the average in the same layout: one pass over both
            self._pairs = [(Flat(self.average).weights, flat.weights)]
        # counted on the device, as an update may be part of a CUDA graph
        self.updates = torch.zeros((), dtype=torch.float64, device=self._pairs[0][0].device)
        self._norms = [m for m in self.average.modules() if isinstance(m, nn.BatchNorm2d)]
        self._settled = 0  # `updates` when the statistics last fitted the weights, as a copy's do

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        n = self.updates
        if self.power:
            decay = (1 - 1 / n) ** self.power
        else:
            decay = ((1 + n) / (10 + n)).clamp(max=self.decay)
        share = (1 - decay).to(self._pairs[0][0].dtype)
        for ours, theirs in self._pairs:
            ours.lerp_(theirs, share)
        copy_each_(list(self.average.buffers()), list(self.network.buffers()))

    def resume(self, updates: int) -> None:
        """Go on after so many; `average` holds weights and statistics as they were saved."""
        self.updates.fill_(updates)
        self._settled = updates

    @torch.no_grad()
    def settle(self, inputs: Iterable[Tensor]) -> None:
        """Measure the average's own batch statistics over `inputs`, if it changed since.

        The statistics of the last network do not fit averaged weights (Izmailov et al. 2018).
        """
        if not self._norms or self._settled == int(self.updates):
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
        self._settled = int(self.updates)
