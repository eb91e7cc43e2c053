"""Giving pictures back as a training task: its epochs over shuffled pictures, figures, windows and
checkpoints. `train_autoencoder.py` and `train_denoiser.py` share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.capture import RecordedStep, can_be_recorded
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.networks import checkpoints
from eyescream_py.plots.windows import Plots
from eyescream_py.results.sampling import save_grid
from eyescream_py.results.story import grid_name
from eyescream_py.system.device import wait_for
from eyescream_py.system.errors import UserError
from eyescream_py.system.idle import say_idle
from eyescream_py.system.locks import Lock
from eyescream_py.torch7.random import RandomSource
from eyescream_py.torch7.states import fill
from eyescream_py.training.logs import LossLog
from eyescream_py.training.setup import CommonOptions, go_on_drawing
from eyescream_py.training.task import Schedule

SHOWN = 100
VALIDATION_BATCH = 256


class ReconstructionTask:
    """Everything of a `run.Task`; `named` are the networks under their names in the file."""

    lock: Lock | None = None

    def __init__(
        self,
        options: CommonOptions,
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
        if options.visdom_env:
            plots.tell_of_others(file_name)
        self.schedule = Schedule(len(train), options.batch_size, options.batch_size, smallest=2)
        self.device = train.device
        self.dtype = next(model.stages[0].network.parameters()).dtype
        self.order = torch.arange(len(train), device=self.device)  # rows as the epoch takes them
        self.taken = 0  # of them, how many it has taken
        stages = len(model.stages)
        self.sums = torch.zeros(stages, dtype=torch.float64, device=self.device)  # of losses
        self.smallest = [float("inf")] * stages  # validation losses so far
        self._rows = self.order[: options.batch_size].clone()  # of a full batch
        self._step = self._full_step(options.no_capture)

    def learn_at(self, epoch: int) -> None: ...

    def begin_epoch(self) -> None:
        self.order.copy_(self.source.permutation(len(self.order)))
        self.taken = 0
        self.sums.zero_()

    def _full_step(self, by_python: bool) -> Callable[[], Any]:
        """Learns from the full batch `_rows`; on a processor recorded, where that is possible."""
        on_cpu = self.device.type == "cpu"
        possible = on_cpu and can_be_recorded(self.device, self.source, self.model.group)
        say_idle((not possible, "where this program records nothing", ("no_capture",)))

        def step() -> None:
            self._learn(self._rows)

        return RecordedStep(step, self.model.stages) if possible and not by_python else step

    def iteration(self, n: int, log: LossLog | None) -> None:
        rows = self.order[self.taken : self.taken + n]
        self.taken += n
        if log:
            for name, loss in zip(self._stage_names(), self._learn(rows).tolist(), strict=True):
                log(name, loss)
        elif n < len(self._rows):
            self._learn(rows)
        else:
            self._rows.copy_(rows)
            self._step()

    def _learn(self, rows: Tensor) -> Tensor:
        """One step on these pictures; each stage's loss before it. [stages]"""
        losses = self.model.step(self.train.floats(rows, self.dtype))
        self.sums += losses * len(rows)
        return losses

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
        title = f"loss ({self.file_name})"
        self.plots.curve(f"{self.series}_loss", epoch, values, title, "epoch", "loss")

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
        return "resume" not in content or self._resume(content["resume"], path)

    def _resume(self, resume: Any, path: Path) -> bool:
        state, done = resume["state"], resume["position"]["iteration"]
        try:
            for name, stage in zip(self._stage_names(), self.model.stages, strict=True):
                stage.optimizer.import_state(state["optimizers"][name])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--network={path}: {error}; give the --optmethod and --momentum it was trained "
                "with"
            ) from error
        self.smallest = [float(state["smallest"][name]) for name in self._stage_names()]
        go_on_drawing(self.source, state["random"], path)
        if len(state["order"]) != len(self.order):
            return False
        fill(self.order, state["order"], "order")
        self.taken = int(state["taken"])
        fill(self.sums, state["sums"], "sums")
        # iterations of another size have left other pictures over
        return self.taken == min(done * self.options.batch_size, len(self.order))


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
