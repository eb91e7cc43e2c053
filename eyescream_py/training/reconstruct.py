"""`train_autoencoder.py` and `train_denoiser.py`: shuffled epochs over pictures that are to be
given back. Built here, trained by `Run`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.game.adversarial import Learner, Penalty
from eyescream_py.game.answers import bce_loss
from eyescream_py.game.group import Alone
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.game.trial import Part
from eyescream_py.networks import models
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.networks.models_denoiser import create_decoder, create_encoder
from eyescream_py.system.errors import UserError
from eyescream_py.system.memory import built
from eyescream_py.system.places import chosen_pictures
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import counted
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training import setup
from eyescream_py.training.distributed import joined
from eyescream_py.training.reconstruction import AutoencoderTask, DenoiserTask
from eyescream_py.training.run import Run

TRAINING_PICTURES = 10_000
AUTOENCODER_VALIDATION = 512
DENOISER_VALIDATION = 256


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(setup.CommonOptions):
    """The options of `train_autoencoder.py`."""

    sized_by: ClassVar[str] = "--scale"  # its pictures are gray
    calmed_by: ClassVar[str] = "--optmethod=sgd with a smaller --learningRate"

    learning_rate: float  # of SGD
    momentum: float  # of SGD
    coef_l1: float  # weights of the penalties on the parameters
    coef_l2: float
    noise_dim: int  # numbers that a picture becomes
    K: int  # never used, like the next two
    hidden_G: int  # noqa: N815 - Lua's name
    hidden_D: int  # noqa: N815
    scale: int  # height and width of the pictures
    optmethod: str  # "adam", "adagrad" or "sgd"

    @property
    def dims(self) -> models.Dims:
        return (1, self.scale, self.scale)


@dataclass(frozen=True, kw_only=True)
class DenoiserOptions(setup.CommonOptions):
    """The options of `train_denoiser.py`."""

    calmed_by: ClassVar[str] = "a smaller --AE_clamp"

    coef_l1: float  # weights of the penalties on the parameters
    coef_l2: float
    AE_clamp: float  # bound of each gradient element, 0: none
    scale: int  # height and width of the pictures
    grayscale: bool  # one channel instead of three
    aws: bool  # pictures of the Lua program's folder on AWS

    @property
    def dims(self) -> models.Dims:
        return (1 if self.grayscale else 3, self.scale, self.scale)


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Lua's AbsCriterion: the mean absolute difference."""
    return (output - target).abs().mean()


def train_autoencoder(options: AutoencoderOptions, stop: StopSignal) -> None:
    """Run `train_autoencoder.py`; returns when the epochs are done or the run was stopped."""
    _check_batch_size(options.batch_size)
    if options.noise_dim < 1:
        raise UserError(f"--noiseDim={options.noise_dim}: the code needs at least 1 number")
    flags = f"--scale={options.scale} --noiseDim={options.noise_dim}"
    (network,) = built(lambda: [create_autoencoder(options.dims, options.noise_dim)], flags)
    with joined(options, stop) as (group, options, stop):
        options, device, arithmetic = setup.settled(
            options, group, Part(network, [options.dims], fast=False)
        )
        train, validation = _load(options, options.dataset, AUTOENCODER_VALIDATION, device, group)
        source = group.source(setup.random_source(options, device))
        _prepare([network.to(device, arithmetic.dtype)], source, group)
        _draw_weights(network, source)
        with closing(setup.open_plots(options)) as plots:
            sgd = (options.learning_rate, options.momentum)
            optimizer = setup.make_optimizer(options.optmethod, network, sgd)
            penalty = Penalty(options.coef_l1, options.coef_l2)
            player = Learner(network, optimizer, penalty, clamp=0)
            setup.join_steps(options, player)
            model = Reconstruction(
                [player], absolute_error, None, group, arithmetic.autocast, with_penalty=True
            )
            task = AutoencoderTask(
                options, "autoencoder.net", model, {"AE": network}, train, validation, source, plots
            )
            Run(task, options, stop, group).go()


def train_denoiser(options: DenoiserOptions, stop: StopSignal) -> None:
    """Run `train_denoiser.py`; returns when the epochs are done or the run was stopped."""
    _check_batch_size(options.batch_size)
    encoder = create_encoder()
    (first,) = built(lambda: [create_decoder(options.dims)], f"--scale={options.scale}")
    second = copy.deepcopy(first)
    networks = {"AE1_ENCODER": encoder, "AE1_DECODER": first, "AE2_DECODER": second}
    with joined(options, stop) as (group, options, stop):
        path = chosen_pictures(options.dataset, options.aws)
        options, device, arithmetic = setup.settled(
            options, group, Part(first, [options.dims], fast=False)
        )
        train, validation = _load(options, path, DENOISER_VALIDATION, device, group)
        source = group.source(setup.random_source(options, device))
        _prepare([net.to(device, arithmetic.dtype) for net in networks.values()], source, group)
        _draw_weights(encoder, source)
        _draw_weights(first, source)
        second.load_state_dict(first.state_dict())  # both stages start alike
        with closing(setup.open_plots(options)) as plots:
            penalty = Penalty(options.coef_l1, options.coef_l2)
            stages = [
                Learner(
                    net,
                    setup.make_optimizer("adam", net, (0, 0)),
                    penalty,
                    options.AE_clamp,
                )
                for net in (first, second)
            ]
            setup.join_steps(options, *stages)
            model = Reconstruction(
                stages, bce_loss, encoder, group, arithmetic.autocast,
                as_lua=options.rng == "lua",
            )  # fmt: skip
            name = "denoiser_{}x{}x{}.net".format(*options.dims)
            task = DenoiserTask(options, name, model, networks, train, validation, source, plots)
            Run(task, options, stop, group).go()


def _check_batch_size(batch_size: int) -> None:
    """Raise UserError where batch normalization has no deviation to divide by."""
    if batch_size < 2:
        raise UserError(f"--batchSize={batch_size}: give a number of at least 2")


def _load(
    options: AutoencoderOptions | DenoiserOptions,
    path: str | None,
    validation: int,
    device: torch.device,
    group: Alone,
) -> tuple[Dataset, Dataset]:
    """Pictures to train on and at most `validation` others."""
    channels, size, _ = options.dims
    data = group.in_turn(
        lambda: load_dataset(path, channels, size, device, sized_by=options.sized_by)
    )
    return split(data, validation)


def split(data: Dataset, validation: int) -> tuple[Dataset, Dataset]:
    """The first 10,000 pictures train, the next `validation` validate (a tenth at most)."""
    held = min(validation, max(1, len(data) // 10))
    cut = min(TRAINING_PICTURES, len(data) - held)
    # copies of one picture stay on one side
    borders = [b for b in data.borders or () if b <= cut]
    cut = borders[-1] if borders and borders[-1] > 0 else cut
    if cut < 2:
        raise UserError(f"{data.name}: too few to train on ({counted(len(data), 'picture')})")
    train, rest = data.rows(0, cut), data.rows(cut, min(cut + held, len(data)))
    print(f"<dataset> {len(train)} images train, {len(rest)} validate")
    return train, rest


def _prepare(networks: Sequence[nn.Module], source: RandomSource, group: Alone) -> None:
    for net in networks:
        set_random_source(net, source)
        group.share_statistics(net)


def _draw_weights(network: nn.Sequential, source: RandomSource) -> None:
    models.reset_layers(network, source)
    models.draw_start_weights(network, source)
