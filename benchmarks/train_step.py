"""Time one training iteration of ours against the plain port's, alternately in one run.

    python -m benchmarks.train_step [--only 16px] [--batch 16 64] [--rounds 15] [--gpu -1]

prints a table of medians and ratios; `make bench` keeps it in benchmarks/results/. What both sides
compute is the same (tests/test_benchmarks.py), but for bf16. Lua's times are another machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import nn

from benchmarks.plain_port import PlainFaces, PlainPairs
from benchmarks.report import OutputFile, Table, chosen, machine
from benchmarks.sides import CLOCKS, compare
from eyescream_py.data.dataset import Dataset
from eyescream_py.data.pairs import coarse_and_diff
from eyescream_py.game import precision
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.adversarial_c2f import PairFeed
from eyescream_py.game.capture import CapturedIteration
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.fused_adam import FusedAdam
from eyescream_py.game.joined_adam import join
from eyescream_py.game.working import Working
from eyescream_py.networks import models, models_c2f
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.fused_layers import Tools, learn_early
from eyescream_py.system.device import choose_device, keep_memory, prepare_cuda, wait_for
from eyescream_py.system.fusing import fused_kernels
from eyescream_py.system.lanes import Lanes
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.optim import Adam
from eyescream_py.torch7.random import TorchSource
from eyescream_py.training.players import logits_of

CASES = {"16px gray": (1, 16, None), "32px colour": (3, 32, None), "c2f 16>32 gray": (1, 32, 16)}
LUA_MS = {("16px gray", 16): 656, ("32px colour", 16): 1100, ("c2f 16>32 gray", 32): 2200}


def ours(
    case: str,
    data: Dataset,
    batch: int,
    arithmetic: precision.Precision,
    flat: bool | None = None,
    record: bool = True,
) -> Callable[[], None]:
    """One iteration as the trainers run it; `flat` parameters or not, None: as they do; `record`:
    replayed from the fourth on, as they do.
    """
    device = data.images.device
    source = TorchSource(0, device)
    networks = _networks(case, source, arithmetic.name == "bf16")
    cuda = device.type == "cuda"
    flat = cuda or arithmetic.name == "bf16" if flat is None else flat
    kernels = fused_kernels(device, arithmetic.name == "bf16") if flat else None
    tools = Tools(kernels, Lanes(device)) if kernels else None
    game = make_game(case, networks, data, batch, source, arithmetic, flat, cuda, tools)
    step = CapturedIteration(game, batch, source) if record else game.iteration
    return lambda: step(batch)


def make_game(
    case: str,
    networks: tuple[nn.Module, nn.Module],
    data: Dataset,
    batch: int,
    source: TorchSource,
    arithmetic: precision.Precision,
    flat: bool,
    cuda: bool,
    tools: Tools | None = None,
) -> Game:
    """The game of a case; with `cuda` its counters stay on the device, with `tools` layers and
    steps are fused.
    """
    coarse, (D, G) = CASES[case][2], networks
    kernels = tools.kernels if tools else None
    penalty = Penalty(1e-7, 0) if coarse else Penalty(0, 1e-4)
    feed = (
        PairFeed(data, G, coarse, batch, len(data), source, kernels=kernels)
        if coarse
        else FaceFeed(data, G, 100, len(data), source, kernels=kernels)
    )
    answers, rounded = logits_of(networks, tools), arithmetic.name == "bf16" and flat
    D_learner, G_learner = (
        _learner(net, drawn, bound, flat, rounded, cuda, tools)
        for net, drawn, bound in ((D, penalty, 1.0), (G, Penalty(), 5.0))
    )
    return Game(
        D_learner,
        G_learner,
        feed,
        AccuracyGate(1.01, batch, data.images.device),
        autocast=arithmetic.autocast,
        answers=answers,
        tally=kernels.tally if kernels else None,
    )


def _networks(case: str, source: TorchSource, rounded: bool) -> tuple[nn.Sequential, nn.Sequential]:
    channels, size, coarse = CASES[case]
    made, dims = models_c2f if coarse else models, (channels, size, size)
    networks: tuple[nn.Sequential, nn.Sequential] = made.create_D(dims), made.create_G(dims)
    for net in networks:
        set_random_source(net.to(source.device), source)
        if source.device.type == "cuda":
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            speed_up(net, rounded=rounded)
    return networks


def _learner(
    net: nn.Module, penalty: Penalty, bound: float, flat: bool, rounded: bool, cuda: bool,
    tools: Tools | None,
) -> Learner:  # fmt: skip
    held = Flat(net) if flat else None
    optimizer = Adam(held or net.parameters(), capturable=cuda)
    working = Working(net, held) if held and rounded else None
    if tools is None:
        player = Learner(net, optimizer, penalty, bound, working)
        join(player)
        return player
    factors = (penalty.l1, penalty.l2)
    fused = FusedAdam(tools.kernels, optimizer, factors, bound, working)
    learn_early(net, fused)
    return Learner(net, optimizer, penalty, bound, working, fused, tools.lanes)


def plain(case: str, data: Dataset, batch: int) -> Callable[[], None]:
    """One iteration of the plain port (benchmarks/plain_port.py) on the same pictures."""
    rows = torch.arange(len(data), device=data.images.device)
    coarse_size = CASES[case][2]
    if coarse_size:
        return PlainPairs(*coarse_and_diff(data, rows, coarse_size), batch).iteration
    return PlainFaces(data.floats(rows), batch).iteration


@dataclass(frozen=True)
class Side:
    """One column of the table: "plain", or ours in "fp32" or "bf16"; as its process is told."""

    name: str
    case: str
    batch: int
    device: torch.device
    clock: str
    threads: int
    keep: bool = False  # freed memory, on the plain side too

    def __call__(self) -> Callable[[], float]:
        """What runs one iteration and returns its milliseconds, the device's work included."""
        if self.threads:
            torch.set_num_threads(self.threads)
        prepare_cuda(self.device, fast=False, strict=False)
        channels, size, _ = CASES[self.case]
        pixels = torch.randint(0, 256, (1000, channels, size, size), dtype=torch.uint8)
        data, clock = Dataset(pixels.to(self.device), "noise"), CLOCKS[self.clock]
        if self.name != "plain" or self.keep:
            keep_memory()  # as the trainers do
        if self.name == "plain":
            step = plain(self.case, data, self.batch)
        else:
            step = ours(self.case, data, self.batch, precision.choose(self.name, self.device))

        def run() -> float:
            start = clock()
            step()
            wait_for(self.device)
            return 1000 * (clock() - start)

        return run


