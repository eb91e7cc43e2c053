"""safetensors files from strangers: the header is judged before anything is allocated.

A file's own numbers decide how large a network is built, so a header of 200 bytes could ask for
petabytes. Here the header must describe exactly the bytes that the file has, the network is built
on torch's meta device (shapes without memory), its shapes are compared with the header's, and only
then tensors are read; they become the network's own without a copy.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.system.files import open_to_read

MAX_HEADER = 16 << 20  # bytes; ours have a few kilobytes
MAX_TENSORS = 100_000
MAX_AXES = 16
_MOST_FAULTS = 3  # named in a message
_WITH_EXTREMES = torch.float64, torch.float32, torch.float16, torch.bfloat16
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
M = TypeVar("M", bound=nn.Module)


class TensorsError(Exception):
    """Why a file of tensors cannot be used, on one line, without its name."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where its bytes lie, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself; `entries` describe exactly the bytes that it has."""

    path: Path
    metadata: dict[str, str]
    entries: dict[str, Entry]
    data_start: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and judge a header. Raises TensorsError, or OSError where the file cannot be read."""
    path = Path(path)
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 10:
            raise TensorsError(f"a safetensors file has more than {size} bytes")
        if length > min(MAX_HEADER, size - 8):
            raise TensorsError(f"no safetensors file, or damaged (a header of {length} bytes)")
        text = file.read(length)
    content = _parsed(text)
    metadata = content.pop("__metadata__", {})
    if not _is_words(metadata):
        raise TensorsError("its metadata are not a table of texts")
    if len(content) > MAX_TENSORS:
        raise TensorsError(f"it has {len(content)} tensors, at most {MAX_TENSORS} are read")
    entries = {name: _entry(name, value) for name, value in content.items()}
    _check_bytes(entries, size - 8 - length)
    return Header(path, metadata, entries, 8 + length)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise TensorsError("no safetensors file, or damaged (its header is no JSON)") from error
    if not isinstance(content, dict):
        raise TensorsError("no safetensors file, or damaged (its header is no table)")
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise TensorsError("its header names something twice")
    return table


def _is_words(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype = _DTYPES[value["dtype"]]
        shape, (start, end) = tuple(value["shape"]), value["data_offsets"]
    except (LookupError, TypeError, ValueError) as error:
        raise TensorsError(f"its header describes {name!r:.80} in no known way") from error
    numbers = (*shape, start, end)
    if len(shape) > MAX_AXES or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise TensorsError(f"its header gives {name!r:.80} an impossible size")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise TensorsError(f"its header gives {name!r:.80} a size that its bytes do not have")
    return Entry(dtype, shape, start, end)


def _check_bytes(entries: Mapping[str, Entry], size: int) -> None:
    """Every byte belongs to one tensor: no holes, no overlaps, nothing behind the end."""
    at = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != at:
            raise TensorsError("damaged (its tensors overlap or leave gaps)")
        at = entry.end
    if at != size:
        raise TensorsError(f"cut short or damaged ({size} bytes of tensors instead of {at})")


def read_tensors(header: Header, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it, on the CPU; memory as the file's
    size. Raises TensorsError where a value is no number, and where the file became shorter since.
    """
    tensors = {}
    with open(header.path, "rb") as file:
        for name, entry in header.entries.items():
            if not name.startswith(prefix):
                continue
            file.seek(header.data_start + entry.start)
            data = bytearray(file.read(entry.end - entry.start))
            if len(data) != entry.end - entry.start:
                raise TensorsError("cut short while it was read")
            tensors[name.removeprefix(prefix)] = _tensor(data, entry)
    demand_finite(tensors)
    return tensors


def _tensor(data: bytearray, entry: Entry) -> Tensor:
    if not data:
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    if entry.dtype == torch.bool:  # a byte other than 0 and 1 is no bool
        return torch.frombuffer(data, dtype=torch.uint8).ne(0).reshape(entry.shape)
    return torch.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those with a value that is no number; what writes files asks before it does.

    Everything is asked before the first answer is waited for.
    """
    answers = {name: _is_finite(tensor.detach()) for name, tensor in tensors.items()}
    return [name for name, answer in answers.items() if not answer]


def _is_finite(tensor: Tensor) -> Tensor:
    """Whether all of its values are numbers, as a 0-dim tensor: the extremes, which are NaN where
    any is, are found in a tenth of the time.
    """
    if tensor.dtype not in _WITH_EXTREMES or not tensor.numel():
        return tensor.isfinite().all()
    return torch.stack(torch.aminmax(tensor)).isfinite().all()


def demand_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise TensorsError, which names the first ones, where tensors of a file hold a value that is
    no number."""
    if bad := not_finite(tensors):
        more = f" and {len(bad) - _MOST_FAULTS} more" if len(bad) > _MOST_FAULTS else ""
        shown = ", ".join(f"{name:.80}" for name in bad[:_MOST_FAULTS])
        raise TensorsError(f"{shown}{more} with values that are no numbers")


def held_by(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer] | None = None
) -> dict[str, Tensor]:
    """What a run's file keeps of networks and optimizers: weights and statistics as
    `network/weight`, moments as `optimizer:name/number of the parameter/moment`.
    """
    held = {
        f"{n}/{key}": value for n, m in modules.items() for key, value in m.state_dict().items()
    }
    for name, optimizer in (optimizers or {}).items():
        for index, moments in optimizer.state_dict()["state"].items():
            held |= {f"optimizer:{name}/{index}/{key}": value for key, value in moments.items()}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def on_meta(build: Callable[[], M]) -> M:
    """The module that `build` makes, with shapes and without memory."""
    with torch.device("meta"):
        return build()


def check_shapes(header: Header, module: nn.Module, prefix: str = "") -> None:
    """Compare a module's tensors (on any device, meta too) with those named `prefix`... in a file.

    Raises TensorsError naming the first differences: missing, of another size or type, too many.
    """
    wanted = module.state_dict()
    stored = {n.removeprefix(prefix): e for n, e in header.entries.items() if n.startswith(prefix)}
    faults = []
    for name, own in wanted.items():
        entry = stored.get(name)
        if entry is None:
            faults.append(f"{prefix}{name} is missing")
        elif entry.shape != tuple(own.shape):
            faults.append(f"{prefix}{name} is {_by(entry.shape)}, not {_by(own.shape)}")
        elif entry.dtype != own.dtype:
            faults.append(f"{prefix}{name} is of {entry.dtype}, not {own.dtype}")
    faults += [f"{prefix}{name:.80} is not part of the network" for name in stored.keys() - wanted]
    if faults:
        more = f" and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        shown = "; ".join(faults[:_MOST_FAULTS])
        raise TensorsError(f"its tensors do not fit its own header: {shown}{more}")


def _by(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "one number"


def load_module(header: Header, build: Callable[[], M], prefix: str = "") -> M:
    """Build a network, compare its shapes with the file's, then give it the file's tensors.

    Nothing is allocated before the shapes agree. `build` may raise; its errors go through. Buffers
    that a state dict does not hold must be made by `build` from shapes alone. Raises TensorsError.
    """
    module = on_meta(build)
    check_shapes(header, module, prefix)
    module.load_state_dict(read_tensors(header, prefix), assign=True)
    lost = [n for n, t in (*module.named_parameters(), *module.named_buffers()) if t.is_meta]
    if lost:
        raise AssertionError(f"{type(module).__name__} does not store its {lost[0]}")
    return module
