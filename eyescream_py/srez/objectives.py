"""What the two networks minimise: GAN, WGAN and WGAN-GP, and the L1 tie to the small picture.

Scores are the critic's (N,) outputs, high for real ones (the sign of Arjovsky et al. 2017; the
fork's was mirrored).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def critic_parts(objective: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's loss on real and on generated pictures; their sum is what it minimises."""
    if objective == "gan":
        return F.softplus(-real).mean(), F.softplus(fake).mean()
    return -real.mean(), fake.mean()


def adversarial_loss(objective: str, fake: Tensor) -> Tensor:
    """The generator's wish for high scores; for `gan` the non-saturating form (Goodfellow et al.
    2014).
    """
    return F.softplus(-fake).mean() if objective == "gan" else -fake.mean()


def wasserstein_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """mean D(real) - mean D(fake): the distance up to the critic's slope, which only WGAN and
    WGAN-GP bound.
    """
    return real.mean() - fake.mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """mean over images of (|gradient of D| - 1)^2 at alpha*real + (1-alpha)*fake (Gulrajani et al.
    2017).

    real, fake (N,C,H,W); alpha (N,) in 0..1. The norm runs over all values of one image.
    """
    alpha = alpha.view(-1, 1, 1, 1)
    mixed = (alpha * real + (1 - alpha) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def box_reduce(pictures: Tensor, side: int) -> Tensor:
    """Mean over K x K boxes: (N,C,K*side,K*side) -> (N,C,side,side), K = 2, 4 or 8.

    Raises ValueError for any other K.
    """
    factor, rest = divmod(pictures.shape[-1], side)
    if rest or factor not in (2, 4, 8):
        raise ValueError(f"{pictures.shape[-1]} pixels to {side} is no reduction by 2, 4, 8")
    return F.avg_pool2d(pictures, factor)


def tie_loss(generated: Tensor, small: Tensor) -> Tensor:
    """Mean absolute difference between the reduced output and the small picture."""
    return (box_reduce(generated, small.shape[-1]) - small).abs().mean()


def pixel_loss(generated: Tensor, label: Tensor) -> Tensor:
    """Mean absolute difference to the true large picture (ours, not published)."""
    return (generated - label).abs().mean()
