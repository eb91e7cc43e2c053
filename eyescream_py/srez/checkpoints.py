"""Training state as safetensors: both networks, both optimizers, the batch number, the time, the
options.

`checkpoint.safetensors` is the newest, `checkpoint.safetensors.old` the one before it (the
original's checkpoint_new.txt and checkpoint_old.txt). Random numbers need no room: they follow from
seed and batch number.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.srez.networks import Generator, build_critic, build_generator
from eyescream_py.srez.old_checkpoints import upgraded
from eyescream_py.srez.options import Options, told_by
from eyescream_py.srez.steps import Networks
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.numbers import batches_done
from eyescream_py.system.places import as_module
from eyescream_py.system.safe_tensors import TensorsError, on_meta, read_header, read_tensors

FORMAT = "srez-2"
READABLE = ("srez-1", FORMAT)
NAME = "checkpoint.safetensors"
DAMAGED = (UserError, LookupError, ValueError, TypeError, ArithmeticError, RecursionError)
SHAPING = (  # what decides another one's value before it
    "sample_size", "input", "input_side", "gen_architect", "gen_norm", "width", "width_of_critic",
    "optimizer", "objective", "norm_of_critic",
)  # fmt: skip
FLAGS = {
    "width_of_critic": "critic_width", "norm_of_critic": "critic_norm", "objective": "loss_func",
}  # fmt: skip
SPLITTING = ("random_seed", "test_vectors", "test_list", "train_images", "crop")
SLOTS = {"adam": {"exp_avg", "exp_avg_sq", "step"}, "rmsprop": {"mean_square"}}


@dataclass(frozen=True)
class Stored:
    """A checkpoint's contents: tensors by name, and what the run had been told and had done.

    `split` tells the pictures learnt from and those held out ("" in old files), `grey` whether
    all of them were grey.
    """

    tensors: dict[str, Tensor]
    options: Options
    batch: int
    seconds: float
    split: str = ""
    grey: bool = False


def checkpoint_path(folder: str | Path) -> Path:
    """Where the checkpoint of `--checkpoint_dir` lies."""
    return Path(folder) / NAME


def save_checkpoint(
    folder: str | Path,
    networks: Networks,
    options: Options,
    batch: int,
    seconds: float,
    split: str = "",
    grey: bool = False,
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
    path = checkpoint_path(folder)
    write_checkpoint(path, Stored(tensors, options, batch, seconds, split, grey))
    return path


def write_checkpoint(path: Path, stored: Stored) -> None:
    """`stored` as a file; what stood at `path` stays beside it as `.old`."""
    metadata = {
        "format": FORMAT,
        "options": json.dumps(dataclasses.asdict(stored.options)),
        "batch": str(stored.batch),
        "seconds": repr(stored.seconds),
        "split": stored.split,
        "grey": json.dumps(stored.grey),
    }
    tensors = {n: t.detach().cpu().contiguous() for n, t in stored.tensors.items()}
    with atomic_write(path, keep_old=True) as file:
        file.write(save(tensors, metadata))


def read_checkpoint(path: str | Path) -> Stored:
    """Read and validate; UserError where the file is missing, damaged, or not of this program.

    The tensors are no larger than the file; the numbers in its header are believed only where the
    tensors' shapes bear them out, so that nothing large is built for a few bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"--checkpoint_dir={path.parent}: no such checkpoint, {path.name}; "
            f"`{as_module('srez')} --run=train` writes one"
        )
    try:
        header = read_header(path)
        tensors = read_tensors(header)
    except (TensorsError, OSError) as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({error})") from None
    facts = header.metadata
    if facts.get("format") not in READABLE:
        raise UserError(f"{path}: not a checkpoint of srez (its format is {facts.get('format')!r})")
    try:
        stored = _stored(tensors, facts)
    except DAMAGED as error:
        raise UserError(f"{path}: its header is damaged ({str(error)[:200]})") from None
    for role in ("generator", "critic"):
        _demand_shapes(stored, role, path)
    return stored


