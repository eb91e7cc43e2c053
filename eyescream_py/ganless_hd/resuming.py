"""What an earlier run left in its folder, checked before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from eyescream_py.ganless_hd.checkpoints import Tensors, read_tensors
from eyescream_py.ganless_hd.networks import UNet, parameter_count
from eyescream_py.ganless_hd.options import Options
from eyescream_py.system.errors import UserError

SCALARS = ("adam.step", "averaging.pushed", "averaging.teacher_steps")
LONGEST_RUN = 2**53  # steps, exact as a double
HISTORY = 5  # iterates that the published averaging keeps between two steps


@dataclass
class Progress:
    """Where a run stands."""

    iteration: int = 0  # batches done
    epoch_loss: float = 0.0  # sum over the steps of the epoch so far
    epoch_steps: int = 0


@dataclass(frozen=True)
class EarlierRun:
    """The state of a run as its file tells it."""

    path: Path
    tensors: Tensors
    options: dict[str, Any]  # fields of Options that it was started with
    progress: Progress
    features: str  # fingerprint of the features' file
    photos: str  # fingerprint of the photographs' names


def state_file(folder: Path) -> Path:
    """All that resuming needs, in one file."""
    return folder / "saves" / "latest.safetensors"


def earlier_run(given: Options) -> EarlierRun | None:
    """The run in `given.out` with `given.resume`, None for a new one.

    Raises UserError where there is none, or one that a new run would replace, or a damaged one.
    """
    path = state_file(given.folder)
    if not given.resume:
        networks = sorted(path.parent.glob("autoEncoder-*"))  # of a run whose state is gone, too
        if path.exists():
            raise UserError(
                f"--out={given.out}: holds a run already; give --resume to go on with it, "
                "or another folder"
            )
        if networks:
            raise UserError(
                f"--out={given.out}: holds an earlier run's {networks[0].name}; give another folder"
            )
        return None
    if not path.exists():
        raise UserError(f"--resume: no run in {given.out}, {path} does not exist")
    tensors, about = read_tensors(path)
    if about.get("kind") != "run":
        raise UserError(f"{path}: is not the state of a training run")
    marks = [about.get(name) for name in ("features", "photos")]
    if not all(isinstance(mark, str) for mark in marks):
        raise UserError(f"{path}: does not say which features or photographs it was trained with")
    return EarlierRun(
        path, tensors, _options(path, about), _progress(path, about), str(marks[0]), str(marks[1])
    )


def _options(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Known options of the right types. What an old file says of unknown ones does not matter."""
    stored = about.get("options")
    if not isinstance(stored, dict):
        raise UserError(f"{path}: holds no options of a run")
    kept = {f.name: stored[f.name] for f in fields(Options) if f.name in stored}
    for name in ("basis", "features"):  # version 1: None where no file was given
        if name in kept and kept[name] is None:
            del kept[name]
    for name, value in kept.items():
        if not _has_type(name, value):
            raise UserError(f"{path}: its option {name} is {value!r:.40}")
    return kept


def _has_type(name: str, value: Any) -> bool:
    usual = getattr(Options(), name)
    if isinstance(usual, tuple):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(usual, bool):
        return isinstance(value, bool)
    if isinstance(usual, int | float):
        whole = type(value) is int and abs(value) < 2**63
        return whole or (isinstance(usual, float) and _is_finite(value))
    return isinstance(value, str) or (usual is None and value is None)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _progress(path: Path, about: Mapping[str, Any]) -> Progress:
    stored = about.get("progress")
    stored = stored if isinstance(stored, dict) else {}
    iteration, loss, steps = (
        stored.get(name) for name in ("iteration", "epoch_loss", "epoch_steps")
    )
    counts = all(type(n) is int and 0 <= n < LONGEST_RUN for n in (iteration, steps))
    whole = type(loss) is int and abs(loss) < LONGEST_RUN
    if not counts or not (whole or _is_finite(loss)):
        raise UserError(f"{path}: does not say where the run stands")
    return Progress(int(iteration or 0), float(loss or 0), int(steps or 0))


def check_tensors(run: EarlierRun, width: float) -> None:
    """UserError where a tensor does not belong to a network of `width`: before it is built."""
    with torch.device("meta"):
        count = parameter_count(UNet(width))
    bad = [name for name, t in run.tensors.items() if not _belongs(name, t, count)]
    if "weights" not in run.tensors:
        bad.append("weights")
    moments = [name for name in run.tensors if name.startswith("adam.")]
    if len(moments) not in (0, 4):
        bad.append("adam.*")
    if not bad and "averaging.iterates" in run.tensors:
        pushed = run.tensors.get("averaging.pushed", torch.tensor(-1))
        if len(run.tensors["averaging.iterates"]) != min(int(pushed), HISTORY):
            bad.append("averaging.pushed")
    if bad:
        raise UserError(f"{run.path}: {', '.join(bad[:6])} missing or not of this network")


def _belongs(name: str, tensor: torch.Tensor, count: int) -> bool:
    if name in SCALARS:
        return tensor.shape == () and 0 <= float(tensor) < LONGEST_RUN
    if name == "averaging.iterates":
        return tensor.ndim == 2 and len(tensor) <= HISTORY and tensor.shape[1] == count
    return tensor.shape == (count,) and tensor.dtype == torch.float32
