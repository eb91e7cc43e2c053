"""Layers that overwrite their input, as Lua's ``inplace`` option and nn.CAddTable(true) do.

What else reads the same memory then sees the new values: the other branches of a ConcatTable, for
one. Where nothing else can, `without_overwriting` takes the ordinary layer: same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.torch7 import layers, layers_more, layers_tables
from eyescream_py.torch7.layers import CAddTable, ConcatTable, in_shape

# The classes whose Lua constructor has an option for it; cudnn's Sigmoid and Tanh have it too.
LUA_CLASSES = (
    *("ReLU", "ReLU6", "Threshold", "LeakyReLU", "ELU", "HardTanh", "Clamp", "RReLU", "Dropout"),
    *("MulConstant", "AddConstant", "Sigmoid", "Tanh", "ClippedReLU"),
)


def same_memory(x: Tensor) -> Tensor:
    """Another tensor over the memory of ``x``, which autograd knows nothing of."""
    same = torch.empty(0, dtype=x.dtype, device=x.device)
    return same.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())


class _Overwrite(torch.autograd.Function):
    """``y``, in the memory of ``x``. Autograd takes it for a new tensor, as Lua's backward does."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor) -> Tensor:
        return same_memory(x).copy_(y)

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


class _AddInPlace(torch.autograd.Function):
    """The sum in the first tensor's memory; the gradients of all tensors are one memory."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.shapes = [x.shape for x in inputs]
        total = same_memory(inputs[0])
        for x in inputs[1:]:
            total += in_shape(x, total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        shared = grads[0].clone()
        views = [shared.view(shape) for shape in ctx.shapes]
        for view in views:
            view.t7_shared = True  # type: ignore[attr-defined]
        return tuple(views)


class _InOrder(torch.autograd.Function):
    """Branches over one memory. Backward goes from the first to the last, as Lua's does.

    An overwriting layer then also writes its gradient over the one that it gets.
    """

    @staticmethod
    def forward(ctx: Any, branches: Sequence[nn.Module], x: Tensor, *parameters: Tensor) -> Any:
        ctx.runs, ctx.parameters = [], parameters
        for branch in branches:
            leaf = same_memory(x).requires_grad_()
            if isinstance(branch, InPlace):
                y = same_memory(x).copy_(branch.layer(x.clone()))
            else:
                with torch.enable_grad():
                    y = branch(leaf)
            ctx.runs.append((branch, leaf, y))
        return tuple(same_memory(y.detach()) for _, _, y in ctx.runs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        sums: list[Any] = [None] * (1 + len(ctx.parameters))
        for (branch, leaf, y), grad in zip(ctx.runs, grads, strict=True):
            if isinstance(branch, InPlace):
                found: Any = (slope_in_memory(branch.layer, leaf.detach(), grad),)
                if hasattr(grad, "t7_shared"):
                    grad.copy_(found[0])
            else:
                wanted = (leaf, *ctx.parameters)
                found = torch.autograd.grad(y, wanted, grad, allow_unused=True, retain_graph=True)
            for i, part in enumerate(found):
                if part is not None:
                    sums[i] = part.clone() if sums[i] is None else sums[i] + part
        return None, *sums


_ONE_TENSOR = ("JoinTable", "MixtureTable", "LookupTable", "DotProduct")


def returns_table(module: nn.Module) -> bool:
    """Whether a layer's output may be a list of tensors."""
    if isinstance(module, nn.Sequential):
        return len(module) == 0 or returns_table(module[-1])
    name = type(module).__name__
    elementwise = name[:1] == "C" and name[1:2].isupper()  # CAddTable and its like
    tables = "Table" in name and name not in _ONE_TENSOR and not elementwise
    return tables or name in ("GraphModule", "Identity")


def slope_in_memory(layer: nn.Module, memory: Tensor, grad: Tensor) -> Tensor:
    """The gradient as Lua has it where the layer's input was overwritten: by what is there now."""
    if isinstance(layer, nn.ELU):
        return grad * torch.where(memory <= 0, memory + layer.alpha, 1)
    with torch.enable_grad():
        x = memory.clone().requires_grad_()
        return torch.autograd.grad(layer(x), x, grad)[0]


class ConcatTableInOrder(ConcatTable):
    """ConcatTable of which a branch overwrites the input that others read too."""

    def forward(self, x: Any) -> list[Any]:
        parameters = [p for p in self.parameters() if p.requires_grad]
        needs = isinstance(x, Tensor) and torch.is_grad_enabled()
        if not needs or not (x.requires_grad or parameters):
            return super().forward(x)
        return list(_InOrder.apply(tuple(self), x, *parameters))


class CAddTableInPlace(nn.Module):
    """nn.CAddTable(true): add to the first tensor, one after the other, in its memory."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return _AddInPlace.apply(*inputs)
        total = inputs[0]
        for x in inputs[1:]:
            total += in_shape(x, total)
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
    if isinstance(module, ConcatTable):
        return len(module) > 0 and is_fresh(module[0]) and not overwrites(module)
    if isinstance(module, layers.ParallelTable):
        return len(module) > 0 and is_fresh(module[0])
    return not isinstance(module, _PASS_ON) and type(module).__module__.startswith(
        ("torch.nn.modules.", "eyescream_py.torch7.layers")
    )


def overwrites(module: nn.Module) -> bool:
    """Whether a layer inside writes its output over its input."""
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
