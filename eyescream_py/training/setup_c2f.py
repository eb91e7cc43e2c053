"""From `train_c2f.py`'s options to a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Penalty, Player
from eyescream_py.game.adversarial_c2f import PairFeed, StalePairFeed
from eyescream_py.game.averaging import Ema
from eyescream_py.game.group import Alone
from eyescream_py.game.precision import Precision
from eyescream_py.networks import models, models_c2f
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import StopSignal
from eyescream_py.torch7.layers import set_random_source
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training import setup
from eyescream_py.training.c2f import PairTask, Validation
from eyescream_py.training.distributed import joined, make_run
from eyescream_py.training.run import Schedule

ADAGRAD_LR = {"D": 1e-3, "G": 3e-3}


@dataclass(frozen=True)
class PairOptions(setup.GameOptions):
    """`train_c2f.py`'s."""

    D_sgd_lr: float
    G_sgd_lr: float
    D_sgd_momentum: float
    G_sgd_momentum: float
    coarse_size: int
    fine_size: int
    validation: int
    parzen_images: int

    @property
    def dims(self) -> models.Dims:
        return (1 if self.grayscale else 3, self.fine_size, self.fine_size)


def train(options: PairOptions, stop: StopSignal) -> None:
    """Run `train_c2f.py`; returns when the epochs are done or the run was stopped."""
    with joined(options) as (group, ours):
        _train(ours, stop, group)


def _train(options: PairOptions, stop: StopSignal, group: Alone) -> None:
    setup.check_batch_size(options.batch_size)
    _check_sizes(options)
    D, G = setup.built(lambda: build_networks(options), f"--fineSize={options.fine_size}")
    device, arithmetic = setup.device_and_precision(options)
    path, (channels, size, _) = setup.data_path(options), options.dims
    data = group.in_turn(lambda: load_dataset(path, channels, size, device))
    validation, training = data.split(options.validation, "validation" in options.typed)
    print(f"<dataset> {len(validation)} of {len(data)} images validate, the others train")
    length = setup.epoch_length(options, training)
    source = group.source(setup.random_source(options, device))
    plots = setup.open_plots(options)
    try:
        task = _task(
            options, (validation, training), length, source, plots, (D, G), device, arithmetic,
            group,
        )  # fmt: skip
        make_run(group, task, setup.run_options(options), stop).go()
    finally:
        plots.close()


def build_networks(
    options: PairOptions,
) -> tuple[models_c2f.PairSequential, models_c2f.PairSequential]:
    D = models_c2f.create_D(options.dims, options.D_arch)
    return D, models_c2f.create_G(options.dims, options.G_arch)


def _check_sizes(options: PairOptions) -> None:
    if options.coarse_size >= options.fine_size:
        raise UserError(
            f"--coarseSize={options.coarse_size} must be smaller than "
            f"--fineSize={options.fine_size}"
        )
    if options.parzen_images < 1 or options.validation < 1:
        raise UserError("--parzenImages and --validation need at least 1 image")


def _task(
    options: PairOptions,
    data: tuple[Dataset, Dataset],
    length: int,
    source: RandomSource,
    plots: Plots,
    networks: tuple[models_c2f.PairSequential, models_c2f.PairSequential],
    device: torch.device,
    arithmetic: Precision,
    group: Alone,
) -> PairTask:
    validation, training = data
    D, G = (net.to(device, arithmetic.dtype) for net in networks)
    for net in (D, G):
        models.reset_layers(net, source)
        set_random_source(net, source)
        group.share_statistics(net)
        setup.speed_up_on_cpu(net, options, arithmetic)
    print(f"Discriminator network:\n{D}\nGenerator network:\n{G}")
    print(f"Number of free parameters in D: {models.free_parameters(D)}")
    print(f"Number of free parameters in G: {models.free_parameters(G)}")
    # Lua draws its plots' noise here whether it plots or not
    source.uniform_(
        torch.empty(100, options.noise_dim, device=device, dtype=arithmetic.dtype), -1, 1
    )
    feed_type = StalePairFeed if options.rng == "lua" else PairFeed
    feed = feed_type(
        training, G, options.coarse_size, options.batch_size, length, source, arithmetic.dtype
    )
    game = Game(
        D=_player(options, "D", D, Penalty(options.D_L1, options.D_L2)),
        G=_player(options, "G", G, setup.penalty_of_G(options)),
        feed=feed,
        gate=AccuracyGate(2.0, options.batch_size, device),
        iterations=(options.D_iterations, options.G_iterations),
        autocast=arithmetic.autocast,
        group=group,
    )
    stem = f"adversarial_c2f_{options.coarse_size}_to_{options.fine_size}"
    return PairTask(
        game,
        Schedule(length, options.batch_size, options.batch_size // 2, smallest=4, multiple=2),
        source,
        plots,
        f"{stem}.net",
        options.table,
        Ema(G, options.G_ema) if options.G_ema else None,
        validation=Validation(validation, options.parzen_images, options.batch_size),
        window=options.window,
        best_path=Path(options.save) / f"{stem}.bestnet",
    )


def _player(options: PairOptions, name: str, network: torch.nn.Module, penalty: Penalty) -> Player:
    sgd = getattr(options, f"{name}_sgd_lr"), getattr(options, f"{name}_sgd_momentum")
    method = getattr(options, f"{name}_optmethod")
    lr = ADAGRAD_LR[name] if method == "adagrad" else -1.0
    optimizer = setup.make_optimizer(method, network, sgd, lr)
    return Player(network, optimizer, penalty, getattr(options, f"{name}_clamp"))
