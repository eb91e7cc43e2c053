"""Backward passes in Lua's order, for networks of branches that overwrite what others read.

There a layer's slope is what the memory of its input or output holds when its turn comes: branches
go from the first to the last, layers from the last to the first. What overwrites its input also
overwrites its gradient, which nn.CAddTable(true) gives to all of its inputs alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .activations import LogSoftMax, SoftMax, SoftMin, SoftPlus, feature_dim
from .arithmetic import AddConstant, Exp, MulConstant, Sqrt
from .containers import Concat, ConcatTable, ParallelTable
from .inplace import (
    DRAWS,
    CAddTableInPlace,
    InPlace,
    overwrites,
    put_back,
    same_memory,
    slope,
)
from .shapes import Reshape, View, python_dim
from .stochastic import StochasticLayer
from .tables import CAddTable

Back = Callable[[Any], Any]  # the gradient of an output -> that of the input


def memory_of(value: Any) -> Any:
    """The same memory, in tensors that autograd knows nothing of."""
    return same_memory(value) if isinstance(value, Tensor) else [memory_of(part) for part in value]


def flat(value: Any) -> list[Tensor]:
    """The tensors of nested lists, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)]


def shaped(like: Any, tensors: Any) -> Any:
    """An iterator's tensors in nested lists as ``like``."""
    if isinstance(like, Tensor):
        return next(tensors)
    return [shaped(part, tensors) for part in like]


class Run:
    """A forward pass; ``gradients`` are the parameters', filled by the backward pass."""

    def __init__(self) -> None:
        self.gradients: dict[int, Tensor] = {}
        self.undone: list[Callable[[], object]] = []  # to be done again after the backward pass

    def forward(self, module: nn.Module, x: Any) -> tuple[Any, Back]:
        """The output, and the backward pass of this layer."""
        if isinstance(module, nn.Sequential):
            return self._chain(module, x)
        if isinstance(module, ConcatTable | Concat):
            return self._branches(module, x)
        if isinstance(module, ParallelTable):
            runs = [self.forward(m, part) for m, part in zip(module, x, strict=False)]
            backs = [back for _, back in runs]
            return [y for y, _ in runs], lambda g: [b(p) for b, p in zip(backs, g, strict=True)]
        if isinstance(module, CAddTableInPlace | CAddTable):
            return self._sum(module, x)
        if isinstance(module, InPlace):
            return self._overwriting(module.layer, x)
        if isinstance(module, nn.Identity):
            return x, lambda g: g
        if isinstance(module, View | Reshape):
            return module(x), lambda g: g.reshape(x.shape)
        return self._leaf(module, x)

    def _chain(self, module: nn.Sequential, x: Any) -> tuple[Any, Back]:
        backs = []
        for child in module:
            x, back = self.forward(child, x)
            backs.append(back)

        def backward(grad: Any) -> Any:
            for back in reversed(backs):
                grad = back(grad)
            return grad

        return x, backward

    def _branches(self, module: Any, x: Any) -> tuple[Any, Back]:
        runs = [self.forward(branch, x) for branch in module]
        outputs = [y for y, _ in runs]
        joins = isinstance(module, Concat)
        dim = python_dim(module.dimension) if joins else 0
        sizes = [y.shape[dim] for y in outputs] if joins else []

        def backward(grads: Any) -> Any:
            parts = grads.split(sizes, dim) if joins else grads
            total: list[Tensor] = []
            for (_, back), grad in zip(runs, parts, strict=True):
                found = flat(back(grad))
                if total:
                    for ours, theirs in zip(total, found, strict=True):
                        ours.add_(theirs)
                else:
                    total = [tensor.clone() for tensor in found]
            return shaped(x, iter(total))

        return torch.cat(outputs, dim) if joins else outputs, backward

    def _sum(self, module: nn.Module, x: Any) -> tuple[Any, Back]:
        shares = isinstance(module, CAddTableInPlace)
        shapes = [part.shape for part in x]
        return module(x), lambda g: [(g if shares else g.clone()).reshape(s) for s in shapes]

    def _overwriting(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, Back]:
        if isinstance(layer, DRAWS):  # its slope is what it draws now
            with torch.enable_grad():
                before = x.clone().requires_grad_()
                y = layer(before)
                (drawn,) = torch.autograd.grad(y.sum(), before)
            x.copy_(y.detach())
            return x, lambda g: g.mul_(drawn)
        x.copy_(layer(x.clone()))

        def backward(grad: Tensor) -> Tensor:
            grad.mul_(slope(layer, x))
            if again := put_back(layer, x):
                self.undone.append(again)
            return grad

        return x, backward

    def _leaf(self, module: nn.Module, x: Any) -> tuple[Any, Back]:
        by_output = next((f for kind, f in _BY_OUTPUT if isinstance(module, kind)), None)
        if by_output is not None:
            output = module(x)
            return output, lambda g: by_output(module, output, g)
        if not _repeats(module):  # the graph's saved tensors are the memory itself
            leaves, y = self._graph(module, memory_of(x))
            return memory_of(y), lambda g: self._slopes(module, leaves, y, g)
        # without weights: anew, of what its input's memory holds then
        return module(x), lambda g: self._slopes(module, *self._graph(module, _copy(x)), g)

    def _graph(self, module: nn.Module, x: Any) -> tuple[Any, Any]:
        for tensor in flat(x):
            tensor.requires_grad_(tensor.is_floating_point())
        with torch.enable_grad():
            return x, module(x)

    def _slopes(self, module: nn.Module, x: Any, y: Any, grad: Any) -> Any:
        inputs, own = flat(x), [p for p in module.parameters() if p.requires_grad]
        wanted = [tensor for tensor in inputs if tensor.requires_grad] + own
        pairs = [(a, b) for a, b in zip(flat(y), flat(grad), strict=True) if a.requires_grad]
        ys, gs = [a for a, _ in pairs], [b for _, b in pairs]
        found = torch.autograd.grad(ys, wanted, gs, retain_graph=True, allow_unused=True)
        by_tensor = dict(zip(map(id, wanted), found, strict=True))
        for parameter in own:
            gradient, sofar = by_tensor[id(parameter)], self.gradients.get(id(parameter))
            if gradient is not None:
                self.gradients[id(parameter)] = gradient if sofar is None else sofar + gradient
        slopes = [by_tensor.get(id(tensor)) for tensor in inputs]
        zeros = (
            torch.zeros_like(tensor) if slope is None else slope
            for tensor, slope in zip(inputs, slopes, strict=True)
        )
        return shaped(x, zeros)


