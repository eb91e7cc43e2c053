"""The options of a trainer that the networks in a file show by themselves.

Files of other dates than the Lua program's last keep fewer options than a run needs, or none. What
shapes their networks can be seen in them.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyescream_py.networks import checkpoints, models, models_c2f
from eyescream_py.networks.modes import run_on_shapes
from eyescream_py.results.generator import G_of, described
from eyescream_py.system.errors import UserError
from eyescream_py.system.safe_tensors import on_meta
from eyescream_py.torch7 import Table

SIZES = ("scale", "grayscale", "noiseDim", "coarseSize", "fineSize")  # that need no guess
_OLD_G, _OLD_D = ("mlp", "upsampling"), ("default", "b")
_OLD_PAIR_G, _OLD_PAIR_D = ("default", "b", "c", "d"), ("default", "b", "c")


def shown_options(content: Table, path: Path) -> dict[str, Any]:
    """What the networks of `path`, with that `content`, show of their trainer's options, by flag.

    Empty where they are no networks of a trainer. Raises UserError for a G whose pictures are no
    squares, as no options make one.
    """
    for key, look in (("AE", _autoencoder), ("AE1_DECODER", _denoiser), ("G", _game)):
        if key in content:
            try:
                network = checkpoints.module(content, key, path)
            except UserError:  # told by who needs it
                return {}
            return look(network, content, path)
    return {}


def _autoencoder(AE: nn.Module, content: Table, path: Path) -> dict[str, Any]:
    linears = _layers(AE, nn.Linear)
    if len(linears) < 2:
        return {}
    scale = _side(linears[0].in_features)
    return {"scale": scale, "noiseDim": linears[1].out_features} if scale else {}


def _denoiser(decoder: nn.Module, content: Table, path: Path) -> dict[str, Any]:
    convolutions, linears = _layers(decoder, nn.Conv2d), _layers(decoder, nn.Linear)
    if not convolutions or not linears:
        return {}
    channels = convolutions[0].in_channels
    side = _side(linears[-1].out_features // channels)
    return {"scale": side, "grayscale": channels == 1} if side else {}


def _game(G: nn.Module, content: Table, path: Path) -> dict[str, Any]:
    try:
        D = checkpoints.module(content, "D", path)
    except UserError:
        return {}
    first = next(G.parameters(), torch.empty(0))
    return _pairs(D, G, path) if first.ndim == 4 else _faces(D, G, content, path)


def _faces(D: nn.Module, G: nn.Module, content: Table, path: Path) -> dict[str, Any]:
    try:
        made = described(G_of(content, path, "--network", ema=False).float().eval(), str(path))
    except UserError:
        return {}
    channels, height, width = made.dims
    if height != width:
        raise UserError(
            f"--network={path}: its G draws {width}x{height} pictures, and only squares can be "
            "trained; sample.py draws with it"
        )
    return {
        "scale": height, "grayscale": channels == 1, "noiseDim": made.noise_dim,
        **_alike("G_arch", G, _OLD_G, lambda a: models.create_G(made.dims, made.noise_dim, a)),
        **_alike("D_arch", D, _OLD_D, lambda a: models.create_D(made.dims, a)),
    }  # fmt: skip


def _pairs(D: nn.Module, G: nn.Module, path: Path) -> dict[str, Any]:
    convolutions, linears = _layers(D, nn.Conv2d), _layers(D, nn.Linear)
    if not convolutions or not linears:
        return {}
    halvings = len(_layers(D, nn.MaxPool2d))
    channels = convolutions[0].in_channels
    fine = _side(linears[0].in_features // convolutions[-1].out_channels) * 2**halvings
    dims = (channels, fine, fine)
    if not _takes(D, dims):  # it shrinks pictures in another way than ours do
        return {}
    sizes = re.search(r"_(\d+)_to_(\d+)", path.name)  # the coarse size is in no network
    return {
        "grayscale": channels == 1, "fineSize": fine,
        **({"coarseSize": int(sizes[1])} if sizes and int(sizes[2]) == fine else {}),
        **_alike("G_arch", G, _OLD_PAIR_G, lambda a: models_c2f.create_G(dims, a)),
        **_alike("D_arch", D, _OLD_PAIR_D, lambda a: models_c2f.create_D(dims, a)),
    }  # fmt: skip


def _layers(network: nn.Module, kind: type[Any]) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def _side(pixels: int) -> int:
    """Of a square of so many pixels; 0 where there is none."""
    side = math.isqrt(pixels)
    return side if side**2 == pixels else 0


def _takes(D: nn.Module, dims: models.Dims) -> bool:
    """Whether a pair's D judges pictures of that shape, as far as can be seen without numbers."""
    picture = torch.empty(2, *dims, device="meta")
    try:
        run_on_shapes(D, (picture, picture))
    except (RuntimeError, TypeError, ValueError, LookupError):
        return False
    return dims[1] > 0


def _alike(
    flag: str, network: nn.Module, names: tuple[str, ...], build: Callable[[str], nn.Module]
) -> dict[str, str]:
    """The flag with the first of `names` under which `build` makes parameters of the same sizes."""
    theirs = [p.shape for p in network.parameters()]
    for name in names:
        try:
            ours = [p.shape for p in on_meta(functools.partial(build, name)).parameters()]
        except UserError:  # no network of that size
            continue
        if ours == theirs:
            return {flag: name}
    return {}
