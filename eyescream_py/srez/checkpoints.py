"""Training state as safetensors: both networks, both optimizers, the batch number, the time, the
options.

`checkpoint.safetensors` is the newest, `checkpoint.safetensors.old` the one before it (the
original's checkpoint_new.txt and checkpoint_old.txt). Random numbers need no room: they follow from
seed and batch number.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.srez.networks import Generator, build_generator
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import Networks
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

FORMAT = "srez-1"
NAME = "checkpoint.safetensors"
SHAPING = (
    "sample_size", "input_side", "gen_architect", "gen_norm", "width", "width_of_critic",
    "norm_of_critic", "optimizer", "objective", "input",
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A checkpoint's contents: tensors by name, and what the run had been told and had done."""

    tensors: dict[str, Tensor]
    options: Options
    batch: int
    seconds: float


def checkpoint_path(folder: str | Path) -> Path:
    return Path(folder) / NAME


def save_checkpoint(
    folder: str | Path, networks: Networks, options: Options, batch: int, seconds: float
) -> Path:
    """Write the state after `batch` batches and `seconds` of training; the file before stays as
    `.old`.
    """
    tensors: dict[str, Tensor] = {}
    for role in ("generator", "critic"):
        network, optimizer = getattr(networks, role), getattr(networks, f"{role}_optimizer")
        tensors |= {f"{role}/{name}": t for name, t in network.state_dict().items()}
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{role}_optimizer/{index}/{slot}": t for slot, t in slots.items()}
    metadata = {
        "format": FORMAT,
        "options": json.dumps(dataclasses.asdict(options)),
        "batch": str(batch),
        "seconds": repr(seconds),
    }
    path = checkpoint_path(folder)
    with atomic_write(path, keep_old=True) as file:
        file.write(save({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, metadata))
    return path


def read_checkpoint(path: str | Path) -> Stored:
    """Read and validate; UserError where the file is missing, damaged, or not of this program."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; `--run train` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({error})") from None
    if facts.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of srez (its format is {facts.get('format')!r})")
    try:
        known = {f.name for f in dataclasses.fields(Options)}
        told = {k: v for k, v in json.loads(facts["options"]).items() if k in known}
        options = Options(**told)
        options.check()
        return Stored(tensors, options, int(facts["batch"]), float(facts["seconds"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its header is damaged ({error})") from None


def restore(networks: Networks, stored: Stored, options: Options, path: str | Path) -> None:
    """Put a checkpoint's state into networks built from `options`; UserError where the two do not
    fit.
    """
    for name in SHAPING:
        then, now = getattr(stored.options, name), getattr(options, name)
        if then != now:
            raise UserError(
                f"{path} was trained with {name}={then}, this run has {now}: give the same flags "
                "to resume"
            )
    for role in ("generator", "critic"):
        _load_network(getattr(networks, role), stored, role, path)
        _load_optimizer(getattr(networks, f"{role}_optimizer"), stored, role)


def load_generator(path: str | Path) -> tuple[Generator, Stored]:
    """The trained generator alone, in evaluation mode."""
    stored = read_checkpoint(path)
    generator = build_generator(stored.options)
    _load_network(generator, stored, "generator", path)
    return generator.eval(), stored


def _load_network(network: nn.Module, stored: Stored, role: str, path: str | Path) -> None:
    try:
        network.load_state_dict(_part(stored.tensors, f"{role}/"))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its {role} does not fit its own header ({reason})") from None


def _load_optimizer(optimizer: Optimizer, stored: Stored, role: str) -> None:
    """Slots take the memory layout of their parameters, which the fused updates rely on."""
    params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in _part(stored.tensors, f"{role}_optimizer/").items():
        index, slot = name.split("/")
        p = params[int(index)]
        place = torch.empty_like(p) if value.shape == p.shape else value.clone()
        state.setdefault(int(index), {})[slot] = place.copy_(value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
