"""The three adversarial objectives, as small functions of D's outputs, and their optimizers.

Scores have shape (N, K) and are unbounded; for "log" they are logits, whose losses keep their slope
where a probability in single precision is 0 or 1 already. Every loss is to
be minimised (the seed maximised the Wasserstein ones and, by mistake, L1 and reconstruction with
them).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from eyescream_py.system.recording import rate_for
from eyescream_py.system.rmsprop import TensorFlowRMSProp

CLIP = 0.01


def discriminator_loss(objective: str, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of D on scores of real and generated pictures."""
    if objective == "wgan":
        return (fake - real).mean()
    if objective == "l2":
        return ((1 - real) ** 2 + fake**2).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(objective: str, fake: Tensor) -> Tensor:
    """Loss of G on D's scores of its pictures."""
    if objective == "wgan":
        return -fake.mean()
    if objective == "l2":
        return ((1 - fake) ** 2).mean()
    return F.softplus(-fake).mean()


def separation(objective: str, real: Tensor, fake: Tensor) -> Tensor:
    """mean(D(real) - D(fake)), of probabilities with the log loss: what the schedule watches."""
    if objective == "log":
        real, fake = real.sigmoid(), fake.sigmoid()
    return real.mean() - fake.mean()


def clip_weights(parameters: Iterable[Tensor]) -> None:
    """The Lipschitz bound of WGAN (Arjovsky et al. 2017): after each step of D, in place."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.clamp_(-CLIP, CLIP)


def build_optimizer(name: str, parameters: Iterable[Tensor], lr: float) -> Optimizer:
    """`name` RMSP (TensorFlow's RMSProp) or ADAM (betas 0.9 and 0.999, epsilon 1e-8); on CUDA one
    whose steps can be recorded.
    """
    parameters = list(parameters)
    rate, on_cuda = rate_for(parameters[0], lr), parameters[0].is_cuda
    if name == "ADAM":
        return torch.optim.Adam(
            parameters, rate, betas=(0.9, 0.999), eps=1e-8, fused=True, capturable=on_cuda
        )
    return TensorFlowRMSProp(parameters, rate)
