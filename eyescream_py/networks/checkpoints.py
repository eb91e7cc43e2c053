"""Checkpoints as Torch 7 files: Lua's {D, G, opt, epoch} plus what exact resuming needs."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyescream_py import torch7
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.places import as_module
from eyescream_py.system.safe_tensors import not_finite
from eyescream_py.system.voice import counted
from eyescream_py.torch7.describe_layer import key_name
from eyescream_py.torch7.layers.shapes import keep_batches

PRETRAINED = "pretrained:"  # before the name of a network that comes with the package
_KEYS_TOLD = 12
_BOX = Path(__file__).parents[1] / "pretrained"


def find(name: str, folder: Path, option: str = "--network") -> Path:
    """The file as named, else the one of that name in `folder`; a UserError names both.

    `pretrained:NAME` is a network that comes with the package.
    """
    if name.startswith(PRETRAINED):
        return pretrained(name.removeprefix(PRETRAINED), option)
    for path in (Path(name), folder / name):
        if path.is_file():
            return path
    if Path(name).is_absolute():
        raise UserError(f"{option}={name} is no file")
    raise UserError(f"{option}={name}: neither {name} nor {folder / name} is a file")


def given(path: str | Path, option: str) -> Path:
    """`path`, by which somebody asks for one file. Raises UserError, which names `option`, where it
    is empty or a folder."""
    if not str(path):
        raise UserError(f"{option} is empty; give the path of a .net file")
    if Path(path).is_dir():
        raise UserError(f"{option}={path}: is a folder; give a file in it")
    return Path(path)


def pretrained(name: str, option: str = "--network") -> Path:
    """The file of a network that comes with the package; a UserError lists their names."""
    names = sorted(path.stem for path in _BOX.glob("*.net"))
    if name not in names:
        raise UserError(f"{option}={PRETRAINED}{name}: there is only {', '.join(names)}")
    return _BOX / f"{name}.net"


def read(path: Path, option: str = "--network") -> torch7.Table:
    """The table in a .net file; UserError where it cannot be read or holds none."""
    try:
        content = torch7.load(path)
    except torch7.T7Error as error:
        raise UserError(f"{option}={path}: {error}") from error
    except OSError as error:
        raise UserError(f"{option}={path}: {why(error)}") from error
    if not isinstance(content, torch7.Table):
        kind = getattr(content, "typename", None) or type(content).__name__
        raise UserError(
            f"{option}={path} holds no table of networks, but one {kind}; give a .net file of a "
            f"trainer ({as_module('torch7')} show tells what is in others)"
        )
    return content


def module(
    content: torch7.Table,
    key: str,
    path: Path,
    option: str = "--network",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The network under `key` as a torch module; UserError where it is missing or unknown, or holds
    numbers that are not finite: the Lua program saved networks whose training had diverged."""
    if not isinstance(content.get(key), torch7.TorchObject):
        names = ", ".join(map(key_name, list(content)[:_KEYS_TOLD]))
        names += f" and {len(content) - _KEYS_TOLD} more" * (len(content) > _KEYS_TOLD)
        raise UserError(f"{option}={path} holds no network {key} (it holds: {names})")
    try:
        network = keep_batches(torch7.to_module(content[key], dtype))
    except torch7.T7Error as error:
        raise UserError(f"{option}={path}: network {key}: {error}") from error
    if not_finite(network.state_dict()):
        raise UserError(
            f"{option}={path}: network {key} holds numbers that are not finite, as its training "
            "had diverged; give an earlier file"
        )
    return network


@torch.no_grad()
def copy_into(network: nn.Module, content: torch7.Table, key: str, path: Path) -> None:
    """Give `network` the parameters and statistics that the file holds under `key`.

    Raises UserError, with `network` unchanged, where sizes or layers differ.
    """
    stored = module(content, key, path, dtype=next(network.parameters(), torch.empty(0)).dtype)
    ours, theirs = list(network.parameters()), list(stored.parameters())
    for position, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a.shape != b.shape:
            raise UserError(
                f"--network={path}: parameter {position + 1} of {key} is {tuple(b.shape)}, "
                f"not {tuple(a.shape)} as these options make it; give the options of its training"
            )
    if len(ours) != len(theirs):
        raise UserError(
            f"--network={path}: {key} has {counted(len(theirs), 'parameter tensor')} there and "
            f"{len(ours)} "
            "with these options; give the options the file was trained with"
        )
    for a, b in zip(ours, theirs, strict=True):
        a.copy_(b)
    for kept, read_in in zip(network.buffers(), stored.buffers(), strict=True):
        kept.copy_(read_in)


def write(path: Path, networks: Mapping[str, nn.Module], content: Mapping[str, Any]) -> None:
    """Write networks and plain values atomically; the file that stood there becomes `path.old`.

    Raises OSError with the old file untouched.
    """
    table: dict[str, Any] = {name: torch7.from_module(net) for name, net in networks.items()}
    table.update(content)
    with atomic_write(path, keep_old=True) as file:
        torch7.save(file, table)
    del table
    gc.collect()  # the writer's copies hold one another: without this they pile up for ten saves
