"""One step of training: the loss, Adam and its learning rate."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from eyescream_py.mln.data import Batch
from eyescream_py.mln.networks import MinimalLinearNetwork
from eyescream_py.mln.params import Params
from eyescream_py.system.recording import rate_for, set_rate

Descent = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def learning_rate(params: Params, batches: int, seconds: float) -> float:
    """Adam's rate after so many batches and seconds: halved every half-life, minutes below 1000,
    else batches.
    """
    elapsed = seconds / 60 if params.half_life < 1000 else batches
    return params.learning_rate * 0.5 ** (elapsed / params.half_life)


def reconstruction_loss(output: Tensor, label: Tensor) -> Tensor:
    """Mean absolute error over real and imaginary parts, the original's L1."""
    return torch.view_as_real(output - label).abs().mean()


def total_loss(
    network: MinimalLinearNetwork, output: Tensor, label: Tensor, params: Params
) -> Tensor:
    """The L1 loss plus WL2_Lambda / 2 sum w^2 plus WPhaseOnly times the phase-only penalty."""
    loss = reconstruction_loss(output, label)
    if params.l2_weight:
        squares = [weight.abs().square().sum() for weight in network.parameters()]
        loss = loss + params.l2_weight / 2 * torch.stack(squares).sum()
    if (
        params.phase_only_weight
        and network.shape.trainable_fourier
        and network.shape.shared_fourier
    ):
        loss = loss + params.phase_only_weight * network.phase_only_penalty()
    return loss


def adam(network: torch.nn.Module, params: Params) -> torch.optim.Optimizer:
    """The original's optimizer: beta 0.9 and 0.999, epsilon 1e-8, real and imaginary parts on their
    own; on CUDA its steps can be recorded.
    """
    weights = list(network.parameters())
    rate, on_cuda = rate_for(weights[0], params.learning_rate), weights[0].is_cuda
    return torch.optim.Adam(weights, lr=rate, betas=(0.9, 0.999), eps=1e-8, capturable=on_cuda)


def descend(
    network: MinimalLinearNetwork,
    optimizer: torch.optim.Optimizer,
    params: Params,
    signal: Tensor,
    label: Tensor,
) -> tuple[Tensor, Tensor]:
    """One Adam step; returns the L1 loss before it, a scalar on the device, and the output.

    After a least-squares start the step is relative, see `_relative`.
    """
    optimizer.zero_grad(set_to_none=True)
    output = network(signal)
    total_loss(network, output, label, params).backward()
    before = [] if params.init == "random" else _sized_weights(network)
    optimizer.step()
    _relative(before)
    output = output.detach()
    return reconstruction_loss(output, label), output


def train_step(
    network: MinimalLinearNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    params: Params,
    rate: float,
    descent: Descent | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[float, Tensor]:
    """`descend`, or `descent` which is a recording of it, at `rate`: the loss and the output.

    `meanwhile` is called before the loss is waited for.
    """
    set_rate(optimizer, rate)
    descent = descent or functools.partial(descend, network, optimizer, params)
    loss, output = descent(batch.signal, batch.label)
    meanwhile()
    return loss.item(), output


def _sized_weights(network: MinimalLinearNetwork) -> list[tuple[Tensor, Tensor, Tensor]]:
    """R and L with a copy and their root-mean-square size per grid point or pixel."""
    weights = []
    for weight, axes in ((network.k_layer.weight, (1, 2)), (network.i_layer.weight, (2, 3))):
        values = weight.detach()
        size = values.abs().square().mean(axes, keepdim=True).sqrt()
        weights.append((values, values.clone(), size))
    return weights


def _relative(before: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Shorten the step just taken to a share of each grid point's (or pixel's) own weights.

    Adam moves every weight by about its rate. Kernels far out in k-space are a thousand times
    larger than central ones, where the samples are large: an absolute step that the outer ones
    hardly feel moves the image by more than its own size.
    """
    for weight, old, size in before:
        weight.sub_(old).mul_(size).add_(old)
