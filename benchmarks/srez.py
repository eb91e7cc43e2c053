"""One srez training batch, against the plainest PyTorch version of the same step.

    python -m benchmarks.srez [--width W] [--batch N] [--rounds R] [--threads T]

Both sides start from the same weights and get the same batch; the losses of their first step have
to agree (those of further steps in double: tests/test_benchmarks.py). The plain side is what the
paper's figure says, written down with torch.nn: enlarge, normalise, ReLU, convolve; two backward
passes; Adam as it comes. Rounds alternate and processor time is counted (of all threads together);
the table shows medians and their ratio.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.report import Table, machine
from benchmarks.sides import medians
from eyescream_py.srez.batches import Batch, with_inputs
from eyescream_py.srez.networks import BatchShift, DoubleSide
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import Networks, build_networks, train_step

Side = Callable[[], dict[str, Tensor]]


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
    """The usual way: the generator's loss through the critic, the critic's on a detached output."""
    (generator, critic), (generator_optimizer, critic_optimizer) = networks, optimizers
    fake = generator(batch.inputs)
    generator_optimizer.zero_grad()
    generator_loss = (1 - f) * F.softplus(-critic(fake)).mean() + f * tie_loss(fake, batch.small)
    generator_loss.backward()
    critic_optimizer.zero_grad()  # of what the generator's loss has left there
    critic_loss = F.softplus(-critic(batch.label)).mean() + F.softplus(critic(fake.detach())).mean()
    critic_loss.backward()
    critic_optimizer.step()
    generator_optimizer.step()
    return {
        "generator_loss": generator_loss.detach(),
        "discriminator_tot_loss": critic_loss.detach(),
    }


def plain_side(ours: Networks, options: Options) -> Callable[[Batch], dict[str, Tensor]]:
    """A step on a batch, of networks with the weights of `ours`."""
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


def check_same_losses(sides: dict[str, Side]) -> None:
    """Raises where a loss of a first step differs: then something else is computed."""
    results = {name: step() for name, step in sides.items()}
    for key, value in results["plain"].items():
        difference = abs(float(value) - float(results["ours"][key]))
        if difference > 1e-3 * max(1.0, abs(float(value))):
            raise click.ClickException(f"{key} differs by {difference:.2g}")


@click.command(help=__doc__)
@click.option("--width", default=0.25, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(width: float, batch: int, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    options = Options(width=width, batch_size=batch)
    rng = torch.Generator().manual_seed(0)
    shown = with_inputs(torch.rand(batch, 3, 64, 64, generator=rng), options, rng)
    plain_batch = Batch(*(t.contiguous() for t in shown.tensors()))
    ours = build_networks(options, torch.device("cpu"))
    plain = plain_side(ours, options)
    sides: dict[str, Side] = {
        "plain": lambda: plain(plain_batch),
        "ours": lambda: train_step(ours, shown, options),
    }
    check_same_losses(sides)
    seconds = medians(sides, rounds)
    print(f"{machine()}; 64x64, batch {batch}, width {width}")
    table = Table("side", "CPU ms per batch", "images per CPU second", "ratio")
    for name, s in seconds.items():
        table.add(name, f"{1000 * s:.0f}", f"{batch / s:.1f}", f"{seconds['plain'] / s:.2f}")
    print(table.markdown())


if __name__ == "__main__":
    main()
