"""From the options of `train_autoencoder.py` and `train_denoiser.py` to a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.game.adversarial import Penalty, Player, bce_loss
from eyescream_py.game.group import Alone
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.networks import models
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.networks.models_denoiser import create_decoder, create_encoder
from eyescream_py.system.device import choose_device, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import StopSignal
from eyescream_py.torch7.layers import set_random_source
from eyescream_py.torch7.random import TorchSource
from eyescream_py.training import setup
from eyescream_py.training.distributed import joined, make_run
from eyescream_py.training.reconstruct import (
    AutoencoderTask,
    DenoiserTask,
    Pictures,
    ReconstructionTask,
)

TRAINING_PICTURES = 10_000
AUTOENCODER_VALIDATION = 512
DENOISER_VALIDATION = 256
NEVER_USED = {"K": "--K", "hidden_G": "--hidden_G", "hidden_D": "--hidden_D"}

AnyTask = TypeVar("AnyTask", bound=ReconstructionTask)


@dataclass(frozen=True)
class AutoencoderOptions(setup.CommonOptions):
    """`train_autoencoder.py`'s."""

    learning_rate: float
    momentum: float
    coef_l1: float
    coef_l2: float
    noise_dim: int
    K: int
    hidden_G: int  # noqa: N815 - Lua's name
    hidden_D: int  # noqa: N815
    scale: int
    optmethod: str


@dataclass(frozen=True)
class DenoiserOptions(setup.CommonOptions):
    """`train_denoiser.py`'s."""

    coef_l1: float
    coef_l2: float
    AE_clamp: float
    scale: int
    grayscale: bool
    aws: bool


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Lua's AbsCriterion: the mean absolute difference."""
    return (output - target).abs().mean()


def train_autoencoder(options: AutoencoderOptions, stop: StopSignal) -> None:
    """Run `train_autoencoder.py`; returns when the epochs are done or the run was stopped."""
    for name in sorted(NEVER_USED.keys() & options.typed):
        print(f"{NEVER_USED[name]} was never used by the Lua program and is not used here.")
    if options.noise_dim < 1:
        raise UserError(f"--noiseDim={options.noise_dim}: the code needs at least 1 number")
    dims = (1, options.scale, options.scale)
    flags = f"--scale={options.scale} --noiseDim={options.noise_dim}"
    (network,) = setup.built(lambda: [create_autoencoder(dims, options.noise_dim)], flags)

    def make(group: Alone) -> Reconstruction:
        sgd = (options.learning_rate, options.momentum)
        penalty = Penalty(options.coef_l1, options.coef_l2)
        optimizer = setup.make_optimizer(options.optmethod, network, sgd, -1)
        player = Player(network, optimizer, penalty, 0.0)
        return Reconstruction([player], absolute_error, group=group)

    with joined(options) as (group, ours):
        _train(
            ours, dims, AUTOENCODER_VALIDATION, {"AE": network},
            make, AutoencoderTask, "autoencoder.net", options.dataset, stop, group,
        )  # fmt: skip


def train_denoiser(options: DenoiserOptions, stop: StopSignal) -> None:
    """Run `train_denoiser.py`; returns when the epochs are done or the run was stopped."""
    dims = (1 if options.grayscale else 3, options.scale, options.scale)
    encoder = create_encoder()
    (first,) = setup.built(lambda: [create_decoder(dims)], f"--scale={options.scale}")
    networks = {"AE1_ENCODER": encoder, "AE1_DECODER": first, "AE2_DECODER": copy.deepcopy(first)}
    path = setup.AWS_FOLDER if options.aws and options.dataset is None else options.dataset

    def make(group: Alone) -> Reconstruction:
        networks["AE2_DECODER"].load_state_dict(first.state_dict())  # a copy at the start
        penalty = Penalty(options.coef_l1, options.coef_l2)
        stages = [
            Player(
                net, setup.make_optimizer("adam", net, (0, 0), -1), penalty, options.AE_clamp
            )
            for net in (first, networks["AE2_DECODER"])
        ]  # fmt: skip
        return Reconstruction(stages, bce_loss, encoder, group)

    with joined(options) as (group, ours):
        _train(
            ours, dims, DENOISER_VALIDATION, networks, make, DenoiserTask,
            "denoiser_{}x{}x{}.net".format(*dims), path, stop, group,
        )  # fmt: skip


def _train(
    options: AutoencoderOptions | DenoiserOptions,
    dims: models.Dims,
    validation: int,
    networks: Mapping[str, nn.Sequential],
    make: Callable[[Alone], Reconstruction],
    task_type: type[AnyTask],
    file_name: str,
    path: str | None,
    stop: StopSignal,
    group: Alone,
) -> None:
    if options.batch_size < 2:
        raise UserError(f"--batchSize={options.batch_size}: give a number of at least 2")
    set_threads(options.threads, "threads" in options.typed)
    device = choose_device(options.gpu, "gpu" in options.typed)
    data = group.in_turn(lambda: load_dataset(path, dims[0], dims[1], device))
    pictures = split(data, validation)
    source = group.source(TorchSource(options.seed, device))
    for name, net in networks.items():
        net.to(device)
        set_random_source(net, source)
        group.share_statistics(net)
        if name != "AE2_DECODER":
            models.reset_layers(net, source)
            models.draw_start_weights(net, source)
    plots = setup.open_plots(options)
    try:
        task = task_type(
            make(group), networks, pictures, options.batch_size, source, plots,
            file_name, options.table, options.window, options.save,
        )  # fmt: skip
        make_run(group, task, setup.run_options(options), stop).go()
    finally:
        plots.close()


def split(data: Dataset, validation: int) -> Pictures:
    """The first 10,000 pictures train, the next `validation` validate (a tenth at most)."""
    held = min(validation, max(1, len(data) // 10))
    cut = min(TRAINING_PICTURES, len(data) - held)
    borders = [b for b in data.borders or () if b <= cut]
    cut = borders[-1] if borders and borders[-1] > 0 else cut
    if cut < 2:
        raise UserError(f"{data.source}: {len(data)} pictures are too few to train on")
    train, rest = data.rows(0, cut), data.rows(cut, min(cut + held, len(data)))
    print(f"<dataset> {len(train)} images train, {len(rest)} validate")
    return Pictures(train, rest)
