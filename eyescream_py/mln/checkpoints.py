"""Checkpoints as safetensors, weights as .mat: both written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.networks import MinimalLinearNetwork, Shape, tensor_sizes
from eyescream_py.mln.params import Params, params_from, params_text, parse_text
from eyescream_py.system.errors import UserError, first_line
from eyescream_py.system.files import atomic_write
from eyescream_py.system.numbers import batches_done
from eyescream_py.system.safe_tensors import Header, TensorsError, read_header, read_tensors

# Names of the original's variables in TrainSummary_*.mat: R is its 7th layer, L its 10th.
_MAT_NAMES = {
    "k_layer": "gene_GEN_L007_PixelwiseMultC_weight",
    "i_layer": "gene_GEN_L010_PixelwiseMultC_weight",
}


FORMAT, VERSION = "eyescream mln", 1
MOMENTS = "exp_avg", "exp_avg_sq"
ADAM = ("step", *MOMENTS)  # of each parameter, after its first step


@dataclass
class Progress:
    """Where a run stands: batches done, seconds of training so far, the loss of every batch."""

    batch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    quick_check_done: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content; `tensors` holds network.* and adam.*, `file` is where it was read."""

    file: str
    params: Params
    shape: Shape
    samples: int
    progress: Progress
    tensors: dict[str, Tensor]


