"""Pictures in Torch 7 files: one tensor, or a table as Lua programs kept their data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyescream_py.system.errors import UserError, why
from eyescream_py.torch7 import T7Error, Table, TorchObject, load
from eyescream_py.torch7.files.memory import Copies

# where {data=, labels=}, {X=, y=} and {train={data=, ...}, val=} have their pictures
_KEYS = ("data", "X", "images", "train", "trainData")
_LEVELS = 4  # of tables within tables; what is deeper, or in a cycle, is no data set
_FORMS = (
    "an (N,C,H,W) tensor, a list of pictures, or a table with one of these under "
    f"{', '.join(_KEYS[:-1])} or {_KEYS[-1]}"
)


def read_pictures(path: Path, channels: int, size: int, sized_by: str) -> Tensor:
    """(N,channels,size,size), uint8 or floats in 0..1, of a .t7 file.

    It may hold (N,H,W), (N,C*H*W) as mnist's, (C*H*W,N) as cifar-10's, a list of pictures or of
    {picture, label}, or a table with these; for tables with a part for training, that is taken.
    Raises UserError that names the file and what it holds instead.
    """
    try:
        found = _find(load(path), Copies(), _LEVELS)
    except (T7Error, OSError) as error:
        reason = why(error) if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}") from error
    if found is None:
        raise UserError(f"{path}: holds no pictures: {_FORMS}")
    images = _in_rows(found, channels, size)
    if tuple(images.shape[1:]) != (channels, size, size) or len(images) == 0:
        remedy = f"change {sized_by}, or the file" if sized_by else "give a file that has them"
        raise UserError(
            f"{path}: holds images of {tuple(images.shape)}, and (N,{channels},{size},{size}) are "
            f"needed; {remedy}"
        )
    return _in_range(images, path).contiguous()


def _find(value: Any, copies: Copies, levels: int) -> Tensor | None:
    """The pictures in a value of a file; None where there are none."""
    if isinstance(value, Tensor):
        return copies.allow(value) if value.ndim in (2, 3, 4) else None
    fields = value.fields if isinstance(value, TorchObject) else value
    if not isinstance(fields, Table) or levels == 0:
        return None
    for key in _KEYS:
        found = _find(fields.get(key), copies, levels - 1)
        if found is not None:  # else the pictures may be under another key
            turned = key == "X" and _of_matlab(fields)
            return found.transpose(2, 3) if turned else found
    return _stacked(fields, copies)


def _of_matlab(fields: Table) -> bool:
    """Whether mattorch made the table, as that of SVHN, which turns MATLAB's dimensions round: an
    (N,1) y into (1,N), and pictures of (H,W,C,N) into (N,C,W,H)."""
    X, y = fields.get("X"), fields.get("y")
    tensors = isinstance(X, Tensor) and isinstance(y, Tensor)
    return tensors and X.ndim == 4 and tuple(y.shape) == (1, len(X))


def _stacked(fields: Table, copies: Copies) -> Tensor | None:
    entries = [e.get(1) if isinstance(e, Table) else e for e in fields.to_list()]
    tensors = [copies.allow(e) for e in entries if isinstance(e, Tensor) and e.ndim in (2, 3)]
    alike = {(tensor.shape, tensor.dtype) for tensor in tensors}
    return torch.stack(tensors) if len(alike) == 1 and len(tensors) == len(entries) else None


def _in_rows(images: Tensor, channels: int, size: int) -> Tensor:
    values = channels * size * size
    if images.ndim == 2 and values in images.shape:
        rows = images if images.shape[1] == values else images.t()
        return rows.reshape(-1, channels, size, size)
    return images.unsqueeze(1) if images.ndim == 3 and channels == 1 else images


def _in_range(images: Tensor, path: Path) -> Tensor:
    if images.is_floating_point() and bool(((images >= 0) & (images <= 1)).all()):
        return images
    if images.dtype != torch.uint8:
        whole = (images >= 0) & (images <= 255) & (images == images.trunc())
        if not bool(whole.all()):
            raise UserError(
                f"{path}: its values are neither all within 0..1 nor all whole numbers of 0 to 255"
            )
    return images.to(torch.uint8)
