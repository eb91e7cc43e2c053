"""The adversarial game as a training task: its options, printed lines, figures and checkpoints.
`train.py` and `train_c2f.py` share it.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.game.adversarial import Game
from eyescream_py.game.capture import CapturedIteration, can_be_recorded
from eyescream_py.game.group import Alone
from eyescream_py.networks import checkpoints, models
from eyescream_py.plots.windows import Plots
from eyescream_py.system.device import wait_for
from eyescream_py.system.errors import UserError
from eyescream_py.system.locks import Lock
from eyescream_py.system.memory import demand_batch
from eyescream_py.system.places import chosen_pictures
from eyescream_py.system.voice import counted
from eyescream_py.torch7.random import RandomSource
from eyescream_py.torch7.states import fill
from eyescream_py.training.logs import LossLog
from eyescream_py.training.setup import CommonOptions, go_on_drawing
from eyescream_py.training.task import Schedule

SATURATED_EPOCHS = 5
SMALLEST_BATCH = 4  # pictures, two of each kind
ALIKE, DIVERSE = 0.03, 0.15  # shares of the real pictures' spread
CURVES = {  # window -> title, label, {curve: key in the metrics}
    "loss": ("loss of D and G", "loss", {"D": "D_loss", "G": "G_loss"}),
    "accuracy": ("accuracy of D", "share right", {"D": "D_accuracy"}),
    "parzen": ("distance to the truth (Parzen)", "2-norm", {"G": "parzen"}),
    "quality": ("distance to real pictures (SWD x1000)", "SWD", {"G": "swd"}),
}
LAST_RATE = 0.02  # of the first one, where learning rates fall


def mean_deviation(pictures: Tensor) -> float:
    """Over the batch, averaged over all values; 0 of a single picture. [N,...]"""
    return float(pictures.float().std(0, correction=0).mean())


@dataclass(frozen=True, kw_only=True)
class GameOptions(CommonOptions, abc.ABC):
    """What both adversarial trainers add."""

    calmed_by: ClassVar[str] = "a smaller learning rate, a smaller --D_clamp"
    tamed_by: ClassVar[str]  # what holds back a D that is always right, in words

    G_L1: float  # weight of the L1 penalty on G's parameters
    G_L2: float  # of the L2 penalty
    D_L1: float  # the same of D
    D_L2: float
    D_iterations: int  # steps per iteration
    G_iterations: int
    D_clamp: float  # bound of each gradient element, 0: none
    G_clamp: float
    D_optmethod: str  # "adam", "adagrad" or "sgd"
    G_optmethod: str
    noise_dim: int  # numbers that G makes a picture of
    n_epoch: int  # pictures per epoch, -1: all
    grayscale: bool  # one channel instead of three
    aws: bool  # pictures of the Lua program's folder on AWS
    G_ema: float  # decay of the averaged G per iteration, 0: none
    G_ema_power: float = 0.0  # decay (1-1/n)^power at iteration n instead, 0: none
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    lr_fall: float = 1.0  # share of the epochs after which learning rates fall, 1: never
    G_arch: str
    D_arch: str

    @property
    @abc.abstractmethod
    def dims(self) -> models.Dims:
        """(C,H,W) of the pictures that D judges."""

    @abc.abstractmethod
    def rates(self, player: str) -> tuple[tuple[float, float], float]:
        """((learning rate, momentum) of SGD, learning rate of the others or -1) of "D" or "G"."""


def check_counts(options: GameOptions) -> None:
    """Raise UserError where no pictures, however many, could be trained on in such numbers: half a
    batch is real, D sees at least two of each kind, and an epoch holds a batch."""
    batch, length = options.batch_size, options.n_epoch
    if batch < SMALLEST_BATCH or batch % 2:
        raise UserError(
            f"--batchSize={batch}: give an even number of at least {SMALLEST_BATCH} (half is real)"
        )
    if length != -1 and length < batch:
        raise UserError(
            f"--N_epoch={length}: an epoch needs at least one batch of --batchSize={batch} "
            "pictures (-1: all files)"
        )


def load_pictures(options: GameOptions, device: torch.device, group: Alone) -> Dataset:
    """The run's pictures on the device; of several processes one decodes, the others wait."""
    path, (channels, size, _) = chosen_pictures(options.dataset, options.aws), options.dims
    return group.in_turn(
        lambda: load_dataset(path, channels, size, device, sized_by=options.sized_by)
    )


