"""`train_c2f.py`: finer faces from coarse ones (`train_c2f.lua`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.pairs import coarse_and_diff
from eyescream_py.game.adversarial_c2f import PairFeed, parzen_score
from eyescream_py.networks import checkpoints
from eyescream_py.results.sampling import evaluating, save_grid
from eyescream_py.torch7.random import TorchSource
from eyescream_py.training.game import GameTask

ROWS_SHOWN = 20


@dataclass(frozen=True)
class Validation:
    """Pictures that never train, and how the Parzen score uses them."""

    data: Dataset
    images: int
    tries: int


class PairTask(GameTask):
    """The game on (diff, coarse) pairs, its score after every epoch, and its one window."""

    def __init__(self, *args: Any, validation: Validation, window: int, best_path: Path) -> None:
        super().__init__(*args)
        self.validation, self.window, self.best_path = validation, window, best_path
        self.best = math.inf
        self.feed: PairFeed = self.game.feed  # type: ignore[assignment]
        self._plot_source = TorchSource(0, self.feed.device)

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        record = super().end_epoch(epoch, seconds)
        v = self.validation
        score = parzen_score(
            self.sampler,
            v.data,
            self.feed.coarse_size,
            v.images,
            v.tries,
            self.source,
            self.feed.dtype,
        )
        print(f"average || x_F - G(x_C) || = {score}")
        if score < self.best:
            self.best = score
            if self.game.group.leads:
                self._save_best(epoch)
        return {**record, "parzen": score}

    def _save_best(self, epoch: int) -> None:
        print(f"<trainer> saving network to {self.best_path}")
        try:
            checkpoints.write(self.best_path, self.networks(), self.content(epoch))
        except OSError as error:
            print(f"Could not save {self.best_path}: {error.strerror or error}; training goes on.")

    def _table(self) -> Tensor:
        """20 rows of coarse, truth, refined, true diff, generated diff. [100,C,H,W]"""
        count = min(ROWS_SHOWN, len(self.validation.data))
        indices = torch.arange(count, device=self.feed.device)
        coarse, diff = coarse_and_diff(
            self.validation.data, indices, self.feed.coarse_size, self.feed.dtype
        )
        noise = self._plot_source.uniform_(torch.empty_like(coarse[:, :1]), -1, 1)
        with evaluating(self.sampler):
            made = self.sampler(noise, coarse)
        columns = [coarse, coarse + diff, coarse + made, diff + 0.5, made + 0.5]
        return torch.stack([c.float().clamp(0, 1) for c in columns], 1).flatten(0, 1)

    def show(self, epoch: int) -> None:
        if self.plots.is_on:
            title = f"Coarse, GT, G img, GT diff, G diff ({self.best_path.parent} epoch {epoch})"
            self.plots.images(self.window, self._table(), title, columns=5)

    def save_pictures(self, folder: Path, epoch: int) -> None:
        save_grid(folder / f"c2f_epoch_{epoch:06d}.png", self._table(), 20)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "best": self.best}

    def _load_state(self, state: Any, path: Path) -> bool:
        self.best = float(state["best"])
        return super()._load_state(state, path)
