"""`train_c2f.py`: finer faces from coarse ones (`train_c2f.lua`). Built here, trained by `Run`."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.pairs import coarse_and_diff
from eyescream_py.game.adversarial import Game
from eyescream_py.game.adversarial_c2f import PairFeed, StalePairFeed, parzen_score
from eyescream_py.game.trial import Part
from eyescream_py.networks import checkpoints, models, models_c2f
from eyescream_py.networks.modes import evaluating
from eyescream_py.plots.windows import Plots
from eyescream_py.results.sampling import save_grid
from eyescream_py.results.story import grid_name
from eyescream_py.system.errors import UserError
from eyescream_py.system.memory import built, demand_batch, demand_memory
from eyescream_py.system.saves import Saves, keep_earlier
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import counted
from eyescream_py.torch7.random import RandomSource, TorchSource
from eyescream_py.training import setup
from eyescream_py.training.distributed import joined
from eyescream_py.training.game import (
    GameOptions,
    GameTask,
    check_counts,
    epoch_length,
    load_pictures,
    mean_deviation,
)
from eyescream_py.training.players import build_game
from eyescream_py.training.run import Run
from eyescream_py.training.save_folder import is_of_run

ROWS_SHOWN = 20
LUA_PARZEN = 200  # pictures of a score, however few there are
ADAGRAD_LR = {"D": 1e-3, "G": 3e-3}


@dataclass(frozen=True, kw_only=True)
class PairOptions(GameOptions):
    """The options of `train_c2f.py`."""

    sized_by: ClassVar[str] = "--fineSize or --grayscale"
    revived_by: ClassVar[str] = "a larger --D_L2 or with --D_optmethod=sgd"
    tamed_by: ClassVar[str] = "a larger --D_L2 or --D_optmethod=sgd tames it"

    D_sgd_lr: float
    G_sgd_lr: float
    D_sgd_momentum: float
    G_sgd_momentum: float
    coarse_size: int  # height and width of the pictures that are refined
    fine_size: int  # of what they become
    validation: int  # pictures that never train
    parzen_images: int  # of them, how many are scored after an epoch

    @property
    def dims(self) -> models.Dims:
        return (1 if self.grayscale else 3, self.fine_size, self.fine_size)

    @property
    def stem(self) -> str:
        """The name of the run's files."""
        return f"adversarial_c2f_{self.coarse_size}_to_{self.fine_size}"

    def rates(self, player: str) -> tuple[tuple[float, float], float]:
        if player == "D":
            sgd, method = (self.D_sgd_lr, self.D_sgd_momentum), self.D_optmethod
        else:
            sgd, method = (self.G_sgd_lr, self.G_sgd_momentum), self.G_optmethod
        return sgd, ADAGRAD_LR[player] if method == "adagrad" else -1


def train(options: PairOptions, stop: StopSignal) -> None:
    """Run `train_c2f.py`; returns when the epochs are done or the run was stopped."""
    with joined(options, stop) as (group, options, stop):
        # what cannot work is told before the pictures are read
        _check_sizes(options)
        D, G = built(lambda: create_networks(options), f"--fineSize={options.fine_size}")
        _check_memory(options)
        check_counts(options)
        parts = Part(D, [options.dims] * 2), Part(G, [(1, *options.dims[1:]), options.dims])
        options, device, arithmetic = setup.settled(options, group, *parts)
        options = setup.with_proven_kernels(options, device, group)
        data = load_pictures(options, device, group)
        validation, training = data.split(options.validation, "validation" in options.typed)
        _check_parzen(options, len(validation))
        print(f"<dataset> {len(validation)} of {len(data)} images validate, the others train")
        length = epoch_length(options, training)
        source = group.source(setup.random_source(options, device))
        with closing(setup.open_plots(options)) as plots:
            for net in (D, G):
                models.reset_layers(net.to(device, arithmetic.dtype), source)
            # Lua draws its plots' noise here whether it plots or not
            noise = torch.empty(100, options.noise_dim, device=device, dtype=arithmetic.dtype)
            source.uniform_(noise, -1, 1)
            # a replay keeps the Lua program's buffers
            feed_type = StalePairFeed if options.rng == "lua" else PairFeed
            feed = feed_type(
                training, G, options.coarse_size, options.batch_size, length, source,
                arithmetic.dtype, kernels=setup.kernels_of(options, device),
            )  # fmt: skip
            game = build_game(options, (D, G), feed, source, arithmetic, group)
            task = PairTask(options, game, length, source, plots, validation)
            with closing(task):
                Run(task, options, stop, group).go()


