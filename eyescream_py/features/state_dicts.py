"""State dicts from strangers' files: .safetensors, and .pth without running a line of it.

A file can make us hold as many bytes as it is long, and no more: a .pth must be stored without
compression, its pickle may name nothing but tensors, and no tensor may be larger than the file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from eyescream_py.system import safe_tensors
from eyescream_py.system.errors import UserError
from eyescream_py.system.voice import printable

Tensors = dict[str, torch.Tensor]
PTH_SUFFIXES = (".pth", ".pt", ".bin")
SHOWN_NAMES = 6
LEGACY_PICKLES = 4  # magic number, version, machine, content; storages follow
ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16")),
    *(f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
}


def read_state_dict(path: str | Path) -> Tensors:
    """Name -> tensor, on the CPU, of a .safetensors or a .pth file.

    A .pth may hold the state dict itself or hold it under `state_dict`.
    Raises UserError naming the file.
    """
    return read_with_metadata(path)[0]


def read_with_metadata(path: str | Path) -> tuple[Tensors, dict[str, str]]:
    """The same, and what the file says about itself (nothing where it is a .pth)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{printable(path)}: no such file")
    if path.suffix.lower() in PTH_SUFFIXES:
        return _read_pth(path), {}
    try:
        header = safe_tensors.read_header(path)
        return safe_tensors.read_tensors(header), header.metadata
    except (safe_tensors.TensorsError, OSError) as error:
        raise UserError(f"{printable(path)}: not a readable safetensors file ({error})") from error


def _read_pth(path: Path) -> Tensors:
    try:
        _refuse_surprises(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of torch's reader
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable file of tensors ({reason})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): t for name, t in content.items() if isinstance(t, torch.Tensor)}
    _check_sizes(path, tensors)
    try:
        safe_tensors.demand_finite(tensors)
    except safe_tensors.TensorsError as error:
        raise UserError(f"{printable(path)}: {error}") from None
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _check_sizes(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A tensor can claim any size by a stride of 0 or a storage that the file does not hold."""
    held = path.stat().st_size
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.numel() * tensor.element_size() > held:
            raise UserError(f"{path}: the tensor {name} is larger than the file")


def _refuse_surprises(path: Path) -> None:
    """UserError for compressed members and for pickles that name more than tensors."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                _check_pickle(path, file)
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or unpacked > path.stat().st_size:
                raise UserError(f"{path}: is compressed, which torch.save never does; not opened")
            for member in members:
                if member.filename.endswith(".pkl"):
                    _check_pickle(path, io.BytesIO(archive.read(member)))


def _check_pickle(path: Path, file: BinaryIO) -> None:
    """Read one pickle's operations, without doing them, up to its end."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL" and argument not in ALLOWED:
            raise UserError(f"{path}: holds {str(argument)[:80]!r} beside tensors; not opened")
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX"):
            raise pickle.UnpicklingError(f"{operation.name} in it")


def filled(network: nn.Module, tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Put a file's tensors into a network built on the meta device: nothing was allocated before
    names and shapes agreed.

    Raises UserError naming the tensors that are missing or of another size.
    """
    state = network.state_dict()
    wanted = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    kind = type(network).__name__
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise UserError(f"{path}: not a {kind} state dict, {listed('tensors', missing)} missing")
    wrong = [name for name in wanted if tensors[name].shape != wanted[name].shape]
    if wrong:
        raise UserError(
            f"{path}: not a {kind}, other sizes than expected in {listed('tensors', wrong)}"
        )
    ready = {name: torch.zeros((), dtype=torch.int64) for name in state.keys() - wanted.keys()}
    ready |= {name: tensors[name].float().clone() for name in wanted}
    network.load_state_dict(ready, assign=True)


def listed(what: str, names: list[str]) -> str:
    """'8 tensors (a, b, c, d, e, f and 2 more)'."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN_NAMES])}{more})"
