"""`train_autoencoder.py` and `train_denoiser.py`: shuffled epochs over pictures that are given
back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.networks import checkpoints
from eyescream_py.plots.windows import Plots
from eyescream_py.results.sampling import save_grid
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training.run import Schedule

SHOWN = 100
VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Pictures:
    """What trains and what validates."""

    train: Dataset
    validation: Dataset


class ReconstructionTask:
    """Everything of a `training.Task` but the windows (`show`)."""

    def __init__(
        self,
        model: Reconstruction,
        named: Mapping[str, nn.Module],
        pictures: Pictures,
        batch: int,
        source: RandomSource,
        plots: Plots,
        file_name: str,
        option_table: Mapping[str, Any],
        window: int,
        save: str,
    ) -> None:
        self.model, self.named, self.pictures = model, dict(named), pictures
        self.source, self.plots, self.window, self.save = source, plots, window, save
        self.file_name, self.option_table = file_name, dict(option_table)
        self.schedule = Schedule(len(pictures.train), batch, batch, smallest=2)
        self.device = pictures.train.device
        self.order = torch.arange(len(pictures.train), device=self.device)
        self.taken = 0
        stages = len(model.stages)
        self.sums = torch.zeros(stages, dtype=torch.float64, device=self.device)
        self.smallest = [float("inf")] * stages

    def begin_epoch(self) -> None:
        self.order.copy_(self.source.permutation(len(self.order)))
        self.taken = 0
        self.sums.zero_()

    def iteration(self, n: int, log: Callable[[str, float | None], None] | None) -> None:
        rows = self.order[self.taken : self.taken + n]
        losses = self.model.step(self.pictures.train.floats(rows))
        self.taken += n
        self.sums += losses * n
        if log:
            for name, loss in zip(self._stage_names(), losses.tolist(), strict=True):
                log(name, loss)

    def _stage_names(self) -> list[str]:
        known = {id(net): name for name, net in self.named.items()}
        return [known[id(stage.network)] for stage in self.model.stages]

    def validation_losses(self) -> list[float]:
        data = self.pictures.validation
        total = torch.zeros_like(self.sums)
        for rows in torch.arange(len(data), device=self.device).split(VALIDATION_BATCH):
            total += self.model.losses(data.floats(rows)) * len(rows)
        return (total / len(data)).tolist()

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

    def halve_learning_rate(self) -> None:
        for stage in self.model.stages:
            stage.optimizer.param_groups[0]["lr"] /= 2

    def _examples(self) -> list[tuple[str, list[Tensor]]]:
        """(set's name, [originals, what each stage makes of them]), 100 pictures each."""
        examples = []
        for name, data in (("train", self.pictures.train), ("val", self.pictures.validation)):
            rows = torch.arange(min(SHOWN, len(data)), device=self.device)
            images = data.floats(rows)
            examples.append((name, [images, *self.model.outputs(images)]))
        return examples

    def show(self, epoch: int) -> None:
        if not self.plots.is_on:
            return
        labels = ["originals", "decoded", "decoded twice"]
        number = self.window
        for name, pictures in self._examples():
            for label, images in zip(labels, pictures, strict=False):
                self.plots.images(number, images, f"{self.save} ({label} {name})")
                number += 1

    def save_pictures(self, folder: Path, epoch: int) -> None:
        stem = Path(self.file_name).stem
        originals, *made = self._examples()[1][1]
        pairs = torch.stack([originals, *made], 1).flatten(0, 1)
        save_grid(folder / f"{stem}_epoch_{epoch:06d}.png", pairs, 10 * (1 + len(made)))

    def networks(self) -> dict[str, nn.Module]:
        return self.named

    def content(self, epoch: int) -> dict[str, Any]:
        return {"opt": self.option_table, "epoch": epoch}

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
        self.source.set_state(state["random"])
        if len(state["order"]) != len(self.order):
            return False
        self.order.copy_(state["order"])
        self.taken = int(state["taken"])
        self.sums.copy_(state["sums"])
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
        self.plots.curve(self.window + 6, epoch, values, title, "epoch", "loss")