def create_networks(
    options: PairOptions,
) -> tuple[models_c2f.PairSequential, models_c2f.PairSequential]:
    """(D, G) of the options, untrained, in Lua's order."""
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
    _check_parzen(options, options.validation)


def _check_memory(options: PairOptions) -> None:
    # a score has as many tries as a batch has pictures; Lua draws noise that nothing shows
    demand_batch(f"--batchSize={options.batch_size}", options.batch_size, options.dims)
    demand_memory(f"--noiseDim={options.noise_dim}", "its noise", 400 * options.noise_dim)


def _check_parzen(options: PairOptions, validation: int) -> None:
    """Refuse a score of more pictures than there are (drawn with replacement, as Lua does)."""
    most = max(validation, LUA_PARZEN)
    if options.parzen_images > most:
        raise UserError(
            f"--parzenImages={options.parzen_images}: {counted(validation, 'picture')} to "
            f"validate with; give at most {most}"
        )


class PairTask(GameTask):
    """The game on (diff, coarse) pairs, its score after every epoch, and its one window.

    `validation` are pictures that never train.
    """

    def __init__(
        self,
        options: PairOptions,
        game: Game,
        length: int,
        source: RandomSource,
        plots: Plots,
        validation: Dataset,
    ) -> None:
        super().__init__(options, f"{options.stem}.net", game, length, source, plots)
        self.feed: PairFeed = game.feed  # type: ignore[assignment]
        self.series = options.stem.removeprefix("adversarial_")  # one --save may hold a chain
        self.validation, self.window = validation, options.window
        self.parzen_images, self.tries = options.parzen_images, options.batch_size
        self.best_path = Path(options.save) / f"{options.stem}.bestnet"
        self.best = math.inf
        self._owns_best = False  # whether the file at `best_path` is of this very run
        self._saves = Saves("", kept=True)  # a run can do without
        self._plot_source = TorchSource(0, self.feed.device)

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        record = super().end_epoch(epoch, seconds)
        score = parzen_score(
            self.sampler, self.validation, self.feed.coarse_size,
            self.parzen_images, self.tries, self.source, self.feed.dtype,
        )  # fmt: skip
        print(f"average || x_F - G(x_C) || = {score}")
        # every process scores, to draw the same numbers; one of them writes
        if score < self.best and (not self.game.group.leads or self._save_best(epoch)):
            self.best = score
        return {**record, "parzen": score}

    def networks(self) -> dict[str, nn.Module]:
        return {name: models_c2f.as_lua_saves(net) for name, net in super().networks().items()}

    def _save_best(self, epoch: int) -> bool:
        """Whether the networks could be saved; another run's stay under a dated name."""

        def write() -> None:
            if not self._owns_best and self.best_path.is_file():
                dated = keep_earlier(self.best_path).name
                print(f"The earlier {self.best_path.name} is now {dated}.")
            checkpoints.write(self.best_path, self.networks(), self.content(epoch))
            self._owns_best = True

        print(f"<trainer> saving network to {self.best_path}")
        self._saves.lock = self.lock
        return self._saves.save(self.best_path, last=False, write=write)

    def spread(self) -> tuple[float, float]:
        coarse, diff = self._shown()
        source = TorchSource(0, self.feed.device)  # the same noise each time
        noise = source.uniform_(torch.empty_like(coarse[:, :1]), -1, 1)
        with evaluating(self.game.G.network):
            made = self.game.G.network(noise, coarse)
        return mean_deviation(made), mean_deviation(diff)

    def _shown(self) -> tuple[Tensor, Tensor]:
        """The first validation pictures: coarse, and what they lack."""
        count = min(ROWS_SHOWN, len(self.validation))
        indices = torch.arange(count, device=self.feed.device)
        return coarse_and_diff(self.validation, indices, self.feed.coarse_size, self.feed.dtype)

    def _table(self) -> Tensor:
        """20 rows of coarse, truth, refined, true diff, generated diff. [100,C,H,W]"""
        coarse, diff = self._shown()
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
        save_grid(folder / grid_name(self.series, epoch), self._table(), 20)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "best": self.best}

    def _load_state(self, state: Any, path: Path) -> bool:
        self.best = float(state["best"])
        checkpoint = self.best_path.with_name(self.file_name)
        self._owns_best |= math.isfinite(self.best) and is_of_run(path, checkpoint)
        return super()._load_state(state, path)
