"""From `train.py`'s options to a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.game.adversarial import AccuracyGate, FaceFeed, Game, Penalty, Player
from eyescream_py.game.averaging import Ema
from eyescream_py.game.group import Alone
from eyescream_py.game.precision import Precision
from eyescream_py.game.taming import SlopePenalty, SpectralBound, Taming, Views
from eyescream_py.networks import checkpoints, models
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import StopSignal
from eyescream_py.torch7.layers import set_random_source
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training import setup
from eyescream_py.training.distributed import joined, make_run
from eyescream_py.training.faces import Extras, FaceTask
from eyescream_py.training.run import Schedule

SLOPE_EVERY = {"cpu": 4, "cuda": 1}  # a captured iteration is the same each time


@dataclass(frozen=True)
class FaceOptions(setup.GameOptions):
    """`train.py`'s."""

    G_SGD_lr: float
    G_SGD_momentum: float
    D_SGD_lr: float
    D_SGD_momentum: float
    G_adam_lr: float
    D_adam_lr: float
    D_maxAcc: float
    scale: int
    autoencoder: str
    denoise: bool
    weights_vis_freq: int
    evaluate_every: int
    D_smooth: float
    D_augment: tuple[str, ...]
    D_r1: float
    D_spectral: float

    @property
    def dims(self) -> models.Dims:
        return (1 if self.grayscale else 3, self.scale, self.scale)


def train(options: FaceOptions, stop: StopSignal) -> None:
    """Run `train.py`; returns when the epochs are done or the run was stopped."""
    with joined(options) as (group, ours):
        _train(ours, stop, group)


def _train(options: FaceOptions, stop: StopSignal, group: Alone) -> None:
    setup.check_batch_size(options.batch_size)
    flags = f"--scale={options.scale} --noiseDim={options.noise_dim}"
    D, G = setup.built(lambda: build_networks(options), flags)
    device, arithmetic = setup.device_and_precision(options)
    decoder = _decoder(options, device)
    path, (channels, size, _) = setup.data_path(options), options.dims
    data = group.in_turn(lambda: load_dataset(path, channels, size, device))
    length = setup.epoch_length(options, data)
    source = group.source(setup.random_source(options, device))
    plots = setup.open_plots(options)
    try:
        task = _task(
            options, data, length, source, plots, (D, G), decoder, device, arithmetic, group
        )
        make_run(group, task, setup.run_options(options), stop).go()
    finally:
        plots.close()


def build_networks(options: FaceOptions) -> tuple[nn.Sequential, nn.Sequential]:
    D = models.create_D(options.dims, options.D_arch)
    if options.autoencoder:
        return D, models.create_refiner(options.dims)
    return D, models.create_G(options.dims, options.noise_dim, options.G_arch)


def _decoder(options: FaceOptions, device: torch.device) -> nn.Module | None:
    """The decoder of `--autoencoder`: layers 7 to 11 of the saved one, frozen."""
    if not options.autoencoder:
        print("[INFO] No Autoencoder network specified, will not use an autoencoder.")
        return None
    path = checkpoints.find(options.autoencoder, Path(options.save), "--autoencoder")
    layers = list(
        checkpoints.module(checkpoints.read(path, "--autoencoder"), "AE", path, "--autoencoder")
    )  # type: ignore[call-overload]
    linears = [layer for layer in layers[6:] if isinstance(layer, nn.Linear)]
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
    return nn.Sequential(*layers[6:]).to(device).requires_grad_(False).eval()


def _denoiser(options: FaceOptions, device: torch.device) -> nn.Module | None:
    if not options.denoise:
        return None
    c, h, w = options.dims
    path = Path(options.save) / f"denoiser_{c}x{h}x{w}.net"
    if not path.is_file():
        gray = " --grayscale" if options.grayscale else ""
        raise UserError(
            f"--denoise needs {path}; make it with: python train_denoiser.py --scale={h}{gray} "
            f"--save={options.save}"
        )
    content = checkpoints.read(path, "--denoise")
    parts = [
        checkpoints.module(content, f"AE1_{p}", path, "--denoise") for p in ("ENCODER", "DECODER")
    ]
    return nn.Sequential(*parts).to(device).eval()


def _task(
    options: FaceOptions,
    data: Dataset,
    length: int,
    source: RandomSource,
    plots: Plots,
    networks: tuple[nn.Sequential, nn.Sequential],
    decoder: nn.Module | None,
    device: torch.device,
    arithmetic: Precision,
    group: Alone,
) -> FaceTask:
    D, G = (net.to(device, arithmetic.dtype) for net in networks)
    for net in (D, G):
        models.reset_layers(net, source)
    for net in (D, G):
        models.draw_start_weights(net, source)
        set_random_source(net, source)
        group.share_statistics(net)
        setup.speed_up_on_cpu(net, options, arithmetic)
    _describe(D, G, decoder)
    noise = torch.empty(100, options.noise_dim, device=device, dtype=arithmetic.dtype)
    plot_noise = source.uniform_(noise, -1, 1)
    generate = nn.Sequential(decoder, G) if decoder is not None else G
    game = Game(
        D=_player(options, "D", D, Penalty(options.D_L1, options.D_L2)),
        G=_player(options, "G", G, setup.penalty_of_G(options)),
        feed=FaceFeed(
            data, generate, options.noise_dim, length, source, arithmetic.dtype,
            real_target=1 - options.D_smooth,
        ),
        gate=AccuracyGate(options.D_maxAcc, options.batch_size, device),
        iterations=(options.D_iterations, options.G_iterations),
        autocast=arithmetic.autocast,
        group=group,
        taming=Taming(
            Views(options.D_augment, source) if options.D_augment else None,
            SlopePenalty(options.D_r1, SLOPE_EVERY[device.type]) if options.D_r1 else None,
            SpectralBound(D, options.D_spectral) if options.D_spectral else None,
        ),
    )  # fmt: skip
    return FaceTask(
        game,
        Schedule(length, options.batch_size, options.batch_size // 2, smallest=4, multiple=2),
        source,
        plots,
        "adversarial.net",
        options.table,
        Ema(G, options.G_ema) if options.G_ema else None,
        plot_noise=plot_noise,
        window=options.window,
        extras=Extras(decoder, _denoiser(options, device)),
        activity_every=options.weights_vis_freq,
        evaluate_every=options.evaluate_every,
    )


def _describe(D: nn.Module, G: nn.Module, decoder: nn.Module | None) -> None:
    if decoder is not None:
        print(f"Autoencoder network:\n{decoder}")
    print(f"Discriminator network:\n{D}\nGenerator network:\n{G}")
    print(f"Number of free parameters in D: {models.free_parameters(D)}")
    print(f"Number of free parameters in G: {models.free_parameters(G)}")


def _player(options: FaceOptions, name: str, network: nn.Module, penalty: Penalty) -> Player:
    sgd = getattr(options, f"{name}_SGD_lr"), getattr(options, f"{name}_SGD_momentum")
    method, lr = getattr(options, f"{name}_optmethod"), getattr(options, f"{name}_adam_lr")
    lr = lr if method == "adam" else -1.0
    optimizer = setup.make_optimizer(method, network, sgd, lr)
    return Player(network, optimizer, penalty, getattr(options, f"{name}_clamp"))
