"""`train.py`: faces from noise (`train.lua`). Built here, trained by `Run`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.game.adversarial import Game
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.taming import DiffAugment, SlopePenalty, SpectralBound, Taming
from eyescream_py.game.trial import Part
from eyescream_py.networks import checkpoints, models, models_small
from eyescream_py.networks.models_autoencoder import DECODER_START
from eyescream_py.networks.modes import evaluating
from eyescream_py.networks.names import D_SMALL, G_SMALL
from eyescream_py.plots.activity import activities
from eyescream_py.plots.windows import Plots
from eyescream_py.results import quality
from eyescream_py.results.sampling import generate, ranking, save_grid
from eyescream_py.results.story import grid_name
from eyescream_py.system.errors import UserError
from eyescream_py.system.memory import built
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import as_typed
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
from eyescream_py.training.logs import LossLog
from eyescream_py.training.players import build_game
from eyescream_py.training.run import Run

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


def train(options: FaceOptions, stop: StopSignal) -> None:
    """Run `train.py`; returns when the epochs are done or the run was stopped."""
    with joined(options, stop) as (group, options, stop):
        # what cannot work is told before the pictures are read
        check_counts(options)
        if options.autoencoder and "G_arch" in options.typed:
            raise UserError("--autoencoder has a G of its own: leave out --G_arch")
        _check_planes(options)
        flags = f"--scale={options.scale} --noiseDim={options.noise_dim}" + "".join(
            f" --{player}_planes={planes}"
            for player, planes in (("G", options.G_planes), ("D", options.D_planes))
            if planes
        )
        D, G = built(lambda: create_networks(options), flags)
        options, device, arithmetic = setup.settled(options, group, *_parts(options, D, G))
        options = setup.with_proven_kernels(options, device, group)
        decoder, denoiser = _decoder(options, device), _denoiser(options, device)
        data = load_pictures(options, device, group)
        length = epoch_length(options, data)
        source = group.source(setup.random_source(options, device))
        with closing(setup.open_plots(options)) as plots:
            _draw_weights(options, (D, G), source, device, arithmetic.dtype)
            if decoder is not None:
                print(f"Autoencoder network:\n{decoder}")
            # Lua draws its plots' noise before the first batch, so that a replay has to as well
            noise = torch.empty(100, options.noise_dim, device=device, dtype=arithmetic.dtype)
            plot_noise = source.uniform_(noise, -1, 1)
            generate = nn.Sequential(decoder, G) if decoder is not None else G
            feed = FaceFeed(
                data, generate, options.noise_dim, length, source, arithmetic.dtype,
                real_target=1 - options.D_smooth, shared=options.shared_pictures,
                kernels=setup.kernels_of(options, device),
            )  # fmt: skip
            taming = _taming(options, D, source)
            game = build_game(
                options, (D, G), feed, source, arithmetic, group, options.D_maxAcc, taming
            )
            task = FaceTask(options, game, length, source, plots, plot_noise, decoder, denoiser)
            with closing(task):
                Run(task, options, stop, group.leads).go()


def _parts(options: FaceOptions, D: nn.Module, G: nn.Module) -> tuple[Part, Part]:
    taken = options.dims if options.autoencoder else (options.noise_dim,)
    D_last, G_last = _small(options)
    return Part(D, [options.dims], last=D_last), Part(G, [taken], last=G_last)


def _small(options: FaceOptions) -> tuple[bool, bool]:
    """Whether (D, G) are networks of the recipe's."""
    return options.D_arch in D_SMALL, options.G_arch in G_SMALL and not options.autoencoder


def _check_planes(options: FaceOptions) -> None:
    small_D, small_G = _small(options)
    for player, planes, small, names in (
        ("G", options.G_planes, small_G, G_SMALL),
        ("D", options.D_planes, small_D, D_SMALL),
    ):
        if planes and not small:
            raise UserError(
                f"--{player}_planes={planes} widens --{player}_arch={' or '.join(names)}: leave it "
                "out, or choose one of them"
            )


