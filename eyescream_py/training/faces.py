"""`train.py`: faces from noise (`train.lua`). Built here, trained by `Run`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.taming import DiffAugment, SlopePenalty, SpectralBound, Taming
from eyescream_py.game.trial import Part
from eyescream_py.networks import checkpoints, models, models_small
from eyescream_py.networks.models_autoencoder import DECODER_START
from eyescream_py.networks.names import D_SMALL, G_SMALL
from eyescream_py.system.errors import UserError
from eyescream_py.system.memory import built
from eyescream_py.system.places import as_script
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import as_typed, counted
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training import setup
from eyescream_py.training.distributed import joined
from eyescream_py.training.face_task import FaceOptions, FaceTask
from eyescream_py.training.game import check_counts, epoch_length, load_pictures
from eyescream_py.training.players import build_game
from eyescream_py.training.run import Run


def train(options: FaceOptions, stop: StopSignal) -> None:
    """Run `train.py`; returns when the epochs are done or the run was stopped."""
    with joined(options, stop) as (group, options, stop):
        # what cannot work is told before the pictures are read
        check_counts(options)
        _check_networks(options)
        flags = f"--scale={options.scale} --noiseDim={options.noise_dim}" + "".join(
            f" --{player}_planes={planes}"
            for player, planes in (("G", options.G_planes), ("D", options.D_planes))
            if planes
        )
        D, G = built(lambda: create_networks(options), flags)
        _say_planes(options, D)
        options, device, arithmetic = setup.settled(options, group, *_parts(options, D, G))
        options = setup.with_proven_kernels(options, device, group)
        decoder = _decoder(options, device, arithmetic.dtype)
        denoiser = _denoiser(options, device)
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
                Run(task, options, stop, group).go()


def _parts(options: FaceOptions, D: nn.Module, G: nn.Module) -> tuple[Part, Part]:
    taken = options.dims if options.autoencoder else (options.noise_dim,)
    D_last, G_last = _small(options)
    return Part(D, [options.dims], last=D_last), Part(G, [taken], last=G_last)


def _small(options: FaceOptions) -> tuple[bool, bool]:
    """Whether (D, G) are networks of the recipe's."""
    return options.D_arch in D_SMALL, options.G_arch in G_SMALL and not options.autoencoder


def _check_networks(options: FaceOptions) -> None:
    if options.autoencoder and "G_arch" in options.typed:
        raise UserError("--autoencoder has a G of its own: leave out --G_arch")
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
    if not options.D_planes:
        return
    made = max(part.out_channels for part in D.modules() if isinstance(part, nn.Conv2d))
    if options.D_planes != made:
        print(
            f"--D_planes={options.D_planes}: D ends with {made} planes, the next that its halvings "
            "of the picture allow."
        )


def create_networks(options: FaceOptions) -> tuple[nn.Sequential, nn.Sequential]:
    """(D, G) of the options, untrained; with `--autoencoder` G corrects pictures."""
    dims, noise_dim = options.dims, options.noise_dim
    small_D, small_G = _small(options)
    if small_D:
        deep, residual = options.D_arch == "deep", options.D_arch == "residual"
        D = models_small.create_D(dims, options.D_planes, deep, residual)
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


def _decoder(options: FaceOptions, device: torch.device, dtype: torch.dtype) -> nn.Module | None:
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
            f"{counted(channels, 'channel')} needs {channels * size * size}"
        )
    return nn.Sequential(*layers[DECODER_START:]).to(device, dtype).requires_grad_(False).eval()


def _denoiser(options: FaceOptions, device: torch.device) -> nn.Module | None:
    if not options.denoise:
        return None
    c, h, w = options.dims
    path = Path(options.save) / f"denoiser_{c}x{h}x{w}.net"
    if not path.is_file():
        gray = " --grayscale" if options.grayscale else ""
        raise UserError(
            f"--denoise needs {path}; make it with: {as_script('train_denoiser')} "
            f"--scale={h}{gray} --save={as_typed(options.save)}"
        )
    content = checkpoints.read(path, "--denoise")
    parts = [
        checkpoints.module(content, f"AE1_{p}", path, "--denoise") for p in ("ENCODER", "DECODER")
    ]
    return nn.Sequential(*parts).to(device).eval()
