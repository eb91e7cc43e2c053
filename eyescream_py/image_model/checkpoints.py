"""Checkpoints: one safetensors file with all weights, optimizer states, random states and counters.

Tensors are named `module/parameter` and `optimizer:name/index/key`; what is no tensor stands as
JSON in the file's metadata. Opening a checkpoint never runs code from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.image_model.networks import NU_LIMIT
from eyescream_py.image_model.options import CRITICS, DIRECTIONS, GENERATORS, NORMS
from eyescream_py.system.errors import UserError, first_line
from eyescream_py.system.files import atomic_write
from eyescream_py.system.rmsprop import TensorFlowRMSProp
from eyescream_py.system.safe_tensors import (
    TensorsError,
    held_by,
    on_meta,
    read_header,
    read_tensors,
)

_KEY = "image_model"
VERSION = 2  # 1, without a number: `batch_norm` meant what --norm=conv means now
_RMSP = ("mean_square",)
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_DAMAGED = (
    TensorsError, OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError,
    AttributeError,
)  # fmt: skip
# What every checkpoint was trained with before there was such a setting.
_BEFORE = {"direction": "AtoB"}
KINDS = ("image-model", "cross-encoder", "semi")

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """`settings` rebuild the networks, `state` is the learner's own, `step` counts steps done."""

    path: Path
    step: int
    settings: dict[str, Any]
    state: dict[str, Any]
    tensors: dict[str, Tensor]

    def has(self, name: str) -> bool:
        """Whether anything of module or optimizer `name` is stored."""
        return any(key.startswith(name + "/") for key in self.tensors)

    def restore(self, module: nn.Module, name: str) -> None:
        """Copy the stored weights into `module`; UserError naming what does not fit."""
        module.load_state_dict(self._fitting(module, name))

    def build(self, build: Callable[[], M], name: str) -> M:
        """The network that `build` makes, of the stored weights: nothing is allocated for a header
        whose tensors do not bear it out. UserError naming what does not fit.
        """
        module = on_meta(build)
        module.load_state_dict(self._fitting(module, name), assign=True)
        return module

    def _fitting(self, module: nn.Module, name: str) -> dict[str, Tensor]:
        fitting = {}
        for key, wanted in module.state_dict().items():
            value = self.tensors.get(f"{name}/{key}")
            if value is None or value.shape != wanted.shape:
                has = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                shape = tuple(wanted.shape)
                raise UserError(f"{self.path}: {name}/{key} {has}, this network needs {shape}")
            if value.dtype != wanted.dtype:
                raise UserError(f"{self.path}: {name}/{key} holds no numbers of this network's")
            fitting[key] = value
        return fitting

    def restore_optimizer(self, optimizer: Optimizer, name: str) -> None:
        """Put the stored moments into `optimizer`, whose rates stay; UserError where unfit."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments = _RMSP if isinstance(optimizer, TensorFlowRMSProp) else _ADAM
        states: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(parameters):
            prefix = f"optimizer:{name}/{index}/"
            found = {key: self.tensors.get(prefix + key) for key in moments}
            stored = {key: value for key, value in found.items() if value is not None}
            shapes = {value.shape for value in stored.values()} - {torch.Size()}
            whole = len(stored) == len(moments) and shapes == {parameter.shape}
            if stored and not whole:
                raise UserError(f"{self.path}: {prefix}* does not fit this network's optimizer")
            if stored:
                # a fused optimizer walks through moments and weights in the order of memory
                states[index] = {
                    key: torch.empty_like(parameter, device=value.device).copy_(value)
                    if value.shape == parameter.shape
                    else value
                    for key, value in stored.items()
                }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})


def checkpoint_path(folder: Path, step: int) -> Path:
    """The seed's name, with the format's ending."""
    return folder / f"model.ckpt-{step}.safetensors"


def save_checkpoint(
    path: Path,
    step: int,
    settings: Mapping[str, Any],
    state: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Write the file whole or not at all. Raises OSError."""
    tensors = held_by(modules, optimizers)
    tensors["rng/torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    text = json.dumps(
        {"version": VERSION, "step": step, "settings": dict(settings), "state": dict(state)}
    )
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(contiguous, {_KEY: text}))


def read_checkpoint(path: str | Path, kinds: tuple[str, ...] = KINDS) -> Checkpoint:
    """Open a checkpoint of one of `kinds`; UserError where it is missing, damaged, or another."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint")
    try:
        header = read_header(path)
        metadata = json.loads(header.metadata[_KEY])
        version = metadata.get("version", 1)
        step, settings, state = (metadata[key] for key in ("step", "settings", "state"))
        if version == 1:
            settings = _upgraded(settings)
        _check_settings(step, settings, state)
        tensors = read_tensors(header)
    except _DAMAGED as error:
        raise UserError(
            f"{path}: is no checkpoint of this program, or is damaged ({_lacking(error)})"
        ) from None
    if version not in (1, VERSION):
        raise UserError(
            f"{path}: is of version {version!r:.20}; this program reads up to {VERSION}"
        )
    if settings["kind"] not in kinds:
        raise UserError(
            f"{path}: holds a network of kind {settings['kind']}; this needs {' or '.join(kinds)}"
        )
    return Checkpoint(path, step, settings, state, tensors)


def _lacking(error: Exception) -> str:
    """Why a file could not be used."""
    return f"it has no {error.args[0]}" if isinstance(error, KeyError) else first_line(error)


def _upgraded(settings: Any) -> Any:
    """Settings of version 1 in today's words."""
    if type(settings["batch_norm"]) is not bool:
        raise ValueError("impossible settings")
    changed = {**settings, "norm": "conv" if settings["batch_norm"] else "none"}
    del changed["batch_norm"]
    return changed


def _check_settings(step: Any, settings: Any, state: Any) -> None:
    """ValueError unless the numbers are ones that a network could be built from."""
    fits = (
        type(step) is int
        and 0 <= step < 2**53
        and isinstance(state, dict)
        and settings["kind"] in KINDS
        and settings["norm"] in NORMS
        and settings.get("critic", "dense") in CRITICS
        and settings["channels"] in (1, 3)
        and type(settings["image_size"]) is int
        and 4 <= settings["image_size"] <= 2048
        and settings["image_size"] % 4 == 0
        and ("gen_arch" in settings) == (settings["kind"] == "image-model")
        and settings.get("gen_arch", "U") in GENERATORS
        and settings.get("direction", "AtoB") in DIRECTIONS
        and (settings.get("gen_arch") != "NU" or settings["image_size"] <= NU_LIMIT)
    )
    if not fits:
        raise ValueError("impossible settings")


def check_settings_agree(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """UserError naming the first flag that differs from how the checkpoint was trained."""
    for name, value in settings.items():
        stored = checkpoint.settings.get(name, _BEFORE.get(name, value))
        if stored != value:
            raise UserError(
                f"--{name}={value}: {checkpoint.path} was trained with {stored}; give the same"
            )


def restore_random_state(checkpoint: Checkpoint) -> None:
    """Set torch's generators as they were; UserError where the stored states are damaged."""
    try:
        torch.set_rng_state(checkpoint.tensors["rng/torch"])
        if torch.cuda.is_available() and "rng/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng/cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{checkpoint.path}: has no usable random state ({error})") from None
