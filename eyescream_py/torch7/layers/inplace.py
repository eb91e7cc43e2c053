"""Layers that overwrite their input, as Lua's ``inplace`` option and nn.CAddTable(true) do.

What else reads the same memory then sees the new values: the other branches of a ConcatTable, for
one. Where nothing else can, `without_overwriting` takes the ordinary layer: same results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .activations import LogSoftMax, SoftMax, SoftMin
from .arithmetic import AddConstant, Exp, MulConstant, Sqrt
from .containers import ConcatTable, ParallelTable
from .shapes import Replicate, Reshape, Squeeze, Unsqueeze, View
from .simple import AddConstantTensor
from .stn import ConstAffine
from .stochastic import Dropout
from .tables import CAddTable, FlattenTable, NarrowTable, SelectTable, SplitTable, in_shape

# The classes whose Lua constructor has an option for it; cudnn's Sigmoid and Tanh have it too.
LUA_CLASSES = (
    *("ReLU", "ReLU6", "Threshold", "LeakyReLU", "ELU", "HardTanh", "Clamp", "RReLU", "Dropout"),
    *("MulConstant", "AddConstant", "Sigmoid", "Tanh", "ClippedReLU", "SpatialConstDiagonal"),
)


DRAWS = (Dropout, nn.RReLU)  # their slopes are numbers drawn, not what is in memory
# Layers whose slope Lua computes from their output, which a later layer may have written over.
_READS_OUTPUT = (
    *(nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus, Exp, Sqrt),
    *(SoftMax, SoftMin, LogSoftMax),
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


class _InMemory(torch.autograd.Function):
    """A layer's output over its input; its slope is by what the memory holds at the backward pass.

    That may be what a later layer has written there: layers before this one see it as well.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        y = same_memory(x).copy_(layer(x.clone()))
        ctx.layer = layer
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        grad = grads[0] * slope(ctx.layer, y)
        if again := put_back(ctx.layer, y):
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(again)
        return grad, None


def slope(layer: nn.Module, y: Tensor) -> Tensor:
    """The derivative of an element-wise layer that has input and output in one memory, ``y``."""
    if isinstance(layer, nn.ELU):
        return torch.where(y <= 0, y + layer.alpha, 1)
    if isinstance(layer, nn.Tanh):
        return 1 - y * y
    if isinstance(layer, nn.Sigmoid):
        return y * (1 - y)
    with torch.enable_grad():
        x = y.detach().clone().requires_grad_()
        return torch.autograd.grad(layer(x).sum(), x)[0]


def put_back(layer: nn.Module, y: Tensor) -> Callable[[], object] | None:
    """Undo a constant in its memory for the rest of the backward pass, as Lua does for good.

    What returns is to be called when that is over.
    """
    memory = same_memory(y)
    after = memory.clone()
    if isinstance(layer, MulConstant):
        memory /= layer.constant
    elif isinstance(layer, AddConstant | AddConstantTensor):
        memory -= layer.constant
    else:
        return None
    return lambda: memory.copy_(after)


class InPlace(nn.Module):
    """An element-wise layer whose output is written over its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        needs = torch.is_grad_enabled() and x.requires_grad
        if needs and not isinstance(self.layer, DRAWS):
            y: Tensor = _InMemory.apply(x, self.layer)
            return y
        y = self.layer(x.clone() if needs else x)
        return x if y is x else overwrite(x, y)


class _AddInPlace(torch.autograd.Function):
    """The sum in the first tensor's memory."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.shapes = [x.shape for x in inputs]
        total = same_memory(inputs[0])
        for x in inputs[1:]:
            total += in_shape(x, total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return tuple(grads[0].view(shape) for shape in ctx.shapes)


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
    View,
    Reshape,
    Squeeze,
    Unsqueeze,
    Replicate,
    SplitTable,
    SelectTable,
    NarrowTable,
    FlattenTable,
    InPlace,
    CAddTableInPlace,
)


_SAME_VALUES = (
    nn.Identity,
    View,
    Reshape,
    Squeeze,
    Unsqueeze,
)


