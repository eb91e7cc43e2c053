"""`train.py`: faces from noise (`train.lua`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.game.adversarial import FaceFeed
from eyescream_py.plots.activity import activities
from eyescream_py.results import quality
from eyescream_py.results.sampling import evaluating, generate, ranking, save_grid
from eyescream_py.torch7.random import TorchSource
from eyescream_py.training.game import GameTask

TITLES = {
    0: "semi-random generated images (before G)",
    1: "semi-random generated images (after G)",
    2: "images by G, denoised",
    3: "best samples (first is best)",
    4: "worst samples (first is worst)",
    5: "original images from training set",
}
RANKED = 300
SHOWN = 50
EVALUATED = 500


@dataclass(frozen=True)
class Extras:
    """Networks beside G and D: an autoencoder's decoder before G, a denoiser behind it."""

    decoder: nn.Module | None = None
    denoiser: nn.Module | None = None


class FaceTask(GameTask):
    """The game on single pictures, its six windows and the grid of its fixed noise.

    `plot_noise` (100, noise_dim) is drawn once and shown after every epoch.
    """

    confusion_title = "Confusion of normal D:"

    def __init__(
        self,
        *args: Any,
        plot_noise: Tensor,
        window: int,
        extras: Extras,
        activity_every: int = 0,
        evaluate_every: int = 0,
    ) -> None:
        super().__init__(*args)
        self.evaluate_every = evaluate_every
        self.activity_every = activity_every if self.plots.is_on else 0
        self._batches = 0
        self.plot_noise, self.window, self.extras = plot_noise, window, extras
        self.feed: FaceFeed = self.game.feed  # type: ignore[assignment]
        self._plot_source = TorchSource(0, plot_noise.device)  # plots take nothing from the run's

    def iteration(self, n: int, log: Callable[[str, float | None], None] | None) -> None:
        super().iteration(n, log)
        self._batches += 1
        if self.activity_every and self._batches % self.activity_every == 0:
            self._show_activity()

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        record = super().end_epoch(epoch, seconds)
        if self.evaluate_every and epoch % self.evaluate_every == 0:
            record["swd"] = self._distance()
            print(f"<trainer> distance to real pictures (SWD x1000) = {record['swd']:.1f}")
        return record

    def _distance(self) -> float:
        """Of generated to training pictures, the same noise each time; takes nothing from the
        run's random streams.
        """
        source, data = TorchSource(0, self.feed.device), self.feed.dataset
        rows = source.permutation(len(data))[:EVALUATED]
        noise = torch.empty(len(rows), self.feed.noise_dim, device=source.device)
        made = self.make(source.uniform_(noise, -1, 1).to(self.feed.dtype))
        return quality.distances(data.floats(rows), made.float())["mean"]

    def _show_activity(self) -> None:
        image = self.feed.pool.floats(self._first(1), self.feed.dtype)
        for number, (name, pictures) in enumerate(activities(self.game.D.network, image)):
            title = f"activity of {name} after {self._batches} batches"
            columns = max(1, round(len(pictures) ** 0.5))
            self.plots.images(f"{self.window}_activity_{number:02d}", pictures, title, columns)

    def make(self, noise: Tensor) -> Tensor:
        """Pictures from noise in evaluation mode, through the decoder where there is one."""
        if self.extras.decoder is not None:
            noise = generate(self.extras.decoder, noise)
        return generate(self.sampler, noise)

    def show(self, epoch: int) -> None:
        if not self.plots.is_on:
            return
        images = self.make(self.plot_noise)
        if self.extras.decoder is not None:
            self._images(0, generate(self.extras.decoder, self.plot_noise), epoch)
        self._images(1, images, epoch)
        if self.extras.denoiser is not None:
            with evaluating(self.extras.denoiser):
                self._images(2, self.extras.denoiser(images.float()), epoch)
        candidates = self._candidates()
        order = ranking(self.game.D.network, candidates)
        self._images(3, candidates[order[:SHOWN]], epoch)
        self._images(4, candidates[order.flip(0)[:SHOWN]], epoch)
        self._images(5, self._originals(), epoch)

    def _images(self, offset: int, images: Tensor, epoch: int) -> None:
        title = f"{TITLES[offset]} ({self.file_name} epoch {epoch})"
        self.plots.images(self.window + offset, images, title)

    def _originals(self) -> Tensor:
        return self.feed.pool.floats(self._first(100), self.feed.dtype)

    def _first(self, count: int) -> Tensor:
        return torch.arange(min(count, len(self.feed.pool)), device=self.feed.device)

    def _candidates(self) -> Tensor:
        """300 generated pictures, of which one gives way to a real face and one to a non-face."""
        noise = torch.empty(
            RANKED, self.feed.noise_dim, device=self.feed.device, dtype=self.feed.dtype
        )
        images = self.make(self._plot_source.uniform_(noise, -1, 1)).clone()
        images[RANKED // 2] = self._originals()[0]
        images[RANKED // 2 + 1] = self._plot_source.uniform_(torch.empty_like(images[0]), 0, 1)
        return images

    def save_pictures(self, folder: Path, epoch: int) -> None:
        save_grid(folder / f"epoch_{epoch:06d}.png", self.make(self.plot_noise), 10)

    def networks(self) -> dict[str, nn.Module]:
        networks = super().networks()
        if self.extras.decoder is not None:
            networks["AE_decoder"] = self.extras.decoder
        return networks
