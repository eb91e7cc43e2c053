"""A loss that compares pictures as a trained network sees them (Johnson et al. 2016,
arXiv 1603.08155).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from eyescream_py import features


class PerceptualLoss:
    """Mean over a frozen network's maps of |map(output) - map(target)| / mean|map(target)|: every
    map counts alike, whatever its scale.
    """

    def __init__(self, network: features.FeatureNetwork) -> None:
        self.network = network

    @classmethod
    def load(cls, name: str, targets: Iterable[Tensor], device: torch.device) -> PerceptualLoss:
        """The network `name` (see `features.load`); a random one is calibrated on batches of
        `targets`. Raises UserError.
        """
        with torch.random.fork_rng():  # a random network's weights are no draws of the run's own
            network = features.load(name)
        if features.chosen(name) == "random":
            features.calibrate(network, (_for_network(batch.cpu()) for batch in targets))
        return cls(features.frozen(network).to(device))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Pictures of mean 0 and span 1, (N, 1 or 3, S, S) -> a scalar."""
        with torch.no_grad():
            wanted = self.network(_for_network(target))
        found = self.network(_for_network(output))
        terms = [
            (a - b).abs().mean() / b.abs().mean().clamp_min(1e-6)
            for a, b in zip(found, wanted, strict=True)
        ]
        return torch.stack(terms).mean()


def _for_network(pictures: Tensor) -> Tensor:
    """Mean 0 and span 1 -> colour pictures of span 2."""
    return 2 * pictures.expand(-1, 3, -1, -1)