def is_fresh(module: nn.Module) -> bool:
    """Whether the output (of a table: its first tensor) is memory that nothing else reads."""
    if isinstance(module, nn.Sequential):
        chain = [child for child in module if not isinstance(child, _PASS_ON)]
        return bool(chain) and chain[-1] is module[-1] and is_fresh(chain[-1])
    if isinstance(module, ConcatTable):
        return len(module) > 0 and is_fresh(module[0]) and not overwrites(module)
    if isinstance(module, ParallelTable):
        return len(module) > 0 and is_fresh(module[0])
    return not isinstance(module, _PASS_ON) and type(module).__module__.startswith(
        ("torch.nn.modules.", "eyescream_py.torch7.layers.")
    )


def overwrites(module: nn.Module) -> bool:
    """Whether a layer inside writes its output over its input."""
    return any(isinstance(m, InPlace | CAddTableInPlace) for m in module.modules())


def _reads_output(module: nn.Module) -> bool:
    last = module[-1] if isinstance(module, nn.Sequential) and len(module) else module
    return isinstance(last, (*_READS_OUTPUT, InPlace))


def _feels_sum(table: nn.Module) -> bool:
    """Whether a sum in the first branch's memory, or its one gradient, changes a slope before."""
    branches = list(table) if isinstance(table, nn.ModuleList) else [table]
    last = [b[-1] if isinstance(b, nn.Sequential) and len(b) else b for b in branches]
    return _reads_output(branches[0]) or any(isinstance(layer, InPlace) for layer in last)


def _keeps_slope(layer: nn.Module) -> bool:
    """Whether an element-wise layer's slope is the same by its output as by its input."""
    if isinstance(layer, nn.Threshold):
        return layer.value <= layer.threshold
    if isinstance(layer, nn.LeakyReLU):
        return layer.negative_slope >= 0
    return not isinstance(layer, nn.ELU) or layer.alpha >= 0


def _is_touched(layer: nn.Module, later: Sequence[nn.Module], shares: bool) -> bool:
    """Whether what comes later on the memory of a layer's output may change its slope."""
    fixed = isinstance(layer, (*DRAWS, MulConstant, AddConstant, ConstAffine))
    for child in later:
        if isinstance(child, _SAME_VALUES):
            continue
        harmless = fixed or (_goes_by_sign(layer) and _keeps_signs(child))
        if not (isinstance(child, InPlace) and harmless):
            return overwrites(child)
    return shares


def _goes_by_sign(layer: nn.Module) -> bool:
    """Whether a layer's slope is by whether its output is above 0."""
    if isinstance(layer, nn.Threshold):
        return layer.threshold == layer.value == 0
    return isinstance(layer, nn.ReLU) or (isinstance(layer, nn.LeakyReLU) and _keeps_slope(layer))


def _keeps_signs(child: nn.Module) -> bool:
    """Whether positive numbers stay so, or no gradient comes back to them, and others never are.

    Constants are undone before the layers before them have their turn.
    """
    layer = child.layer if isinstance(child, InPlace) else child
    return _goes_by_sign(layer) or isinstance(layer, (Dropout, MulConstant, AddConstant))


def without_overwriting(children: Sequence[nn.Module], shares: bool = False) -> list[nn.Module]:
    """The children of a chain, those that overwrite only what nothing else reads made ordinary.

    That is: nothing later in the chain, and no slope in the backward pass. ``shares``: what comes
    out of the chain goes into an overwriting sum, whose one gradient a last layer overwrites too.
    """
    kept: list[nn.Module] = []
    for place, child in enumerate(children):
        safe = bool(kept) and is_fresh(kept[-1])
        if safe and isinstance(child, InPlace):
            touched = _is_touched(child.layer, children[place + 1 :], shares)
            if not touched and not _reads_output(kept[-1]) and _keeps_slope(child.layer):
                child = child.layer
        elif safe and isinstance(child, CAddTableInPlace) and not _feels_sum(kept[-1]):
            child = CAddTable()
        kept.append(child)
    return kept
