"""Lua nn's layers with weights that are no convolutions, beyond torch.nn's own.

Source: the Lua packages nn and dpnn, one file per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bilinear(nn.Module):
    """x1 * weight[o] * x2 for each output o, of {(N,F1), (N,F2)} (nn.Bilinear)."""

    def __init__(self, size1: int, size2: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, size1, size2))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return F.bilinear(inputs[0], inputs[1], self.weight, self.bias)


class Euclidean(nn.Module):
    """Distance from each of ``outputs`` centres (nn.Euclidean). Weight (in, out).

    (N,in) or (in) -> (N,out) or (out). As in Lua the slope is divided by the distance + 1e-7.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        difference = x[..., None] - self.weight
        return distance(difference, difference.detach())


class WeightedEuclidean(nn.Module):
    """Euclidean with a scale for each input and centre (nn.WeightedEuclidean)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.diagCov = nn.Parameter(torch.ones(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        difference = (x[..., None] - self.weight) * self.diagCov
        return distance(difference, difference.detach())


def distance(difference: Tensor, fixed: Tensor) -> Tensor:
    """The norm over the last dimension but one, with the slope difference / (norm + 1e-7)."""
    norm = torch.linalg.vector_norm(fixed, dim=-2)
    if not difference.requires_grad:
        return norm
    slope = (fixed / (norm + 1e-7)[..., None, :] * difference).sum(-2)
    return norm + (slope - slope.detach())


class Cosine(nn.Module):
    """Cosine of the angle to each of ``outputs`` rows of the weight (out, in) (nn.Cosine)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(self.weight, dim=1) + 1e-12
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-12
        return F.linear(x, self.weight) / lengths / norm


class CAdd(nn.Module):
    """Add a learnt tensor of ``sizes``, to each sample or broadcast (nn.CAdd)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(sizes))

    def forward(self, x: Tensor) -> Tensor:
        if self.bias.numel() == x.numel():
            return x + self.bias.reshape(x.shape)
        if self.bias.dim() == x.dim():
            return x + self.bias
        return (x.reshape(len(x), -1) + self.bias.flatten()).reshape(x.shape)


class PartialLinear(nn.Module):
    """Linear of which only the outputs ``partition`` are computed (nn.PartialLinear).

    ``partition`` counts from 1. Weight (out, in), bias (1, out).
    """

    partition: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(1, outputs)) if bias else None
        self.register_buffer("partition", torch.arange(1, outputs + 1))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.partition.long() - 1
        bias = None if self.bias is None else self.bias[0, rows]
        return F.linear(x, self.weight[rows], bias)


class SparseLinear(nn.Module):
    """Linear on pairs (index from 1, value) (nn.SparseLinear).

    (n,2) -> (out); a list of such, or (N,n,2) -> (N,out). ``grad_input``: gradients flow to values.
    """

    def __init__(self, inputs: int, outputs: int, grad_input: bool = False) -> None:
        super().__init__()
        self.grad_input = grad_input
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(x, Tensor) and x.dim() == 2:
            return self._one(x)
        return torch.stack([self._one(sample) for sample in x])

    def _one(self, pairs: Tensor) -> Tensor:
        values = pairs[:, 1] if self.grad_input else pairs[:, 1].detach()
        return self.weight[:, pairs[:, 0].long() - 1] @ values + self.bias


class IndexLinear(nn.Module):
    """Linear on keys and values (nn.IndexLinear). Weight (in, normalize + out).

    {keys, values} of one sample, {list of keys, list of values}, or {keys, values, sizes} with all
    samples in a row. ``offset`` is added to keys, which count from 1 with -1. ``normalize`` 4:
    values are divided by the largest seen while training, as the first columns tell.
    """

    def __init__(self, inputs: int, outputs: int, normalize: int = 0, offset: int = -1) -> None:
        super().__init__()
        self.normalize, self.offset = normalize, offset
        self.weight = nn.Parameter(torch.zeros(inputs, outputs + normalize))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: Sequence[Any]) -> Tensor:
        keys, values = inputs[0], inputs[1]
        if len(inputs) == 3:
            sizes = torch.as_tensor(inputs[2]).reshape(-1).tolist()
            keys, values = keys.split(sizes), values.split(sizes)
        elif isinstance(keys, Tensor) and isinstance(values, Tensor):
            return self._one(keys, values)
        pairs = zip(keys, values, strict=True)
        return torch.stack([self._one(k, v) for k, v in pairs])

    def _one(self, keys: Tensor, values: Tensor) -> Tensor:
        rows = self.weight[keys.long() + self.offset]
        if self.normalize:
            self._note(keys.long() + self.offset, values)
            largest, inverse, _, shift = self.weight[keys.long() + self.offset, :4].unbind(1)
            scaled = torch.where(values.abs() > largest, values.sign(), values * inverse)
            values = scaled + shift
        return values.detach() @ rows[:, self.normalize :] + self.bias

    @torch.no_grad()
    def _note(self, rows: Tensor, values: Tensor) -> None:
        """While training, keep the largest |value| of each key and its inverse."""
        if not self.training:
            return
        for row, value in zip(rows.tolist(), values.abs().tolist(), strict=True):
            if value > self.weight[row, 0]:
                self.weight[row, 0], self.weight[row, 1] = value, 1 / value
            self.weight[row, 2] = 1


class LookupTableMaxNorm(nn.Module):
    """LookupTable that first scales the rows it reads to a norm of at most ``max_norm``.

    In the weight itself, as nn.LookupTable with maxNorm does. ``padding_value``: the index whose
    row gets no gradient (0: none).
    """

    def __init__(
        self,
        n_index: int,
        n_output: int,
        padding: int,
        max_norm: float,
        norm_type: float = 2.0,
        scale_by_freq: bool = False,
    ) -> None:
        super().__init__()
        self.scale_by_freq = scale_by_freq
        self.padding_value, self.max_norm, self.norm_type = padding, max_norm, norm_type
        self.weight = nn.Parameter(torch.zeros(n_index, n_output))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.long() - 1
        with torch.no_grad():
            met = rows.unique()
            norm = torch.linalg.vector_norm(self.weight[met], self.norm_type, dim=1, keepdim=True)
            scale = torch.where(norm > self.max_norm, self.max_norm / (norm + 1e-7), 1)
            self.weight[met] = self.weight[met] * scale
        padding = self.padding_value - 1 if self.padding_value > 0 else None
        return F.embedding(rows, self.weight, padding, scale_grad_by_freq=self.scale_by_freq)


class LookupTable(nn.Module):
    """Rows of a learnt table, chosen by indices 1..n_index (nn.LookupTable).

    ``padding_value``: the index whose row gets no gradient (0: none), as in Lua. With
    ``scale_by_freq`` gradients are divided by how often their index occurs.
    """

    def __init__(
        self, n_index: int, n_output: int, padding_value: int = 0, scale_by_freq: bool = False
    ) -> None:
        super().__init__()
        self.padding_value, self.scale_by_freq = padding_value, scale_by_freq
        weight = torch.empty(n_index, n_output)
        # random numbers on the meta device would make torch load sympy, which takes a second
        self.weight = nn.Parameter(weight if weight.is_meta else weight.normal_())

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding_value - 1 if self.padding_value > 0 else None
        scale = self.scale_by_freq
        return F.embedding(x.long() - 1, self.weight, padding, scale_grad_by_freq=scale)
