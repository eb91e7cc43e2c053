"""One training step: both losses on the same output and the same old weights, then both updates.

On CUDA the step is recorded once as a graph and replayed; on the CPU it runs as written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.srez.batches import Batch
from eyescream_py.srez.networks import Critic, Generator, build_critic, build_generator
from eyescream_py.srez.objectives import (
    adversarial_loss,
    critic_parts,
    gradient_penalty,
    pixel_loss,
    tie_loss,
    wasserstein_estimate,
)
from eyescream_py.srez.optimizers import build_optimizer
from eyescream_py.srez.options import FULL_SIDE, Options
from eyescream_py.system.memory import built, demand_batch
from eyescream_py.system.recording import Recorder


@dataclass
class Networks:
    """The two networks and their optimizers: everything that training changes."""

    generator: Generator
    critic: Critic
    generator_optimizer: Optimizer
    critic_optimizer: Optimizer


def build_networks(options: Options, device: torch.device) -> Networks:
    """Networks with the start weights of `options.random_seed`, on `device`.

    Raises UserError where this machine cannot hold them, or one batch.
    """
    demand_batch(
        f"--batch_size={options.batch_size}", options.batch_size, (3, FULL_SIDE, FULL_SIDE)
    )
    flags = f"--width={options.width:g}, --critic_width={options.width_of_critic:g}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.random_seed)
        generator, critic = built(lambda: (build_generator(options), build_critic(options)), flags)
    generator.to(device)
    critic.to(device)
    return Networks(
        generator,
        critic,
        build_optimizer(options, list(generator.parameters())),
        build_optimizer(options, list(critic.parameters())),
    )


def train_step(
    networks: Networks, batch: Batch, options: Options, with_generator: bool = True
) -> dict[str, Tensor]:
    """Update the critic and, `with_generator`, the generator; returns the losses as scalars on the
    device.

    Both gradients are taken before either update, so the generator's goes through the critic as it
    was. Neither computes the weight gradients of the other network.
    """
    generator, critic = networks.generator, networks.critic
    with _arithmetic(options, batch.label.device):
        with contextlib.nullcontext() if with_generator else torch.no_grad():
            fake = generator(batch.inputs)
        real_scores, fake_scores = critic(batch.label), critic(fake)
    on_real, on_fake = critic_parts(options.objective, real_scores, fake_scores)
    critic_loss = on_real + on_fake
    if options.penalty_weight:
        penalty = gradient_penalty(critic, batch.label, fake, batch.alpha)
        critic_loss = critic_loss + options.penalty_weight * penalty
    losses = {
        "discriminator_real_loss": on_real,
        "discriminator_fake_loss": on_fake,
        "discriminator_tot_loss": critic_loss,
        "wasserstein_estimate": wasserstein_estimate(real_scores, fake_scores),
    }
    _take_gradient(critic_loss, critic, keep_graph=with_generator)
    if with_generator:
        losses |= generator_losses(batch, fake, fake_scores, options)
        _take_gradient(losses["generator_loss"], generator)
        networks.generator_optimizer.step()
    networks.critic_optimizer.step()
    if options.clip:
        _clip(critic, options.clip)
    return {name: value.detach() for name, value in losses.items()}


def generator_losses(
    batch: Batch, fake: Tensor, fake_scores: Tensor, options: Options
) -> dict[str, Tensor]:
    """(1-f)*adversarial + f*L1 tie (+ p*pixel term, ours); with noise as input there is no picture
    to be tied to.
    """
    adversarial = adversarial_loss(options.objective, fake_scores)
    if options.input == "noise":
        return {"generator_loss": adversarial, "adversarial_loss": adversarial}
    f = options.gene_l1_factor
    tie = tie_loss(fake, batch.small)
    total = (1 - f) * adversarial + f * tie
    if options.pixel_factor:
        total = total + options.pixel_factor * pixel_loss(fake, batch.label)
    return {"generator_loss": total, "adversarial_loss": adversarial, "l1_loss": tie}


def _take_gradient(loss: Tensor, network: nn.Module, keep_graph: bool = False) -> None:
    """Fill the network's gradients; the fused optimizers need them laid out in memory as the
    parameters are.
    """
    params = list(network.parameters())
    gradients = torch.autograd.grad(loss, params, retain_graph=keep_graph)
    for p, gradient in zip(params, gradients, strict=True):
        same_layout = gradient.stride() == p.stride()
        p.grad = gradient if same_layout else torch.empty_like(p).copy_(gradient)


def _arithmetic(options: Options, device: torch.device) -> torch.autocast:
    """bf16 for the convolutions where asked; the networks' last layers and all losses stay fp32.

    On CUDA, where each rounding is a kernel, weights are rounded once and not in each pass.
    """
    wanted, once = options.precision == "bf16", device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=once)


@torch.no_grad()
def _clip(critic: nn.Module, bound: float) -> None:
    for p in critic.parameters():
        p.clamp_(-bound, bound)


Step = Callable[[Batch, bool], dict[str, Tensor]]


def build_step(networks: Networks, options: Options, device: torch.device) -> Step:
    """The step to call per batch: recorded on CUDA, one with and one without the generator's
    update, and then overwriting the losses that it returned before; eager elsewhere.
    """
    recorder = Recorder(device, bool(options.capture), "give --capture 0")

    def kind(with_generator: bool) -> Callable[..., dict[str, Tensor]]:
        def step(*tensors: Tensor) -> dict[str, Tensor]:
            return train_step(networks, Batch(*tensors), options, with_generator)

        return recorder.step(step)

    kinds = {True: kind(True), False: kind(False)}
    return lambda batch, with_generator: kinds[with_generator](*batch.tensors())