def save_checkpoint(
    path: str | Path,
    params: Params,
    network: MinimalLinearNetwork,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    samples: int,
) -> None:
    """Write all that resuming and reconstructing need; the file that stood there stays as
    `path`.old. Raises OSError.
    """
    from safetensors.torch import save

    tensors = {f"network.{name}": _real(value) for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{name}.{key}"] = _real(torch.as_tensor(value))
    tensors["losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    metadata = {
        "format": f"{FORMAT} {VERSION}",
        "params": params_text(params),
        "shape": json.dumps(asdict(network.shape)),
        "samples": str(samples),
        "batch": str(progress.batch),
        "seconds": repr(progress.seconds),
        "quick_check_done": str(int(progress.quick_check_done)),
    }
    with atomic_write(path, keep_old=True) as file:
        file.write(save(tensors, metadata))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint. Raises UserError when it is missing, damaged or of another
    program.

    The header must agree with itself before anything is allocated: memory never exceeds a few times
    the file's size.
    """
    try:
        header = read_header(path)
        _check_format(header.metadata, str(path))
        shape = _shape(header.metadata["shape"])
        _check_sizes(shape, header)
        tensors = read_tensors(header)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, TensorsError) as error:
        raise UserError(
            f"{path}: damaged or no safetensors file ({error}); try its .old neighbour"
        ) from None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: {_lacking(error)}; try its .old neighbour") from None
    try:
        return _checkpoint(header.metadata, shape, tensors, str(path))
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: {_lacking(error)}; try its .old neighbour") from None


def _lacking(error: Exception) -> str:
    """Why a header does not describe a checkpoint."""
    if isinstance(error, KeyError):
        return f"incomplete (it has no {error.args[0]})"
    return f"damaged ({first_line(error):.200})"


def _check_format(metadata: dict[str, str], path: str) -> None:
    name, _, version = metadata.get("format", "").rpartition(" ")
    if name != FORMAT:
        raise UserError(f"{path}: not written by this program; give a checkpoint_new.safetensors")
    if version != str(VERSION):
        raise UserError(
            f"{path}: of version {version[:20]}, this program knows {VERSION}; "
            "use the program that wrote it"
        )


def _shape(text: str) -> Shape:
    """The stored sizes; settings that do not shape the network are this program's own."""
    stored = json.loads(text)
    if not isinstance(stored, dict):
        raise ValueError("its shape is no table")
    names = {item.name: item.type for item in fields(Shape) if item.compare}
    values = {name: value for name, value in stored.items() if name in names}
    for name, value in values.items():
        kind = {"int": int, "bool": bool, "str": str}.get(str(names[name]), (int, float))
        if not isinstance(value, kind) or (isinstance(value, int | float) and not 0 <= value < 1e6):
            raise ValueError(f"its {name} is {value!r:.40}")
    shape = Shape(**values)
    if shape.k_grid not in ("legacy", "matched") or not (shape.image_side and shape.k_max > 0):
        raise ValueError("its sizes belong to no network")
    return shape


def _check_sizes(shape: Shape, header: Header) -> None:
    """Compare the network's tensors, by arithmetic alone, with those that the file has."""
    wanted = {f"network.{name}": size for name, size in tensor_sizes(shape).items()}
    for name, size in wanted.items():
        entry = header.entries.get(name)
        if entry is None or entry.shape != size:
            has = "missing" if entry is None else "x".join(map(str, entry.shape))
            raise ValueError(f"its {name} is {has}, not {'x'.join(map(str, size))}")
        if entry.dtype != (torch.int64 if name.endswith("index") else torch.float32):
            raise ValueError(f"its {name} is of {entry.dtype}")


def _checkpoint(
    metadata: dict[str, str], shape: Shape, tensors: dict[str, Tensor], name: str
) -> Checkpoint:
    losses = tensors.pop("losses").flatten().tolist()
    seconds, samples = float(metadata["seconds"]), int(metadata["samples"])
    index = tensors["network.k_layer.index"]
    if not 0 <= int(index.min()) <= int(index.max()) < samples:
        raise ValueError("its samples do not fit its table of neighbours")
    if not 0 <= seconds < 1e12:
        raise ValueError(f"its seconds are {seconds}")
    done = metadata["quick_check_done"] == "1"
    progress = Progress(batches_done(metadata["batch"]), seconds, losses, done)
    params = params_from(dict(parse_text(metadata["params"], name)), name)
    return Checkpoint(name, params, shape, samples, progress, tensors)


def restore_network(checkpoint: Checkpoint) -> MinimalLinearNetwork:
    """The network with the checkpoint's weights and neighbour table. Raises UserError if they do
    not fit.
    """
    network = MinimalLinearNetwork(checkpoint.shape, checkpoint.tensors["network.k_layer.index"])
    state = {}
    for name, value in network.state_dict().items():
        saved = checkpoint.tensors.get(f"network.{name}")
        if saved is None or _real(value).shape != saved.shape:
            raise UserError(
                f"{checkpoint.file}: its {name} does not fit its own shape; try its .old neighbour"
            )
        state[name] = torch.view_as_complex(saved) if value.is_complex() else saved
    network.load_state_dict(state)
    return network


def restore_optimizer(
    checkpoint: Checkpoint, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put Adam's moments and step counts back, exactly; the counts on the device where steps can be
    recorded, else on the host, as Adam itself has them. Raises UserError where any are missing.
    """
    counts_move = optimizer.param_groups[0]["capturable"]
    for name, parameter in network.named_parameters():
        prefix = f"adam.{name}."
        stored = {
            key.removeprefix(prefix): value
            for key, value in checkpoint.tensors.items()
            if key.startswith(prefix)
        }
        if not stored and not checkpoint.progress.batch:  # before the first step
            continue
        size = _real(parameter).shape
        found = {key: (value.shape, value.dtype) for key, value in stored.items()}
        if found != {key: (size if key in MOMENTS else (), torch.float32) for key in ADAM}:
            raise UserError(
                f"{checkpoint.file}: its {prefix}* does not fit; try its .old neighbour"
            )
        state: dict[str, Any] = {"step": stored["step"]}
        if counts_move:
            state["step"] = state["step"].to(parameter.device)
        for key in MOMENTS:
            moment = stored[key]
            moment = torch.view_as_complex(moment) if parameter.is_complex() else moment
            state[key] = moment.to(parameter.device)
        optimizer.state[parameter] = state


def _real(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return torch.view_as_real(value).contiguous() if value.is_complex() else value.contiguous()


def write_summary(path: str | Path, network: MinimalLinearNetwork, losses: list[float]) -> None:
    """Write TrainSummary_*.mat: R (K, K, P, T), L (N, N, T, outputs) as ..R_0, ..I_0, and the
    losses.
    """
    side = network.shape.grid_side
    r = network.k_layer.weight.detach().cpu().numpy()
    layers = {"k_layer": r.reshape(side, side, *r.shape[1:])}
    layers["i_layer"] = network.i_layer.weight.detach().cpu().numpy()
    values: dict[str, Any] = {"losses": np.asarray(losses)}
    for layer, weight in layers.items():
        values[f"{_MAT_NAMES[layer]}R_0"] = weight.real
        values[f"{_MAT_NAMES[layer]}I_0"] = weight.imag
    write_mat(path, values)


def load_weights(network: MinimalLinearNetwork, layer: str, path: str, key: str) -> None:
    """Start `layer` ("k_layer" or "i_layer") from a saved .mat; `key` is what named the file.

    Raises UserError naming both sizes on a misfit.
    """
    name = _MAT_NAMES[layer]
    found = read_mat(path, [f"{name}R_0", f"{name}I_0"], source=key)
    weight = network.k_layer.weight if layer == "k_layer" else network.i_layer.weight
    values = found[f"{name}R_0"] + 1j * found[f"{name}I_0"]
    if values.size != weight.numel():
        raise UserError(
            f"{key} {path}: holds {values.shape} weights, the network needs {tuple(weight.shape)}"
        )
    with torch.no_grad():
        weight.copy_(torch.from_numpy(values.reshape(weight.shape)))
