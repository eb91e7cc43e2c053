"""Layers that overwrite their input, as Lua's ``inplace`` option and nn.CAddTable(true) do.

What else reads the same memory then sees the new values: the other branches of a ConcatTable, for
one. Where nothing else can, `without_overwriting` takes the ordinary layer, which gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.torch7 import layers, layers_more, layers_tables
from eyescream_py.torch7.layers import CAddTable, in_shape

# The classes whose Lua constructor has an option for it; cudnn's Sigmoid and Tanh have it too.
LUA_CLASSES = (
    *("ReLU", "ReLU6", "Threshold", "LeakyReLU", "ELU", "HardTanh", "Clamp", "RReLU", "Dropout"),
    *("MulConstant", "AddConstant", "Sigmoid", "Tanh", "ClippedReLU"),
)


class _Overwrite(torch.autograd.Function):
    """``y``, in the memory of ``x``. Autograd takes it for a new tensor, as Lua's backward does."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor) -> Tensor:
        same = torch.empty(0, dtype=x.dtype, device=x.device)
        same.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
        return same.copy_(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


def overwrite(x: Tensor, y: Tensor) -> Tensor:
    """Put ``y`` into the memory of ``x`` and return it; gradients flow to ``y`` alone."""
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return _Overwrite.apply(y, x)
    return x.copy_(y)


class InPlace(nn.Module):
    """An element-wise layer whose output is written over its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        own = x.clone() if torch.is_grad_enabled() and x.requires_grad else x
        y = self.layer(own)  # its backward needs the values of before
        return x if y is x else overwrite(x, y)


class CAddTableInPlace(nn.Module):
    """nn.CAddTable(true): add to the first tensor, one after the other, in its memory."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = overwrite(total, total + in_shape(x, total))
        return total


# Layers whose output is (part of) their input's memory, in Lua and here.
_PASS_ON = (
    nn.Identity,
    layers.View,
    layers.Reshape,
    layers_more.Squeeze,
    layers_more.Unsqueeze,
    layers_more.Replicate,
    layers_tables.SplitTable,
    layers_tables.SelectTable,
    layers_tables.NarrowTable,
    layers_tables.FlattenTable,
    InPlace,
    CAddTableInPlace,
)


def is_fresh(module: nn.Module) -> bool:
    """Whether the output (of a table: its first tensor) is memory that nothing else reads."""
    if isinstance(module, nn.Sequential):
        chain = [child for child in module if not isinstance(child, _PASS_ON)]
        return bool(chain) and chain[-1] is module[-1] and is_fresh(chain[-1])
    if isinstance(module, layers.ConcatTable):
        return len(module) > 0 and is_fresh(module[0]) and not _overwrites(module)
    if isinstance(module, layers.ParallelTable):
        return len(module) > 0 and is_fresh(module[0])
    return not isinstance(module, _PASS_ON) and type(module).__module__.startswith(
        ("torch.nn.modules.", "eyescream_py.torch7.layers")
    )


def _overwrites(module: nn.Module) -> bool:
    return any(isinstance(m, InPlace | CAddTableInPlace) for m in module.modules())


def without_overwriting(children: Sequence[nn.Module]) -> list[nn.Module]:
    """The children of a chain, those that overwrite only what nothing else reads made ordinary."""
    kept: list[nn.Module] = []
    for child in children:
        safe = bool(kept) and is_fresh(kept[-1])
        if safe and isinstance(child, InPlace):
            child = child.layer
        elif safe and isinstance(child, CAddTableInPlace):
            child = CAddTable()
        kept.append(child)
    return kept
