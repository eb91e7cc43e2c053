"""Stored values that are put back where they came from, and refused where they cannot be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fill(target: Tensor, stored: Any, name: str) -> None:
    """Copy `stored` (a tensor, or a number for one value) into `target`, on whatever device.

    Raises ValueError that names `name` where it is something else or of another shape.
    """
    if not isinstance(stored, Tensor | int | float):
        raise ValueError(f"{name}: {type(stored).__name__} where a tensor should stand")
    values = torch.as_tensor(stored)
    # one value may come as a tensor of one: Lua has no others
    if values.shape != target.shape and not values.numel() == target.numel() == 1:
        shapes = f"{tuple(values.shape)}, not {tuple(target.shape)}"
        raise ValueError(f"{name} has the shape {shapes}")
    target.copy_(values.reshape(target.shape))