@click.command()
@click.option("--only", default="", help="Cases whose name contains this.")
@click.option("--batch", multiple=True, type=int, help="[default: 16 and 64; c2f: 32 and 64]")
@click.option("--rounds", default=15, help="Timed rounds of each step.")
@click.option("--gpu", default=-1, help="CUDA device, -1 for the CPU.")
@click.option("--bf16/--no-bf16", default=None, help="Time bf16 too (default: where it is native).")
@click.option(
    "--clock",
    type=click.Choice(list(CLOCKS)),
    default="wall",
    help="cpu: processor time, for a machine that is busy with other work; with --threads=1.",
)
@click.option("--threads", default=0, help="CPU threads (0: as torch chooses).")
@click.option("--keep", is_flag=True, help="The plain side, too, keeps freed memory.")
@click.option("--output", type=OutputFile(), help="Also write the table here.")
def main(
    only: str,
    batch: tuple[int, ...],
    rounds: int,
    gpu: int,
    bf16: bool | None,
    clock: str,
    threads: int,
    keep: bool,
    output: Path | None,
) -> None:
    """Time every case at every batch size."""
    device = choose_device(gpu, True)
    native = precision.multiplies_bf16(device)
    table = Table(
        "case", "batch", "plain ms", "ours fp32 ms", "ratio", "ours bf16 ms", "ratio", "Lua/ours"
    )
    names = ["plain", "fp32", *(["bf16"] if (native if bf16 is None else bf16) else [])]
    for case in chosen(CASES, only):
        for n in batch or ((32, 64) if CASES[case][2] else (16, 64)):
            sides = {name: Side(name, case, n, device, clock, threads, keep) for name in names}
            ms = compare(sides, rounds)
            lua = LUA_MS.get((case, n))
            best = min(value for name, value in ms.items() if name != "plain")
            table.add(
                case, n, f"{ms['plain']:.1f}",
                f"{ms['fp32']:.1f}", f"{ms['plain'] / ms['fp32']:.2f}",
                f"{ms['bf16']:.1f}" if "bf16" in ms else "-",
                f"{ms['plain'] / ms['bf16']:.2f}" if "bf16" in ms else "-",
                f"{lua / best:.1f}" if lua else "-",
            )  # fmt: skip
            print(table.last(), flush=True)
    title = f"Training iteration, medians of alternate runs, {clock} time"
    table.publish(title, machine(device), output)


if __name__ == "__main__":
    main()
