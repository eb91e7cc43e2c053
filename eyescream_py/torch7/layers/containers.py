"""Lua nn's containers, which torch.nn lacks or has otherwise, and layers that mix a table's parts.

Tables of tensors are Python lists. ``parameters()`` of every container runs in the order of Lua's
``getParameters``: children in order, weight before bias. Source: the Lua packages nn and dpnn, one
file per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .shapes import python_dim


class Parallel(nn.ModuleList):
    """A slice of ``input_dim`` for each child, outputs joined on ``output_dim`` (nn.Parallel)."""

    def __init__(self, input_dim: int, output_dim: int, *branches: nn.Module) -> None:
        super().__init__(branches)
        self.input_dim, self.output_dim = input_dim, output_dim

    def forward(self, x: Tensor) -> Tensor:
        slices = x.unbind(python_dim(self.input_dim))
        if len(slices) > len(self):
            raise ValueError(f"Parallel of {len(self)} children got {len(slices)} slices")
        # as in Lua, children without a slice have nothing to do
        outputs = [branch(part) for branch, part in zip(self, slices, strict=False)]
        return torch.cat(outputs, python_dim(self.output_dim))


class MapTable(nn.Module):
    """One layer for every entry of a list (nn.MapTable)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Sequence[Any]) -> list[Any]:
        return [self.layer(x) for x in inputs]


class Bottle(nn.Module):
    """A layer of inputs with ``n_input_dim`` dimensions; those in front are one to it (nn.Bottle).

    (A, B, ..., rest) -> the layer on (A * B * ..., rest) -> (A, B, ..., its rest).
    """

    def __init__(self, layer: nn.Module, n_input_dim: int = 2, n_output_dim: int = 2) -> None:
        super().__init__()
        self.layer, self.n_input_dim, self.n_output_dim = layer, n_input_dim, n_output_dim

    def forward(self, x: Tensor) -> Tensor:
        fused = x.dim() - self.n_input_dim + 1
        if fused <= 1:
            return self.layer(x)
        lead = x.shape[:fused]
        y = self.layer(x.reshape((-1, *x.shape[fused:])))
        return y.reshape((*lead[:-1], -1, *y.shape[1:]))


class ZipTable(nn.Module):
    """{{a1, a2}, {b1, b2}} -> {{a1, b1}, {a2, b2}} (nn.ZipTable)."""

    def forward(self, inputs: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [list(parts) for parts in zip(*inputs, strict=True)]


class ZipTableOneToMany(nn.Module):
    """{x, {b1, b2}} -> {{x, b1}, {x, b2}} (nn.ZipTableOneToMany)."""

    def forward(self, inputs: Sequence[Any]) -> list[list[Any]]:
        return [[inputs[0], part] for part in inputs[1]]


class CAddTensorTable(nn.Module):
    """{x, {b1, b2}} -> {x + b1, x + b2} (nn.CAddTensorTable)."""

    def forward(self, inputs: Sequence[Any]) -> list[Tensor]:
        return [inputs[0] + part for part in inputs[1]]


class ReverseTable(nn.Module):
    """A list from its end (nn.ReverseTable)."""

    def forward(self, inputs: Sequence[Any]) -> list[Any]:
        return list(inputs[::-1])


class MixtureTable(nn.Module):
    """Sum of experts, each times its gate (nn.MixtureTable).

    {gates (N,K) or (K), K experts (N,...) or (...)}: a list, or one tensor with them along
    ``dim``, by default the first after the batch.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Sequence[Any]) -> Tensor:
        gates, experts = inputs
        dim = gates.dim() - 1 if self.dim is None else python_dim(self.dim)
        if not isinstance(experts, Tensor):
            experts = torch.stack(list(experts), dim)
        dim %= experts.dim()
        shape = [1] * experts.dim()
        shape[dim] = gates.shape[-1]
        if gates.dim() == 2:
            shape[0] = gates.shape[0]
        return (gates.reshape(shape) * experts).sum(dim)


class MM(nn.Module):
    """Matrix product of two (N,K), (K,M), or of batches of such (nn.MM)."""

    def __init__(self, trans_a: bool = False, trans_b: bool = False) -> None:
        super().__init__()
        self.trans_a, self.trans_b = trans_a, trans_b

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        a, b = inputs
        a = a.transpose(-2, -1) if self.trans_a else a
        return a @ (b.transpose(-2, -1) if self.trans_b else b)


class MV(nn.Module):
    """Matrix (N,K) times vector (K), or batches of such (nn.MV)."""

    def __init__(self, trans: bool = False) -> None:
        super().__init__()
        self.trans = trans

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        matrix, vector = inputs
        return ((matrix.transpose(-2, -1) if self.trans else matrix) @ vector[..., None])[..., 0]


class CReLU(nn.Module):
    """ReLU of x and of -x, joined on the features (nn.CReLU).

    ``n_input_dims``: dimensions of a sample; the features are their first.
    """

    def __init__(self, n_input_dims: int) -> None:
        super().__init__()
        self.n_input_dims = n_input_dims

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, -x], int(x.dim() == self.n_input_dims + 1))
        return both.relu()


class ConcatTable(nn.ModuleList):
    """Give one input to every child; the list of their outputs (nn.ConcatTable)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__(branches)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [branch(x) for branch in self]


class ParallelTable(nn.ModuleList):
    """Give the i-th input to the i-th child; the list of their outputs (nn.ParallelTable)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__(branches)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if len(inputs) < len(self):
            raise ValueError(f"ParallelTable of {len(self)} children got {len(inputs)} inputs")
        return [branch(x) for branch, x in zip(self, inputs, strict=False)]  # as in Lua


class Concat(nn.ModuleList):
    """Give one input to every child and join the outputs on a 1-based dimension (nn.Concat)."""

    def __init__(self, dimension: int, *branches: nn.Module) -> None:
        super().__init__(branches)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], python_dim(self.dimension))


class SpatialPyramidPooling(Concat):
    """Branches that make rows of images, joined: (N,C,H,W) -> (N,F), or (C,H,W) -> (F) (inn)."""

    of_its_own = True

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__(-1, *branches)
