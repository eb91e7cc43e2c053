"""Layers of fairseq-lua and fbnn. Sources: one Lua file per class of those packages.

Tables are lists; what comes of a table's gradients is as in Lua.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .linear import LookupTable
from .simple import WithBackward
from .stochastic import StochasticLayer
from .tables import CAddTable


class TemporalConvolutionTBC(nn.Module):
    """Convolution over time, which comes first: (T,N,in) -> (T + 2 pad - kw + 1, N, out) (fbnn).

    The weight is (kw, in, out).
    """

    def __init__(self, inputs: int, outputs: int, width: int, pad: int = 0) -> None:
        super().__init__()
        self.pad = pad
        self.weight = nn.Parameter(torch.zeros(width, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.permute(2, 1, 0)
        y = F.conv1d(x.permute(1, 2, 0), kernel, self.bias, padding=self.pad)
        return y.permute(2, 0, 1).contiguous()


class AppendBias(nn.Module):
    """One more feature, 1 (fairseq): (...,F) -> (...,F+1)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1), value=1.0)


class CAddTableMulConstant(CAddTable):
    """The sum of a list of tensors, times a number (fairseq)."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return super().forward(inputs) * self.constant

    def extra_repr(self) -> str:
        return f"{self.constant:g}"


class SeqMultiply(nn.Module):
    """{x, y (N,T,...)} -> x times the root of T (fairseq)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0] * math.sqrt(inputs[1].shape[1])


class ZipAlong(nn.Module):
    """{{x1, x2, ...}, y} -> {{x1, y}, {x2, y}, ...} (fairseq)."""

    def forward(self, inputs: Sequence[Any]) -> list[list[Any]]:
        return [[part, inputs[1]] for part in inputs[0]]


class GradMultiply(nn.Module):
    """A layer whose parameters' gradients are multiplied by ``factor``, its input's are not."""

    def __init__(self, layer: nn.Module, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, x: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.layer(x)
        scaled = {
            name: WithBackward.apply(parameter, lambda grad: grad * self.factor)
            for name, parameter in self.layer.named_parameters()
        }
        return functional_call(self.layer, scaled, (x,))

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


class WeightedLookupTable(LookupTable):
    """Rows of a table times weights: (n,2) of index and weight -> (n,out) (fbnn)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, 0]) * x[:, 1:].detach()


class LinearNoBackprop(nn.Linear):
    """A Linear that passes no gradient to its input (fbnn)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class NormalizedLinear(nn.Linear):
    """A Linear that makes its weight's norm the root of its rows at each training step (fbnn).

    As in Lua the change is for good, and the bias, 0, gets no gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight *= math.sqrt(self.out_features) / self.weight.norm()
        return F.linear(x, self.weight, self.bias.detach())


class ProjectiveGradientNormalization(nn.Module):
    """The input, whose gradient loses its part along the input (fbnn)."""

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x.detach())
        direction = torch.where(norm == 0, 0, x.detach() / norm)
        return WithBackward.apply(x, lambda grad: grad - direction * (direction * grad).sum())


class IndividualDropout(StochasticLayer):
    """Dropout whose probability to keep, ``kept`` (F), is that of each feature of (N,F) (fbnn)."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (self._uniform(x) < self.kept) / self.kept
