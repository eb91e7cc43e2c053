"""Images per CPU second of one srez training batch, against the plainest PyTorch version of the
same step.

usage: python -m benchmarks.srez [--width W] [--batch N] [--rounds R] [--threads T]

Both sides start from the same weights and get the same batches; their losses are compared first.
The plain side is what the paper's figure says, written down with torch.nn: enlarge, normalise,
ReLU, convolve; two backward passes; Adam as it comes. Rounds alternate and processor time is
counted (of all threads together), since other jobs share most machines; the table shows medians and
their ratio.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eyescream_py.srez.batches import Batch, with_inputs
from eyescream_py.srez.networks import BatchShift, DoubleSide
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import Networks, build_networks, train_step


class PlainNorm(nn.Module):
    """Batch norm with a fixed scale of one."""

    def __init__(self, norm: BatchShift) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(len(norm.shift), eps=1e-3)
        self.norm.weight.requires_grad_(False)
        self.norm.bias.data.copy_(norm.shift.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def plain_version(network: nn.Module) -> nn.Module:
    """The same network from torch.nn's own layers, in their default memory layout."""
    for name, child in network.named_children():
        if isinstance(child, BatchShift):
            setattr(network, name, PlainNorm(child))
        elif isinstance(child, DoubleSide):
            norm = PlainNorm(child.norm) if isinstance(child.norm, BatchShift) else nn.Identity()
            behind = [child.then] if child.then else []
            stage = [nn.Upsample(scale_factor=2), norm, nn.ReLU(), child.conv, *behind]
            setattr(network, name, nn.Sequential(*stage))
        else:
            plain_version(child)
    for p in network.parameters():
        p.data = p.data.contiguous()
    return network


def plain_step(
    networks: tuple[nn.Module, nn.Module],
    optimizers: tuple[torch.optim.Optimizer, ...],
    batch: Batch,
    f: float,
) -> dict[str, Tensor]:
    """The usual way: the critic's loss on a detached output, then the generator's through the
    critic.
    """
    (generator, critic), (generator_optimizer, critic_optimizer) = networks, optimizers
    fake = generator(batch.inputs)
    critic_optimizer.zero_grad()
    critic_loss = F.softplus(-critic(batch.label)).mean() + F.softplus(critic(fake.detach())).mean()
    critic_loss.backward()
    generator_optimizer.zero_grad()
    generator_loss = (1 - f) * F.softplus(-critic(fake)).mean() + f * tie_loss(fake, batch.small)
    generator_loss.backward()
    critic_optimizer.step()
    generator_optimizer.step()
    return {
        "generator_loss": generator_loss.detach(),
        "discriminator_tot_loss": critic_loss.detach(),
    }


def plain_side(ours: Networks, options: Options) -> Callable[[Batch], dict[str, Tensor]]:
    networks = tuple(plain_version(copy.deepcopy(n)) for n in (ours.generator, ours.critic))
    betas = (options.learning_beta1, options.learning_beta2)
    optimizers = tuple(
        torch.optim.Adam(
            [p for p in n.parameters() if p.requires_grad], options.learning_rate_start, betas
        )
        for n in networks
    )
    generator, critic = networks
    return lambda batch: plain_step((generator, critic), optimizers, batch, options.gene_l1_factor)


def check_same_losses(sides: dict[str, Callable[[Batch], dict[str, Tensor]]], batch: Batch) -> None:
    results = {name: step(batch) for name, step in sides.items()}
    for key, value in results["plain"].items():
        difference = abs(float(value) - float(results["ours"][key]))
        if difference > 1e-3 * max(1.0, abs(float(value))):
            raise SystemExit(
                f"{key} differs by {difference}: the two sides do not compute the same"
            )


def measure(
    sides: dict[str, Callable[[Batch], dict[str, Tensor]]], batch: Batch, rounds: int
) -> dict[str, float]:
    """Median CPU seconds per batch of each side; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, step in sides.items():
            started = time.process_time()
            step(batch)
            times[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    options = Options(width=told.width, batch_size=told.batch)
    rng = torch.Generator().manual_seed(0)
    batch = with_inputs(torch.rand(told.batch, 3, 64, 64, generator=rng), options, rng)
    plain_batch = Batch(*(t.contiguous() for t in batch.tensors()))
    ours = build_networks(options, torch.device("cpu"))
    plain = plain_side(ours, options)
    sides = {
        "plain": lambda _: plain(plain_batch),
        "ours": lambda b: train_step(ours, b, options),
    }
    check_same_losses(sides, batch)
    seconds = measure(sides, batch, told.rounds)
    print(
        f"torch {torch.__version__}, {told.threads} threads, 64x64, batch {told.batch}, width "
        f"{told.width}"
    )
    print("| side | CPU ms per batch | images per CPU second | ratio |\n|---|---|---|---|")
    for name, s in seconds.items():
        print(f"| {name} | {1000 * s:.0f} | {told.batch / s:.1f} | {seconds['plain'] / s:.2f} |")


if __name__ == "__main__":
    main()
