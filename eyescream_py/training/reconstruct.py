"""`train_autoencoder.py` and `train_denoiser.py`: shuffled epochs over pictures that are to be
given back. Built here, trained by `Run`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.game.adversarial import Learner, Penalty
from eyescream_py.game.answers import bce_loss
from eyescream_py.game.group import Alone
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.game.trial import Part
from eyescream_py.networks import checkpoints, models
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.networks.models_denoiser import create_decoder, create_encoder
from eyescream_py.plots.windows import Plots
from eyescream_py.results.sampling import save_grid
from eyescream_py.results.story import grid_name
from eyescream_py.system.device import wait_for
from eyescream_py.system.errors import UserError
from eyescream_py.system.locks import Lock
from eyescream_py.system.memory import built
from eyescream_py.system.places import chosen_pictures
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import counted
from eyescream_py.torch7.layers import set_random_source
from eyescream_py.torch7.random import RandomSource
from eyescream_py.torch7.states import fill
from eyescream_py.training import setup
from eyescream_py.training.distributed import joined
from eyescream_py.training.logs import LossLog
from eyescream_py.training.run import Run
from eyescream_py.training.task import Schedule

TRAINING_PICTURES = 10_000
AUTOENCODER_VALIDATION = 512
DENOISER_VALIDATION = 256
SHOWN = 100
VALIDATION_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(setup.CommonOptions):
    """The options of `train_autoencoder.py`."""

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
            model = Reconstruction(
                [player], absolute_error, None, group, arithmetic.autocast, with_penalty=True
            )
            task = AutoencoderTask(
                options, "autoencoder.net", model, {"AE": network}, train, validation, source, plots
            )
            Run(task, options, stop, group.leads).go()


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
            model = Reconstruction(
                stages, bce_loss, encoder, group, arithmetic.autocast,
                as_lua=options.rng == "lua",
            )  # fmt: skip
            name = "denoiser_{}x{}x{}.net".format(*options.dims)
            task = DenoiserTask(options, name, model, networks, train, validation, source, plots)
            Run(task, options, stop, group.leads).go()


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
    data = group.in_turn(lambda: load_dataset(path, channels, size, device))
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


class ReconstructionTask:
    """Everything of a `run.Task`; `named` are the networks under their names in the file."""

    lock: Lock | None = None

    def __init__(
        self,
        options: AutoencoderOptions | DenoiserOptions,
        file_name: str,
        model: Reconstruction,
        named: Mapping[str, nn.Module],
        train: Dataset,
        validation: Dataset,
        source: RandomSource,
        plots: Plots,
    ) -> None:
        self.options, self.file_name = options, file_name
        self.series = Path(file_name).stem
        self.model, self.named = model, dict(named)
        self.train, self.validation = train, validation
        self.source, self.plots = source, plots
        self.schedule = Schedule(len(train), options.batch_size, options.batch_size, smallest=2)
        self.device = train.device
        self.dtype = next(model.stages[0].network.parameters()).dtype
        self.order = torch.arange(len(train), device=self.device)  # rows as the epoch takes them
        self.taken = 0  # of them, how many it has taken
        stages = len(model.stages)
        self.sums = torch.zeros(stages, dtype=torch.float64, device=self.device)  # of losses
        self.smallest = [float("inf")] * stages  # validation losses so far

    def learn_at(self, epoch: int) -> None: ...

    def begin_epoch(self) -> None:
        self.order.copy_(self.source.permutation(len(self.order)))
        self.taken = 0
        self.sums.zero_()

    def iteration(self, n: int, log: LossLog | None) -> None:
        rows = self.order[self.taken : self.taken + n]
        losses = self.model.step(self.train.floats(rows, self.dtype))
        self.taken += n
        self.sums += losses * n
        if log:
            for name, loss in zip(self._stage_names(), losses.tolist(), strict=True):
                log(name, loss)

    def _stage_names(self) -> list[str]:
        known = {id(net): name for name, net in self.named.items()}
        return [known[id(stage.network)] for stage in self.model.stages]

    def validation_losses(self) -> list[float]:
        """Each stage's mean loss over the validation pictures."""
        data = self.validation
        total = torch.zeros_like(self.sums)
        for rows in torch.arange(len(data), device=self.device).split(VALIDATION_BATCH):
            total += self.model.losses(data.floats(rows, self.dtype)) * len(rows)
        return (total / len(data)).tolist()

    def finish(self) -> None:
        wait_for(self.device)

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        train = (self.sums / max(self.taken, 1)).tolist()
        validation = self.validation_losses()
        self.smallest = [min(a, b) for a, b in zip(self.smallest, validation, strict=True)]
        print(f"<trainer> time required for this epoch = {seconds:.0f} s")
        print(f"<trainer> time to learn 1 sample = {1000 * seconds / max(self.taken, 1):f} ms")
        for name, a, b in zip(self._stage_names(), train, validation, strict=True):
            print(f"<trainer> loss of {name}: train {a:.5f}, validation {b:.5f}")
        return {
            "images_per_second": round(self.taken / seconds, 1),
            "train": train,
            "validation": validation,
        }

    def curves(self, epoch: int, record: Mapping[str, Any]) -> None:
        values = {
            f"{kind} {name}": value
            for kind in ("train", "validation")
            for name, value in zip(self._stage_names(), record.get(kind, []), strict=False)
        }
        self.plots.curve("loss", epoch, values, f"loss ({self.file_name})", "epoch", "loss")

    def is_finite(self) -> bool:
        sums = bool(self.sums.isfinite().all())
        return sums and all(stage.optimizer.is_finite() for stage in self.model.stages)

    def collapse(self) -> str:
        return ""

    def halve_learning_rate(self) -> None:
        for stage in self.model.stages:
            stage.optimizer.halve()

    def _examples(self) -> list[tuple[str, list[Tensor]]]:
        """(set's name, [originals, what each stage makes of them]), 100 pictures each."""
        examples = []
        for name, data in (("train", self.train), ("val", self.validation)):
            rows = torch.arange(min(SHOWN, len(data)), device=self.device)
            images = data.floats(rows, self.dtype)
            examples.append((name, [images, *self.model.outputs(images)]))
        return examples

    def show(self, epoch: int) -> None:
        if not self.plots.is_on:
            return
        labels = ["originals", "decoded", "decoded twice"]
        number = self.options.window
        for name, pictures in self._examples():
            for label, images in zip(labels, pictures, strict=False):
                self.plots.images(number, images, f"{self.options.save} ({label} {name})")
                number += 1

    def save_pictures(self, folder: Path, epoch: int) -> None:
        originals, *made = self._examples()[1][1]
        pairs = torch.stack([originals, *made], 1).flatten(0, 1)
        save_grid(folder / grid_name(self.series, epoch), pairs, 10 * (1 + len(made)))

    def networks(self) -> dict[str, nn.Module]:
        return self.named

    def content(self, epoch: int) -> dict[str, Any]:
        return {"opt": dict(self.options.table), "epoch": epoch}

    def state(self) -> dict[str, Any]:
        return {
            "optimizers": {
                name: stage.optimizer.export_state()
                for name, stage in zip(self._stage_names(), self.model.stages, strict=True)
            },
            "order": self.order,
            "taken": self.taken,
            "sums": self.sums,
            "smallest": dict(zip(self._stage_names(), self.smallest, strict=True)),
            "random": self.source.state(),
            "precision": self.options.precision,
        }

    def load(self, content: Any, path: Path) -> bool:
        for name, network in self.named.items():
            checkpoints.copy_into(network, content, name, path)
        return "resume" not in content or self._load_state(content["resume"]["state"], path)

    def _load_state(self, state: Any, path: Path) -> bool:
        try:
            for name, stage in zip(self._stage_names(), self.model.stages, strict=True):
                stage.optimizer.import_state(state["optimizers"][name])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--network={path}: {error}; give the --optmethod it was trained with"
            ) from error
        self.smallest = [float(state["smallest"][name]) for name in self._stage_names()]
        setup.go_on_drawing(self.source, state["random"])
        if len(state["order"]) != len(self.order):
            return False
        fill(self.order, state["order"], "order")
        self.taken = int(state["taken"])
        fill(self.sums, state["sums"], "sums")
        return True


class AutoencoderTask(ReconstructionTask):
    """One stage; the file also holds `optstate` under Lua's names."""

    def content(self, epoch: int) -> dict[str, Any]:
        optimizer = self.model.stages[0].optimizer
        state = {type(optimizer).__name__.lower(): optimizer.export_state()}
        return {**super().content(epoch), "optstate": state}

    def load(self, content: Any, path: Path) -> bool:
        same_epoch = super().load(content, path)
        optimizer = self.model.stages[0].optimizer
        stored = (content.get("optstate") or {}).get(type(optimizer).__name__.lower())
        if "resume" not in content and stored:
            optimizer.import_state(stored)
        return same_epoch


class DenoiserTask(ReconstructionTask):
    """Two stages; the seventh window draws both validation losses."""

    def curves(self, epoch: int, record: Mapping[str, Any]) -> None:
        first, second = self.smallest
        values = dict(zip(("AE1", "AE2"), record.get("validation", []), strict=False))
        title = f"Loss at epoch {epoch} (min1={first:.5f}, min2={second:.5f})"
        self.plots.curve(self.options.window + 6, epoch, values, title, "epoch", "loss")
