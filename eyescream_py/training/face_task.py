"""The game on single pictures as a task: its options, windows, grids and distance to real faces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eyescream_py.game.adversarial import Game
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.networks import models
from eyescream_py.networks.modes import evaluating
from eyescream_py.plots.activity import activities
from eyescream_py.plots.windows import Plots
from eyescream_py.results import quality
from eyescream_py.results.sampling import generate, ranking, save_grid
from eyescream_py.results.story import grid_name
from eyescream_py.torch7.random import RandomSource, TorchSource
from eyescream_py.training.game import GameOptions, GameTask, mean_deviation
from eyescream_py.training.logs import LossLog

TITLES = {
    0: "semi-random generated images (before G)",
    1: "semi-random generated images (after G)",
    2: "images by G, denoised",
    3: "best samples (first is best)",
    4: "worst samples (first is worst)",
    5: "original images from training set",
}
RANKED, SHOWN, EVALUATED = 300, 50, 500  # pictures
SETTLING_BATCHES = 20  # of 100 noises


@dataclass(frozen=True, kw_only=True)
class FaceOptions(GameOptions):
    """The options of `train.py`."""

    revived_by: ClassVar[str] = "a smaller --D_adam_lr or with --recipe=best"
    tamed_by: ClassVar[str] = "--D_maxAcc=0.9 holds D back, --D_L2 or a smaller --D_adam_lr tame it"

    G_SGD_lr: float
    G_SGD_momentum: float
    D_SGD_lr: float
    D_SGD_momentum: float
    G_adam_lr: float  # -1: Lua's 0.001
    D_adam_lr: float
    D_maxAcc: float  # D learns only while its accuracy (0..1) is below this
    scale: int  # height and width of the pictures
    autoencoder: str  # .net file whose decoder stands before G, "": none
    denoise: bool  # show denoised pictures as well
    weights_vis_freq: int  # batches from one look at D's activity to the next, 0: none
    evaluate_every: int  # epochs from one measurement to the next, 0: none
    D_smooth: float  # D is to say 1 minus this of real pictures
    D_augment: tuple[str, ...]  # kinds of views in which D sees pictures
    D_r1: float  # weight of the penalty on D's slope, 0: none
    D_r1_every: int  # steps from one penalty to the next
    D_spectral: float  # bound of the spectral norm of D's layers, 0: none
    shared_pictures: bool  # G's step judges the pictures that D's step has seen
    G_planes: int = 0  # planes that the convolutional G starts from, 0: as it comes
    D_planes: int = 0  # planes that the small D ends with, 0: as it comes

    @property
    def dims(self) -> models.Dims:
        return (1 if self.grayscale else 3, self.scale, self.scale)

    def rates(self, player: str) -> tuple[tuple[float, float], float]:
        if player == "D":
            sgd, method, lr = (self.D_SGD_lr, self.D_SGD_momentum), self.D_optmethod, self.D_adam_lr
        else:
            sgd, method, lr = (self.G_SGD_lr, self.G_SGD_momentum), self.G_optmethod, self.G_adam_lr
        return sgd, lr if method == "adam" else -1


class FaceTask(GameTask):
    """The game on single pictures, its six windows and the grid of its fixed noise.

    `plot_noise` [100,noise_dim] is drawn once and shown after every epoch. `decoder` stands before
    G, `denoiser` behind it.
    """

    series = ""
    confusion_title = "Confusion of normal D:"

    def __init__(
        self,
        options: FaceOptions,
        game: Game,
        length: int,
        source: RandomSource,
        plots: Plots,
        plot_noise: Tensor,
        decoder: nn.Module | None = None,
        denoiser: nn.Module | None = None,
    ) -> None:
        super().__init__(options, "adversarial.net", game, length, source, plots)
        self.feed: FaceFeed = game.feed  # type: ignore[assignment]
        self.evaluate_every, self.window = options.evaluate_every, options.window
        self.activity_every = options.weights_vis_freq if plots.is_on else 0
        self.plot_noise, self.decoder, self.denoiser = plot_noise, decoder, denoiser
        self._batches = 0
        self._best = (math.inf, 0)  # least distance to real pictures, and its epoch
        self._plot_source = TorchSource(0, plot_noise.device)  # plots take nothing from the run's

    @property
    def sampler(self) -> nn.Module:
        """The same; the averaged one's own statistics are measured where it changed since."""
        if self.ema and self.decoder is None:
            self.ema.settle(self._noises())
        return super().sampler

    def _noises(self) -> Iterator[Tensor]:
        """Batches of noise, the same each time; taken from no stream of the run."""
        source = TorchSource(0, self.feed.device)
        for _ in range(SETTLING_BATCHES):
            noise = torch.empty(100, self.feed.noise_dim, device=self.feed.device)
            yield source.uniform_(noise, -1, 1).to(self.feed.dtype)

    def iteration(self, n: int, log: LossLog | None) -> None:
        super().iteration(n, log)
        self._batches += 1
        if self.activity_every and self._batches % self.activity_every == 0:
            self._show_activity()

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        record = super().end_epoch(epoch, seconds)
        if self.evaluate_every and epoch % self.evaluate_every == 0:
            record["swd"] = self._distance()
            self._best = min(self._best, (record["swd"], epoch))
            print(
                f"<trainer> distance to real pictures (SWD x1000) = {record['swd']:.1f}, "
                "least so far {:.1f} after epoch {}".format(*self._best)
            )
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

    def spread(self) -> tuple[float, float]:
        with evaluating(self.game.G.network):
            made = self.feed.generate(self.plot_noise)
        return mean_deviation(made), mean_deviation(self._originals())

    def make(self, noise: Tensor) -> Tensor:
        """Pictures from noise in evaluation mode, through the decoder where there is one."""
        if self.decoder is not None:
            noise = generate(self.decoder, noise)
        return generate(self.sampler, noise)

    def show(self, epoch: int) -> None:
        if not self.plots.is_on:
            return
        images = self.make(self.plot_noise)
        if self.decoder is not None:
            self._images(0, generate(self.decoder, self.plot_noise), epoch)
        self._images(1, images, epoch)
        if self.denoiser is not None:
            with evaluating(self.denoiser):
                self._images(2, self.denoiser(images.float()), epoch)
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
        """300 generated pictures, one of them replaced by a real face, one by a non-face."""
        noise = torch.empty(
            RANKED, self.feed.noise_dim, device=self.feed.device, dtype=self.feed.dtype
        )
        images = self.make(self._plot_source.uniform_(noise, -1, 1)).clone()
        images[RANKED // 2] = self._originals()[0]
        images[RANKED // 2 + 1] = self._plot_source.uniform_(torch.empty_like(images[0]), 0, 1)
        return images

    def save_pictures(self, folder: Path, epoch: int) -> None:
        save_grid(folder / grid_name(self.series, epoch), self.make(self.plot_noise), 10)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "best": dict(zip(("swd", "epoch"), self._best, strict=True))}

    def _load_state(self, state: Any, path: Path) -> bool:
        if best := state.get("best"):
            self._best = (float(best["swd"]), int(best["epoch"]))
        return super()._load_state(state, path)

    def networks(self) -> dict[str, nn.Module]:
        networks = super().networks()
        if self.decoder is not None:
            networks["AE_decoder"] = self.decoder
        return networks
