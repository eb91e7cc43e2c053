"""Lua nn's layers on tables of tensors (Python lists).

Indices and dimensions count from 1. Source: the Lua package nn, one file per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arithmetic import with_slope
from .shapes import at_least_1d, batched_dim, python_dim


class CSubTable(nn.Module):
    """First tensor minus the second (nn.CSubTable)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0] - in_shape(inputs[1], inputs[0])


class CDivTable(nn.Module):
    """First tensor divided by the second (nn.CDivTable)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0] / in_shape(inputs[1], inputs[0])


class CMaxTable(nn.Module):
    """Element-wise maximum of a list of tensors (nn.CMaxTable).

    Of equals the first, which gets the gradient; NaN is above nothing.
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        y = inputs[0]
        for x in inputs[1:]:
            x = in_shape(x, y)
            y = torch.where(x > y, x, y)
        return y


class CMinTable(nn.Module):
    """Element-wise minimum of a list of tensors (nn.CMinTable); otherwise as CMaxTable."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        y = inputs[0]
        for x in inputs[1:]:
            x = in_shape(x, y)
            y = torch.where(x < y, x, y)
        return y


class DotProduct(nn.Module):
    """Scalar product of the rows of two (N,F) -> (N) (nn.DotProduct)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return at_least_1d((inputs[0] * inputs[1]).sum(-1))


class CosineDistance(nn.Module):
    """Cosine of the angle between the rows of two (N,F) -> (N) (nn.CosineDistance)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        first, second = inputs
        squares = (first.square().sum(-1) + 1e-12) * (second.square().sum(-1) + 1e-12)
        return at_least_1d((first * second).sum(-1) / squares.sqrt())


class PairwiseDistance(nn.Module):
    """The ``norm``-norm of the difference of the rows of two (N,F) -> (N) (nn.PairwiseDistance).

    The gradient is Lua's: divided by (distance + 1e-6)^(norm - 1).
    """

    def __init__(self, norm: float = 2.0) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        difference = inputs[0] - inputs[1]
        fixed = difference.detach()
        distance = at_least_1d(torch.linalg.vector_norm(fixed, self.norm, dim=-1))
        if self.norm == 1:
            slope = fixed.sign()
        else:
            slope = fixed * fixed.abs().pow(self.norm - 2) if self.norm > 2 else fixed
            slope = slope * (distance + 1e-6).pow(1 - self.norm)[..., None].reshape(
                (*fixed.shape[:-1], 1)
            )
        return with_slope(distance, at_least_1d((slope * difference).sum(-1)))


class SplitTable(nn.Module):
    """The list of slices along a dimension (nn.SplitTable)."""

    def __init__(self, dimension: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension, self.n_input_dims = dimension, n_input_dims

    def forward(self, x: Tensor) -> list[Tensor]:
        parts = x.unbind(batched_dim(self.dimension, x, self.n_input_dims))
        return [at_least_1d(part) for part in parts]


class SelectTable(nn.Module):
    """One entry of a list; a negative index counts from the end (nn.SelectTable)."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, inputs: Sequence[Any]) -> Any:
        return inputs[python_dim(self.index)]


class NarrowTable(nn.Module):
    """``length`` entries of a list from ``offset`` on (nn.NarrowTable)."""

    def __init__(self, offset: int, length: int = 1) -> None:
        super().__init__()
        self.offset, self.length = offset, length

    def forward(self, inputs: Sequence[Any]) -> list[Any]:
        return list(inputs[self.offset - 1 : self.offset - 1 + max(self.length, 0)])


class FlattenTable(nn.Module):
    """All tensors of nested lists in one list (nn.FlattenTable)."""

    def forward(self, inputs: Any) -> list[Tensor]:
        if isinstance(inputs, Tensor):
            return [inputs]
        return [tensor for entry in inputs for tensor in self.forward(entry)]


class DepthConcat(nn.ModuleList):
    """Concat whose smaller maps are padded with zeros around their centre (nn.DepthConcat)."""

    def __init__(self, dimension: int, *branches: nn.Module) -> None:
        super().__init__(branches)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self]
        dim = python_dim(self.dimension) % outputs[0].dim()
        largest = [max(sizes) for sizes in zip(*(y.shape for y in outputs), strict=True)]
        padded = []
        for y in outputs:
            spare = [0 if d == dim else big - y.shape[d] for d, big in enumerate(largest)]
            edges = [edge for s in reversed(spare) for edge in (s // 2, s - s // 2)]
            padded.append(F.pad(y, edges) if any(edges) else y)
        return torch.cat(padded, dim)


class JoinTable(nn.Module):
    """Join a list of tensors on a 1-based dimension (nn.JoinTable).

    ``JoinTable(2)`` joins (N,F1) and (N,F2) to (N,F1+F2). With ``n_input_dims`` the dimension
    counts without the batch if the inputs have one dimension more than that.
    """

    def __init__(self, dimension: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension = dimension
        self.n_input_dims = n_input_dims

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(inputs), batched_dim(self.dimension, inputs[0], self.n_input_dims))

    def extra_repr(self) -> str:
        return f"{self.dimension}"


def in_shape(x: Tensor, first: Tensor) -> Tensor:
    """``x`` in the shape of ``first``: Lua's arithmetic goes by elements, not shapes."""
    same = x.shape == first.shape or x.numel() != first.numel()
    return x if same else x.reshape(first.shape)


class CAddTable(nn.Module):
    """Sum of a list of tensors (nn.CAddTable)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = total + in_shape(x, total)
        return total


class CMulTable(nn.Module):
    """Product of a list of tensors (nn.CMulTable)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        product = inputs[0]
        for x in inputs[1:]:
            product = product * in_shape(x, product)
        return product