def _stored(tensors: dict[str, Tensor], facts: dict[str, str]) -> Stored:
    told = json.loads(facts["options"])
    if not isinstance(told, dict):
        raise TypeError("its options are no table")
    options = told_by(told)
    options.check()
    batch, seconds = batches_done(facts["batch"]), float(facts["seconds"])
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{batch} batches in {seconds} seconds")
    if facts["format"] != FORMAT:
        tensors = upgraded(tensors, batch)
    grey = bool(json.loads(facts.get("grey", "false")))
    return Stored(tensors, options, batch, seconds, facts.get("split", ""), grey)


def _demand_shapes(stored: Stored, role: str, path: Path) -> None:
    """The file's tensors of a network against the network that its header tells of, of which only
    the shapes are built. A file without a critic (one to enlarge with) is a good one.
    """
    found = {name: t.shape for name, t in _part(stored.tensors, f"{role}/").items()}
    if role == "critic" and not found:
        return
    build: Callable[[Options], nn.Module] = build_generator if role == "generator" else build_critic
    network = on_meta(lambda: build(stored.options))
    wanted = {name: t.shape for name, t in network.state_dict().items()}
    wrong = sorted(set(wanted.items()) ^ set(found.items()))
    if wrong:
        name, shape = wrong[0]
        raise UserError(
            f"{path}: its {role} does not fit its own header ({name} {list(shape)} stands in only "
            f"one of them, and {len(wrong) - 1} more)"
        )


def restore(networks: Networks, stored: Stored, options: Options, path: str | Path) -> None:
    """Put a checkpoint's state into networks built from `options`; UserError where the two do not
    fit.
    """
    for name in SHAPING:
        then, now = getattr(stored.options, name), getattr(options, name)
        if then != now:
            flag = FLAGS.get(name, name)
            if name == "input_side":
                flag = "noise_dimension" if options.input == "noise" else "scale"
                then, now = getattr(stored.options, flag), getattr(options, flag)
            raise UserError(
                f"{path}: was trained with --{flag}={then}, this run has {now}: give the same "
                "flags to resume"
            )
    if not _part(stored.tensors, "critic/"):
        raise UserError(f"{path}: holds a generator alone, there is nothing to resume")
    for role in ("generator", "critic"):
        getattr(networks, role).load_state_dict(_part(stored.tensors, f"{role}/"))
        _load_optimizer(getattr(networks, f"{role}_optimizer"), stored, role, path)


def demand_same_split(stored: Stored, options: Options, split: str, path: str | Path) -> None:
    """UserError where a resumed run would learn from pictures that were held out until now."""
    if stored.split and stored.split == split:
        return
    for name in SPLITTING:
        then, now = getattr(stored.options, name), getattr(options, name)
        if then != now:
            raise UserError(
                f"{path}: was trained with --{name}={then!r}, this run has {now!r}, which would "
                "change which pictures are held out: give the same flags to resume"
            )
    if stored.split:
        raise UserError(
            f"{path}: was trained on other pictures than --dataset={options.dataset} "
            f"{'and --test_list ' if options.test_list else ''}make now, so that held-out ones "
            "could be learnt: give the same pictures, or start a new run"
        )


def load_generator(path: str | Path) -> tuple[Generator, Stored]:
    """The trained generator alone, in evaluation mode."""
    stored = read_checkpoint(path)
    generator = build_generator(stored.options)
    generator.load_state_dict(_part(stored.tensors, "generator/"))
    return generator.eval(), stored


def _load_optimizer(optimizer: Optimizer, stored: Stored, role: str, path: str | Path) -> None:
    """Slots take the memory layout of their parameters, which the fused updates rely on."""
    params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in _part(stored.tensors, f"{role}_optimizer/").items():
        index, _, slot = name.partition("/")
        if not (index.isascii() and index.isdigit() and int(index) < len(params)):
            raise UserError(f"{path}: its {role}'s optimizer is damaged ({name})")
        p = params[int(index)]
        if value.shape != (torch.Size() if slot == "step" else p.shape):
            raise UserError(f"{path}: its {role}'s optimizer is damaged ({name})")
        place = torch.empty_like(p) if slot != "step" else value.clone()
        state.setdefault(int(index), {})[slot] = place.copy_(value)
    slots = SLOTS[stored.options.optimizer]
    whole = len(state) in (0, len(params)) and all(set(s) == slots for s in state.values())
    if not whole:
        raise UserError(f"{path}: its {role}'s optimizer is damaged")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
