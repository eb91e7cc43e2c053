"""Tensors in files: networks, features and the state of a run, all safetensors and written
atomically.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

Tensors = dict[str, torch.Tensor]
METADATA_KEY = "ganless_hd"


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
    keep_old: bool = False,
) -> None:
    """Write `tensors` and the JSON values `about`; a file is replaced whole or not at all.

    Raises UserError where the folder cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(ready, metadata={METADATA_KEY: json.dumps(about)})
    try:
        with atomic_write(path, keep_old=keep_old) as file:
            file.write(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def read_tensors(path: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and `about` of a file: safetensors, or a foreign .pth/.pt read with
    `weights_only=True`.

    A .pth may hold the state dict itself or hold it under `state_dict`; `about` is then empty.
    Raises UserError naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix in (".pth", ".pt"):
        return _read_pth(path), {}
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def _read_pth(path: Path) -> Tensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable file of tensors ({reason})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


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
            if other is not None and other.shape == own.shape:
                own.copy_(other)
                copied.append(name)
            else:
                left.append(name)
    return copied, left


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