def epoch_length(options: GameOptions, data: Dataset) -> int:
    """Pictures per epoch; says so where there are fewer files than that."""
    length = len(data) if options.n_epoch == -1 else options.n_epoch
    flag = f"--batchSize={options.batch_size}"
    demand_batch(flag, min(options.batch_size, length), options.dims)
    if length < SMALLEST_BATCH:
        raise UserError(
            f"--N_epoch=-1: an epoch of {counted(length, 'picture')} is shorter than a batch; "
            f"--N_epoch={options.batch_size} draws them more than once"
        )
    if length > len(data):
        print(
            f"--N_epoch={length} is more than there are ({counted(len(data), 'picture')}): "
            "the epoch keeps its length, drawing pictures more than once."
        )
    return length


def falling(epoch: int, epochs: int, start: float) -> float:
    """Factor of the learning rates: 1 up to the share `start` of the epochs, then straight to
    LAST_RATE in the last one; 1 for ever where nobody said how many epochs there are, and in an
    only one, which would learn next to nothing.
    """
    flat = start * epochs
    if epochs <= 1 or epoch <= flat:
        return 1.0
    return 1 - (1 - LAST_RATE) * min(1.0, (epoch - flat) / (epochs - flat))


class GameTask(abc.ABC):
    """All of a `run.Task` but the windows (`show`) and the pictures (`save_pictures`).

    `length` is the number of pictures per epoch.
    """

    confusion_title = "Confusion of D:"
    lock: Lock | None = None

    def __init__(
        self,
        options: GameOptions,
        file_name: str,
        game: Game,
        length: int,
        source: RandomSource,
        plots: Plots,
    ) -> None:
        self.options, self.file_name, self.game = options, file_name, game
        self.source, self.plots = source, plots
        if options.visdom_env:  # that of a --save is of one run of this trainer
            plots.tell_of_others(file_name)
        batch = options.batch_size
        # Lua's loop: half of a batch is real, so an epoch passes at half a batch per iteration
        self.schedule = Schedule(length, batch, batch // 2, SMALLEST_BATCH, multiple=2)
        self.ema = game.ema
        self._saturated = 0
        self._drew_many = False  # whether G's pictures have ever been many different ones
        self._step: Callable[..., None] = game.iteration
        device = game.figures.device
        if can_be_recorded(device, source, game.group) and not options.no_capture:
            self._step = CapturedIteration(game, batch, source)
            if options.log_every == 1 and device.type == "cuda":
                print("--log_every=1 leaves no iteration to a CUDA graph: a larger one is faster.")
        if options.lr_fall < 1 and not options.epochs:
            print("Learning rates stay: they fall towards the end that --epochs names (--lr_fall).")

    @property
    def sampler(self) -> nn.Module:
        """The generator whose pictures are shown: the averaged one where there is one."""
        return self.ema.average if self.ema else self.game.G.network

    def learn_at(self, epoch: int) -> None:
        """Set the learning rates of an epoch (from 1), which fall towards the last one."""
        factor = falling(epoch, self.options.epochs, self.options.lr_fall)
        for player in (self.game.D, self.game.G):
            player.optimizer.factor = factor

    def begin_epoch(self) -> None:
        self.game.feed.begin_epoch()
        self.game.figures.zero()
        print(f"<dataset> loaded {self.schedule.length} random examples")

    def iteration(self, n: int, log: LossLog | None) -> None:
        self._step(n, log)

    def finish(self) -> None:
        wait_for(self.game.figures.device)

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        figures, length = self.game.figures, self.schedule.length
        steps = len(self.schedule) * self.game.D_iterations
        trained = int(figures.sums["D_trained"])
        print(f"<trainer> time required for this epoch = {seconds:.0f} s")
        print(f"<trainer> time to learn 1 sample = {1000 * seconds / length:f} ms")
        print(f"<trainer> trained D {trained} of {steps} times.")
        print(self.confusion_title)
        print(figures.confusion)
        cells = figures.confusion.counts.tolist()
        record = {
            "images_per_second": round(length / seconds, 1),
            "D_loss": float(figures.sums["D_loss"]) / max(steps, 1),
            "G_loss": float(figures.sums["G_loss"])
            / max(len(self.schedule) * self.game.G_iterations, 1),
            "D_accuracy": (cells[0] + cells[3]) / max(sum(cells), 1),
            "D_trained": trained,
            "D_steps": steps,
        }
        print(
            "<trainer> epoch {}: loss D {D_loss:.4f}, G {G_loss:.4f}, "
            "accuracy of D {D_accuracy:.1%}, {images_per_second:.0f} images/s".format(
                epoch, **record
            )
        )
        self._hint_at_saturation(record["D_accuracy"])
        return record

    def curves(self, epoch: int, record: Mapping[str, Any]) -> None:
        for window, (title, label, series) in CURVES.items():
            values = {name: record[key] for name, key in series.items() if key in record}
            if values:
                # both games may run in one --save, and so on one page
                own = f"{Path(self.file_name).stem}_{window}"
                title = f"{title} ({self.file_name})"
                self.plots.curve(own, epoch, values, title, "epoch", label)

    def _hint_at_saturation(self, accuracy: float) -> None:
        self._saturated = self._saturated + 1 if accuracy > 0.995 else 0
        if self._saturated == SATURATED_EPOCHS:
            print(
                f"D has been right about every picture for {SATURATED_EPOCHS} epochs, so G learns "
                f"little: {self.options.tamed_by}."
            )
            self._saturated = 0

    def is_finite(self) -> bool:
        sums = self.game.figures.sums
        if not all(math.isfinite(float(sums[name])) for name in ("D_loss", "G_loss")):
            return False
        tamed = self.game.taming.state().get("directions")
        if tamed is not None and not bool(tamed.isfinite().all()):
            return False
        return all(player.optimizer.is_finite() for player in (self.game.D, self.game.G))

    @abc.abstractmethod
    def spread(self) -> tuple[float, float]:
        """How far pictures of G lie apart, and real ones: mean deviation per value over a batch."""

    def collapse(self) -> str:
        stuck = self.game.is_stuck()
        if stuck:
            return stuck
        made, real = self.spread()
        # an untrained G draws the same of everything: only one that has drawn many things can fall
        self._drew_many |= made > DIVERSE * real
        if self._drew_many and made < ALIKE * real:
            return f"G's pictures are all alike ({made / real:.1%} of the real ones' spread)"
        return ""

    def halve_learning_rate(self) -> None:
        for player in (self.game.D, self.game.G):
            player.optimizer.halve()

    def close(self) -> None:
        """Let go of the graphs, which hold on to the communicator of several GPUs."""
        self._step = self.game.iteration

    def networks(self) -> dict[str, nn.Module]:
        for player in (self.game.D, self.game.G):
            if player.fused:
                player.fused.show_gradients()
        networks = {"D": self.game.D.network, "G": self.game.G.network}
        return {**networks, "G_ema": self.sampler} if self.ema else networks

    def content(self, epoch: int) -> dict[str, Any]:
        return {"opt": dict(self.options.table), "epoch": epoch}

    def state(self) -> dict[str, Any]:
        game = self.game
        return {
            "D_optimizer": game.D.optimizer.export_state(),
            "G_optimizer": game.G.optimizer.export_state(),
            "figures": game.figures.state(),
            "gate": {"accuracies": game.gate.accuracies, "count": game.gate.count},
            "feed": game.feed.state(),
            "random": self.source.state(),
            "precision": self.options.precision,
            "taming": game.taming.state(),
            "averaged": int(self.ema.updates) if self.ema else 0,
            "drew_many": self._drew_many,
            **self._kernels(),
        }

    def _kernels(self) -> dict[str, Any]:
        """On a GPU: whether kernels are joined, as those round otherwise than torch's own."""
        on_gpu = self.game.figures.device.type == "cuda"
        return {"fused": self.game.figures.tally is not None} if on_gpu else {}

    def load(self, content: Any, path: Path) -> bool:
        game = self.game
        for name, network in (("D", game.D.network), ("G", game.G.network)):
            checkpoints.copy_into(network, content, name, path)
        if self.ema:
            checkpoints.copy_into(
                self.ema.average, content, "G_ema" if "G_ema" in content else "G", path
            )
        for player in (game.D, game.G):
            player.refresh()
        if "resume" in content:
            return self._load_state(content["resume"]["state"], path)
        print(f"{path} holds no optimizer state, as Lua's files and a .bestnet: it starts anew.")
        return True

    def _load_state(self, state: Any, path: Path) -> bool:
        game = self.game
        try:
            game.D.optimizer.import_state(state["D_optimizer"])
            game.G.optimizer.import_state(state["G_optimizer"])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--network={path}: {error}; give the --D_optmethod, the --G_optmethod and the "
                "momentum it was trained with"
            ) from error
        game.figures.set_state(state["figures"])
        self._load_gate(state["gate"])
        game.taming.set_state(state.get("taming", {}))
        if self.ema:
            self.ema.resume(int(state.get("averaged", 0)))
        self._drew_many = bool(state.get("drew_many", False))
        ours = self._kernels()
        if ours and state.get("fused") not in (None, ours["fused"]):
            here, there = ("joined", "torch's own") if ours["fused"] else ("torch's own", "joined")
            print(
                f"{path} was trained by {there} kernels, this run takes {here} ones (--no_fuse): "
                "they round differently, so it goes on near the same way, not to the bit."
            )
        go_on_drawing(self.source, state["random"], path)
        return game.feed.set_state(state["feed"])

    def _load_gate(self, gate: Any) -> None:
        ours = self.game.gate
        if len(gate["accuracies"]) == len(ours.accuracies):  # its length follows the batch size
            fill(ours.accuracies, gate["accuracies"], "accuracies")
            fill(ours.count, gate["count"], "count")
