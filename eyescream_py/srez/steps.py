"""One training step: both losses on the same output and the same old weights, then both updates.

On CUDA the step is recorded once as a graph and replayed; on the CPU it runs as written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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
from eyescream_py.srez.options import Options
from eyescream_py.system.errors import UserError

WARM_UP_STEPS = 3  # CUDA's libraries choose their kernels in these, before a recording


@dataclass
class Networks:
    """The two networks and their optimizers: everything that training changes."""

    generator: Generator
    critic: Critic
    generator_optimizer: Optimizer
    critic_optimizer: Optimizer


def build_networks(options: Options, device: torch.device) -> Networks:
    """Networks with the start weights of `options.random_seed`, on `device`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.random_seed)
        generator, critic = build_generator(options), build_critic(options)
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
    """bf16 for the convolutions where asked; the networks' last layers and all losses stay fp32."""
    wanted = options.precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


@torch.no_grad()
def _clip(critic: nn.Module, bound: float) -> None:
    for p in critic.parameters():
        p.clamp_(-bound, bound)


Step = Callable[[Batch, bool], dict[str, Tensor]]


def build_step(networks: Networks, options: Options, device: torch.device) -> Step:
    """The step to call per batch: recorded on CUDA, eager elsewhere."""

    def eager(batch: Batch, with_generator: bool) -> dict[str, Tensor]:
        return train_step(networks, batch, options, with_generator)

    if device.type != "cuda" or not options.capture:
        return eager
    return RecordedStep(eager, device)


class RecordedStep:
    """A step as CUDA graphs, one with and one without the generator's update.

    The first steps of each kind run as written, on a side stream; then one is recorded (recording
    does not execute) and from there on replayed. The batch is copied to where the recording reads
    it. The returned losses are overwritten by the next step.
    """

    def __init__(self, eager: Step, device: torch.device) -> None:
        self._eager = eager
        self._device = device
        self._done = {True: 0, False: 0}
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]] = {}

    def __call__(self, batch: Batch, with_generator: bool) -> dict[str, Tensor]:
        with torch.cuda.device(self._device):
            if self._done[with_generator] < WARM_UP_STEPS:
                self._done[with_generator] += 1
                with _side_stream():
                    return self._eager(batch, with_generator)
            return self._replay(batch, with_generator)

    def _replay(self, batch: Batch, with_generator: bool) -> dict[str, Tensor]:
        if with_generator not in self._graphs:
            self._graphs[with_generator] = self._record(batch, with_generator)
        graph, place, losses = self._graphs[with_generator]
        for target, source in zip(place.tensors(), batch.tensors(), strict=True):
            target.copy_(source)
        graph.replay()
        return losses

    def _record(
        self, batch: Batch, with_generator: bool
    ) -> tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]:
        place = Batch(*(t.clone() for t in batch.tensors()))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                losses = self._eager(place, with_generator)
        except RuntimeError as error:  # going on would leave stream and generator in recording
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"the step cannot be recorded on this GPU ({reason}): give --capture 0"
            ) from error
        return graph, place, losses


@contextlib.contextmanager
def _side_stream() -> Iterator[None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)
