"""Processor time of one turn of image-model's game, against the plainest PyTorch form of it.

    python -m benchmarks.image_model_step [--size 32] [--batch 8] [--rounds 15] [--output FILE]

Both sides have the same weights and batches, one D step a turn and a replay cache; the losses of
their first turns have to agree. The plain side is made of torch.nn's layers and follows the
original's graph: G makes its pictures anew for its own step, D sees real and made ones in two
passes, G's step computes D's gradients too, RMSProp goes parameter by parameter, replayed pictures
are float32 in memory. Rounds alternate; medians of processor time and of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import OutputFile, Table, machine
from eyescream_py.image_model.adversarial import Game
from eyescream_py.image_model.losses import build_optimizer, discriminator_loss, generator_loss
from eyescream_py.image_model.networks import build_critic, build_generator
from eyescream_py.image_model.options import GanOptions
from eyescream_py.image_model.replay import ReplayCache

TURNS = 6  # a round
RATE = 1e-4
CAPACITY = 512


def down(inputs: int) -> nn.Module:
    """A 5x5 convolution of stride 2 with TensorFlow's padding."""
    return nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(inputs, 32, 5, 2), nn.LeakyReLU())


def up(inputs: int) -> nn.Module:
    """Its transpose; ZeroPad2d takes the last row and column off."""
    grow = nn.ConvTranspose2d(inputs, 32, 5, 2, 1)
    return nn.Sequential(grow, nn.ZeroPad2d((0, -1, 0, -1)), nn.LeakyReLU())


class PlainU(nn.Module):
    """Generator U."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Sequential(nn.Conv2d(1, 32, 1), nn.LeakyReLU())
        self.c2, self.c3 = down(32), down(32)
        self.c4 = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.LeakyReLU())
        self.d1, self.d2 = up(32), up(64)
        self.out = nn.Sequential(nn.Conv2d(64, 1, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        full = self.c1(x)
        half = self.c2(full)
        top = self.d1(self.c4(self.c3(half)))
        top = self.d2(torch.cat([half, top], 1))
        return self.out(torch.cat([full, top], 1))


def plain_critic(size: int) -> nn.Module:
    """The dense discriminator."""
    last = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.LeakyReLU())
    return nn.Sequential(down(1), down(32), last, nn.Flatten(), nn.Linear(size**2, 1))


def with_weights_of(source: nn.Module, network: nn.Module) -> nn.Module:
    """`network` with the parameters of `source`, which has them in the same order."""
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), source.parameters(), strict=True):
            mine.copy_(theirs)
    return network


class PlainRMSProp:
    """TensorFlow's RMSProp, one parameter at a time."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.squares = [torch.ones_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor, ...]) -> None:
        for i, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            self.squares[i] = 0.9 * self.squares[i] + 0.1 * g * g
            p -= RATE * g / torch.sqrt(self.squares[i] + 1e-10)


class Plain:
    """The game as it reads in the paper."""

    def __init__(self, g: nn.Module, d: nn.Module) -> None:
        self.g, self.d = g, d
        self.steps = PlainRMSProp(g.parameters()), PlainRMSProp(d.parameters())
        self.cache: list[Tensor] = []

    def turn(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """D's step on real `y`, then G's on `x`; their losses."""
        made = self.g(x).detach()
        half = len(x) // 2
        if len(self.cache) > half:
            chosen = np.random.default_rng(0).integers(len(self.cache), size=len(x) - half)
            made = torch.cat([made[:half], torch.stack([self.cache[i] for i in chosen])])
        d_loss = discriminator_loss("log", self.d(y), self.d(made))
        self.steps[1].step(torch.autograd.grad(d_loss, self.steps[1].parameters))
        fake = self.g(x)
        g_loss = generator_loss("log", self.d(fake))
        both = self.steps[0].parameters + self.steps[1].parameters
        gradients = torch.autograd.grad(g_loss, both)
        self.steps[0].step(gradients[: len(self.steps[0].parameters)])
        self.cache = (self.cache + list(fake.detach()))[-CAPACITY:]
        return d_loss.item(), g_loss.item()


def time_of(turn: Callable[[], object]) -> float:
    """Milliseconds of processor time per turn."""
    began = time.process_time()
    for _ in range(TURNS):
        turn()
    return 1000 * (time.process_time() - began) / TURNS


def build(size: int, folder: Path) -> tuple[Plain, Game]:
    """Both sides, with the same weights."""
    torch.manual_seed(0)
    g, d = build_generator("U", 1, size), build_critic("dense", 1, size)
    plain = Plain(with_weights_of(g, PlainU()), with_weights_of(d, plain_critic(size)))
    g_step, d_step = (build_optimizer("RMSP", net.parameters(), RATE) for net in (g, d))
    game = Game(g, d, g_step, d_step, GanOptions(d_limit=1), np.random.default_rng(0))
    game.replay = ReplayCache.create(folder / "replay", CAPACITY, (1, size, size))
    return plain, game


@click.command()
@click.option("--size", type=int, default=32, show_default=True)
@click.option("--batch", type=int, default=8, show_default=True)
@click.option("--rounds", type=int, default=15, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--output", type=OutputFile())
def main(size: int, batch: int, rounds: int, threads: int, output: Path | None) -> None:
    """Time both sides alternately."""
    torch.set_num_threads(threads)
    x, y = (torch.rand(batch, 1, size, size) - 0.5 for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        plain, game = build(size, Path(folder))
        first, ours = plain.turn(x, y), game.turn(x, y, lambda: (x, y))
        np.testing.assert_allclose(first, (ours["D"], ours["G"]), rtol=1e-5)
        sides = (lambda: plain.turn(x, y)), (lambda: game.turn(x, y, lambda: (x, y)))
        rows = [[time_of(side) for side in sides] for _ in range(rounds)]
    slow, fast = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(a / b for a, b in rows)
    table = Table("size", "batch", "plain, ms", "ours, ms", "plain / ours")
    table.add(size, batch, f"{slow:.1f}", f"{fast:.1f}", f"{ratio:.2f}")
    table.publish("image-model: one turn of the game", machine(), output)


if __name__ == "__main__":
    main()