def _say_planes(options: FaceOptions, D: nn.Module) -> None:
    """Say so where D could not have the planes asked for: it doubles a whole number of them, 16 at
    least."""
    made = max(part.out_channels for part in D.modules() if isinstance(part, nn.Conv2d))
    if options.D_planes not in (0, made):
        print(
            f"--D_planes={options.D_planes}: D ends with {made} planes, the next that its halvings "
            "of the picture allow."
        )


def create_networks(options: FaceOptions) -> tuple[nn.Sequential, nn.Sequential]:
    """(D, G) of the options, untrained; with `--autoencoder` G corrects pictures."""
    dims, noise_dim = options.dims, options.noise_dim
    small_D, small_G = _small(options)
    if small_D:
        D = models_small.create_D(dims, options.D_planes, options.D_arch == "deep")
        _say_planes(options, D)
    else:
        D = models.create_D(dims, options.D_arch)
    if options.autoencoder:
        return D, models.create_corrector(dims)
    if small_G:
        deep = options.G_arch == "deep"
        return D, models_small.create_G(dims, noise_dim, options.G_planes, deep)
    return D, models.create_G(dims, noise_dim, options.G_arch)


def _draw_weights(
    options: FaceOptions,
    networks: tuple[nn.Sequential, nn.Sequential],
    source: RandomSource,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """In Lua's order: both networks are created before either is given its start weights."""
    for net in networks:
        models.reset_layers(net.to(device, dtype), source)
    for net, is_small in zip(networks, _small(options), strict=True):
        if is_small:
            models_small.draw_small_weights(net, source)
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            models.draw_start_weights(net, source)


def _taming(options: FaceOptions, D: nn.Module, source: RandomSource) -> Taming:
    return Taming(
        DiffAugment(options.D_augment, source) if options.D_augment else None,
        SlopePenalty(options.D_r1, options.D_r1_every) if options.D_r1 else None,
        SpectralBound(D, options.D_spectral) if options.D_spectral else None,
    )


def _decoder(options: FaceOptions, device: torch.device) -> nn.Module | None:
    """The decoder of `--autoencoder`: layers 7 to 11 of the saved one, frozen."""
    if not options.autoencoder:
        print("[INFO] No Autoencoder network specified, will not use an autoencoder.")
        return None
    path = checkpoints.find(options.autoencoder, Path(options.save), "--autoencoder")
    layers = list(
        checkpoints.module(checkpoints.read(path, "--autoencoder"), "AE", path, "--autoencoder")
    )  # type: ignore[call-overload]
    linears = [layer for layer in layers[DECODER_START:] if isinstance(layer, nn.Linear)]
    if len(layers) != 11 or len(linears) != 2:
        raise UserError(f"--autoencoder={path} is no autoencoder of train_autoencoder.py")
    code, pixels = linears[0].in_features, linears[1].out_features
    if code != options.noise_dim:
        raise UserError(
            f"--noiseDim={options.noise_dim}: the autoencoder {path} has a code of {code} numbers; "
            f"give --noiseDim={code}"
        )
    channels, size, _ = options.dims
    if pixels != channels * size * size:
        raise UserError(
            f"--autoencoder={path} makes pictures of {pixels} values, --scale={size} with "
            f"{channels} channels needs {channels * size * size}"
        )
    return nn.Sequential(*layers[DECODER_START:]).to(device).requires_grad_(False).eval()


def _denoiser(options: FaceOptions, device: torch.device) -> nn.Module | None:
    if not options.denoise:
        return None
    c, h, w = options.dims
    path = Path(options.save) / f"denoiser_{c}x{h}x{w}.net"
    if not path.is_file():
        gray = " --grayscale" if options.grayscale else ""
        raise UserError(
            f"--denoise needs {path}; make it with: python train_denoiser.py --scale={h}{gray} "
            f"--save={as_typed(options.save)}"
        )
    content = checkpoints.read(path, "--denoise")
    parts = [
        checkpoints.module(content, f"AE1_{p}", path, "--denoise") for p in ("ENCODER", "DECODER")
    ]
    return nn.Sequential(*parts).to(device).eval()


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
