"""From a command line to what every trainer needs: options, device, random numbers, windows,
optimizers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game import precision
from eyescream_py.game.adversarial import FaultyPenalty, Penalty
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.plots.windows import Plots
from eyescream_py.system.device import choose_device, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.places import AWS_FOLDER
from eyescream_py.torch7.optim import SGD, Adagrad, Adam, LuaOptimizer
from eyescream_py.torch7.random import LuaSource, RandomSource, TorchSource
from eyescream_py.training.run import RunOptions


@dataclass(frozen=True)
class CommonOptions:
    """What every trainer's command line gives; `typed` are the flags a person gave, `table` Lua's
    `opt`.
    """

    save: str
    save_freq: int
    network: str
    noplot: bool
    batch_size: int
    threads: int
    gpu: int
    window: int
    seed: int
    dataset: str | None
    epochs: int
    log_every: int
    visdom_server: str
    visdom_port: int
    visdom_env: str
    precision: str
    on_nan: str
    typed: frozenset[str] = field(kw_only=True)
    table: dict[str, Any] = field(kw_only=True)


@dataclass(frozen=True)
class GameOptions(CommonOptions):
    """What both adversarial trainers add."""

    G_L1: float
    G_L2: float
    D_L1: float
    D_L2: float
    D_iterations: int
    G_iterations: int
    D_clamp: float
    G_clamp: float
    D_optmethod: str
    G_optmethod: str
    noise_dim: int
    n_epoch: int
    rng: str
    grayscale: bool
    aws: bool
    G_ema: float
    G_arch: str
    D_arch: str


def run_options(options: CommonOptions) -> RunOptions:
    return RunOptions(
        save=Path(options.save),
        save_freq=options.save_freq,
        epochs=options.epochs,
        log_every=options.log_every,
        network=options.network,
        on_nan=options.on_nan,
    )


def data_path(options: GameOptions) -> str | None:
    return AWS_FOLDER if options.aws and options.dataset is None else options.dataset


def open_plots(options: CommonOptions) -> Plots:
    env = options.visdom_env or Path(options.save).resolve().name
    return Plots.open(not options.noplot, options.visdom_server, options.visdom_port, env)


def device_and_precision(options: GameOptions) -> tuple[torch.device, precision.Precision]:
    """What the flags ask for; a replay runs on the CPU, in fp32 unless fp64 is asked for."""
    set_threads(options.threads, "threads" in options.typed)
    if options.rng == "lua":
        if "gpu" in options.typed and options.gpu >= 0:
            raise UserError(f"--rng=lua runs on the CPU only, --gpu={options.gpu} asks for a GPU")
        device = torch.device("cpu")
        name = "fp32" if options.precision == "auto" else options.precision
        return device, precision.choose(name, device)
    device = choose_device(options.gpu, "gpu" in options.typed)
    return device, precision.choose(options.precision, device)


def random_source(options: GameOptions, device: torch.device) -> RandomSource:
    return LuaSource(options.seed) if options.rng == "lua" else TorchSource(options.seed, device)


def check_batch_size(batch_size: int) -> None:
    if batch_size < 4 or batch_size % 2:
        raise UserError(
            f"--batchSize={batch_size}: give an even number of at least 4 (half of it is real)"
        )


def epoch_length(options: GameOptions, data: Dataset) -> int:
    """Pictures per epoch; says so where there are fewer files than that."""
    if options.n_epoch == -1:
        return len(data)
    if options.n_epoch < options.batch_size:
        raise UserError(
            f"--N_epoch={options.n_epoch}: an epoch needs at least one batch of --batchSize="
            f"{options.batch_size} pictures (-1: all files)"
        )
    if options.n_epoch > len(data):
        print(
            f"--N_epoch={options.n_epoch} is more than the {len(data)} pictures there are: "
            "the epoch keeps its length, drawing pictures more than once."
        )
    return options.n_epoch


def make_optimizer(
    method: str, network: nn.Module, sgd: tuple[float, float], lr: float
) -> LuaOptimizer:
    """`sgd` is (learning rate, momentum); `lr` that of adam and adagrad, -1 for Lua's 0.001."""
    if lr < 0 and lr != -1:
        raise UserError(f"a learning rate of {lr:g}: give a positive one, or -1 for the default")
    lr = 1e-3 if lr == -1 else lr
    capturable = next(network.parameters()).is_cuda
    if method == "sgd":
        return SGD(network.parameters(), sgd[0], sgd[1], capturable)
    if method == "adagrad":
        return Adagrad(network.parameters(), lr, capturable)
    return Adam(network.parameters(), lr, capturable=capturable)


Networks = TypeVar("Networks", bound=Iterable[nn.Module])


def built(build: Callable[[], Networks], flags: str) -> Networks:
    """What `build` gives, after a look at whether this machine can hold and train it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with torch.device("meta"):
            size = sum(p.numel() * 4 for network in build() for p in network.parameters())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise UserError(f"{flags}: no network can be that large") from error
    if 4 * size > memory:  # weights, gradients, two moments
        raise UserError(
            f"{flags}: training such networks takes {4 * size / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f} GB; give smaller ones"
        )
    return build()


def speed_up_on_cpu(
    network: nn.Module, options: GameOptions, arithmetic: precision.Precision
) -> None:
    """A replay keeps torch's own arithmetic, bf16 torch's own convolutions."""
    if options.rng != "lua" and not next(network.parameters()).is_cuda:
        speed_up(network, convolutions=arithmetic.name != "bf16")


def penalty_of_G(options: GameOptions) -> Penalty:
    """A replay keeps the Lua program's fault."""
    kind = FaultyPenalty if options.rng == "lua" else Penalty
    return kind(options.G_L1, options.G_L2)
