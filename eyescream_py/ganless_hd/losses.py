"""How far a picture is from its target: minus the Pearson correlation of frozen activations, plus
the squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from eyescream_py.features import FeatureNetwork

EPSILON = 1e-8


@dataclass(frozen=True)
class Reference:
    """A target and its standardised activations, computed once and used for every step on the
    batch.
    """

    pictures: torch.Tensor  # [N, 3, H, W], -1..1
    activations: list[torch.Tensor]  # float32, mean 0 and variance 1 in each group


@dataclass(frozen=True)
class LossParts:
    """Scalars on the device; `features` is in -5..5, `pixels` a mean squared error in 0..4."""

    features: torch.Tensor
    pixels: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What is minimised."""
        return self.features + self.pixels


def grouped(activation: torch.Tensor, scope: str) -> torch.Tensor:
    """(N, C, H, W) as rows (groups, elements), float32: one group, one per sample, or one per
    sample and channel.
    """
    if scope == "global":
        return activation.float().reshape(1, -1)
    return (
        activation.float()
        .flatten(0 if scope == "channel" else 1, 1 if scope == "channel" else -1)
        .flatten(1)
    )


def standardised(rows: torch.Tensor) -> torch.Tensor:
    """Each row with mean 0 and variance 1; a constant row becomes zeros."""
    centred = rows - rows.mean(1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + EPSILON)


def pearson(a: torch.Tensor, b: torch.Tensor, scope: str = "global") -> torch.Tensor:
    """Mean Pearson correlation over the groups of two activation maps (N, C, H, W): a scalar in
    -1..1.

    Constant activations count as uncorrelated (0) and have finite gradients.
    """
    return correlation(grouped(a, scope), standardised(grouped(b, scope)))


def correlation(rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean over groups of the correlation of `rows` with rows that are standardised already."""
    variance = (rows - rows.mean(1, keepdim=True)).square().mean(1)
    return ((rows * reference).mean(1) * torch.rsqrt(variance + EPSILON)).mean()


class PerceptualLoss:
    """Features and pixels at equal weight, as published. `scope` says what one correlation is taken
    over.
    """

    def __init__(self, features: FeatureNetwork, scope: str = "global") -> None:
        self.features = features
        self.scope = scope

    @torch.no_grad()
    def reference(self, targets: torch.Tensor) -> Reference:
        """What `__call__` needs of the targets (N, 3, H, W)."""
        taps = self.features(targets)
        return Reference(targets, [standardised(grouped(tap, self.scope)) for tap in taps])

    def __call__(self, outputs: torch.Tensor, reference: Reference) -> LossParts:
        """`outputs` (N, 3, H, W) in -1..1; lowest possible: features -5, pixels 0."""
        taps = self.features(outputs)
        terms = [
            correlation(grouped(tap, self.scope), rows)
            for tap, rows in zip(taps, reference.activations, strict=True)
        ]
        return LossParts(-torch.stack(terms).sum(), F.mse_loss(outputs.float(), reference.pictures))