_ARITHMETIC = ("modules.activation", "layers.activations", "layers.arithmetic", "layers.shapes")


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else [_copy(part) for part in value]


def _repeats(module: nn.Module) -> bool:
    """Whether a layer has no weights, and neither counts nor draws when it runs once more."""
    if [*module.parameters(), *module.buffers()] or isinstance(module, StochasticLayer | nn.RReLU):
        return False
    return not module.training or type(module).__module__.endswith(_ARITHMETIC)


def _soft_max(module: nn.Module, y: Tensor, grad: Tensor) -> Tensor:
    slopes = y * (grad - (y * grad).sum(feature_dim(y), keepdim=True))
    return -slopes if isinstance(module, SoftMin) else slopes


def _log_soft_max(module: nn.Module, y: Tensor, grad: Tensor) -> Tensor:
    return grad - y.exp() * grad.sum(feature_dim(y), keepdim=True)


# Layers whose slope Lua computes from their output.
_BY_OUTPUT: tuple[tuple[Any, Callable[[Any, Tensor, Tensor], Tensor]], ...] = (
    ((nn.Tanh, nn.Sigmoid, nn.ELU), lambda module, y, grad: grad * slope(module, y)),
    (SoftPlus, lambda module, y, grad: grad * module.slope(y)),
    (Exp, lambda module, y, grad: grad * y),
    (Sqrt, lambda module, y, grad: torch.where(y == 0, 0, 0.5 * grad / y)),
    ((SoftMax, SoftMin), _soft_max),
    (LogSoftMax, _log_soft_max),
)


class _InOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: nn.Module, x: Any, made: list[Any], *tensors: Tensor) -> Any:
        ctx.run, ctx.x = Run(), x
        ctx.parameters = tensors[len(flat(x)) :]
        y, ctx.back = ctx.run.forward(network, memory_of(x))
        ctx.like = y
        made.append(y)
        return tuple(flat(memory_of(y)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.run.gradients.clear()
        given = shaped(ctx.like, iter([grad.clone() for grad in grads]))
        found = flat(ctx.back(given))
        while ctx.run.undone:
            ctx.run.undone.pop()()
        return None, None, None, *found, *(ctx.run.gradients.get(id(p)) for p in ctx.parameters)


class _Ordered:
    """A container of which a backward pass is Lua's; see this file's beginning."""

    def forward(self, x: Any) -> Any:
        layer: Any = self
        parameters = [p for p in layer.parameters() if p.requires_grad]
        inputs = flat(x)
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in (*inputs, *parameters)):
            return super().forward(x)  # type: ignore[misc]
        made: list[Any] = []
        tensors = _InOrder.apply(layer, x, made, *inputs, *parameters)
        return shaped(made[0], iter(tensors))


class SequentialInOrder(_Ordered, nn.Sequential):
    """A chain with branches in it that overwrite each other's memory."""


class ConcatTableInOrder(_Ordered, ConcatTable):
    """A ConcatTable of which a branch overwrites the input that others read too."""


_CONSTANTS = (MulConstant, AddConstant)  # Lua undoes them in the backward pass, one by one


def needs_order(children: Sequence[nn.Module]) -> bool:
    """Whether layers of a chain overwrite what other branches in it may read."""
    parts = list(nn.ModuleList(children).modules())
    kinds = ConcatTable | Concat | CAddTableInPlace
    constants = [p for p in parts if isinstance(p, InPlace) and isinstance(p.layer, _CONSTANTS)]
    branches = any(isinstance(part, kinds) for part in parts)
    return len(constants) > 1 or (branches and overwrites(nn.ModuleList(children)))
