"""Tensors in files: networks, features and the state of a run, all safetensors and written
atomically. What a stranger's file claims is checked before anything is built from it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from eyescream_py.features.state_dicts import read_with_metadata
from eyescream_py.ganless_hd.networks import ENCODER_CHANNELS, UNet
from eyescream_py.ganless_hd.options import LARGEST_SIDE, WIDEST
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

Tensors = dict[str, torch.Tensor]
METADATA_KEY = "ganless_hd"
VERSION = 2  # 1 had no number
SHOWN_NAMES = 6


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
    keep_old: bool = False,
) -> None:
    """Write `tensors` and the JSON values `about`; a file is replaced whole or not at all.

    Raises OSError where the folder cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(ready, metadata={METADATA_KEY: json.dumps({"version": VERSION, **about})})
    _write(path, data, keep_old)


def write_pth(path: Path, network: UNet) -> None:
    """The network as the published program's loader opens it: a plain state dict of torch 0.4."""
    data = io.BytesIO()
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    torch.save(state, data, _use_new_zipfile_serialization=False)
    _write(path, data.getvalue())


def _write(path: Path, data: bytes, keep_old: bool = False) -> None:
    with atomic_write(path, keep_old=keep_old) as file:
        file.write(data)


def read_tensors(path: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and `about` of a file: safetensors, or a foreign .pth, whose `about` is empty.

    Raises UserError naming the file, also for one that a later version wrote.
    """
    path = Path(path)
    tensors, metadata = read_with_metadata(path)
    about = _about(path, metadata)
    version = about.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"{path}: of version {version}, this program knows {VERSION} at most")
    return tensors, about


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its description of itself cannot be read") from error
    if not isinstance(about, dict):
        raise UserError(f"{path}: its description of itself cannot be read")
    return about


@dataclass(frozen=True)
class SavedNetwork:
    """A network from a file, on the CPU, with what it was trained on."""

    network: UNet
    size: int  # side of the training crops, pixels
    colormap: bool
    width: float


def write_half(path: Path, saved: SavedNetwork) -> None:
    """The network in half precision, which no eye can tell from single."""
    tensors = {name: value.half() for name, value in saved.network.state_dict().items()}
    about = {"width": saved.width, "imgSize": saved.size, "colormap": saved.colormap}
    write_tensors(path, tensors, {"kind": "network", **about})


def read_network(path: str | Path) -> SavedNetwork:
    """The network in a `saves/autoEncoder-*` file (safetensors of ours or a published .pth).

    Nothing is allocated before names and sizes of all tensors agree. Raises UserError naming what
    does not.
    """
    tensors, about = read_tensors(path)
    if about.get("kind") == "run":
        raise UserError(f"{path}: is the state of a run; give an autoEncoder-* file beside it")
    width = _width(path, tensors, about)
    with torch.device("meta"):
        network = UNet(width)
    wanted = network.state_dict()
    left = [name for name, own in wanted.items() if not _fits(own, tensors.get(name))]
    if left:
        more = ", ..." if len(left) > SHOWN_NAMES else ""
        raise UserError(
            f"{path}: not such a network, missing or of another size: "
            f"{', '.join(left[:SHOWN_NAMES])}{more}"
        )
    network.load_state_dict({name: tensors[name].float() for name in wanted}, assign=True)
    size, colormap = about.get("imgSize", 512), about.get("colormap", True)
    if type(size) is not int or not 0 < size <= LARGEST_SIDE or not isinstance(colormap, bool):
        raise UserError(f"{path}: its imgSize or colormap is none ({size!r:.20}, {colormap!r:.20})")
    return SavedNetwork(network, size, colormap, width)


def _width(path: str | Path, tensors: Mapping[str, torch.Tensor], about: dict[str, Any]) -> float:
    bias = tensors.get("encoderLevels.0.bias")
    guess = 1.0 if bias is None else bias.numel() / ENCODER_CHANNELS[1]
    width = about.get("width", guess)
    if type(width) not in (int, float) or not 0 < width <= WIDEST:  # false for nan, too
        raise UserError(f"{path}: its width is {width!r:.20}, not a number up to {WIDEST}")
    return float(width)


def _fits(own: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and other.shape == own.shape and other.is_floating_point()


def copy_matching(
    network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> tuple[list[str], list[str]]:
    """Copy every tensor whose name and size the network has; names (copied, left at their start
    values).
    """
    copied, left = [], []
    with torch.no_grad():
        for name, own in network.state_dict().items():
            other = tensors.get(name)
            if other is not None and _fits(own, other):
                own.copy_(other)
                copied.append(name)
            else:
                left.append(name)
    return copied, left


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
