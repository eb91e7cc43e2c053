"""Layers of fairseq-lua and fbnn. Sources: one Lua file per class of those packages.

Tables are lists; what comes of a table's gradients is as in Lua. A class marked ``of_its_own`` is
never written as the one that it is derived from.
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

    of_its_own = True

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


class LookupTableGPU(LookupTable):
    """A LookupTable (fbcunn): (n) -> (n,out), (N,n) -> (N,n,out), or (N,out,n) where
    ``features_second``.
    """

    of_its_own = True

    def __init__(
        self, n_index: int, n_output: int, padding_value: int, by_freq: bool, second: bool
    ) -> None:
        super().__init__(n_index, n_output, padding_value, by_freq)
        self.features_second = second

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.transpose(1, 2) if self.features_second and x.dim() == 2 else y


class WeightedLookupTable(LookupTable):
    """Rows of a table times weights: (n,2) of index and weight -> (n,out) (fbnn)."""

    of_its_own = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, 0]) * x[:, 1:].detach()


class LinearNoBackprop(nn.Linear):
    """A Linear that passes no gradient to its input (fbnn)."""

    of_its_own = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class NormalizedLinear(nn.Linear):
    """A Linear that makes its weight's norm the root of its rows at each training step (fbnn).

    As in Lua the change is for good, and the bias, 0, gets no gradient.
    """

    of_its_own = True

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


class LeakyReLU(nn.PReLU):
    """A PReLU whose slope is not learnt (fbnn)."""

    of_its_own = True

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.detach())


class LocallyConnected(nn.Module):
    """Convolution with a kernel for each place (fbnn). Bias (out,oH,oW).

    Weight (out,oH,oW,in,kH,kW), or ``interleaved``, as on a GPU, (oH,oW,kH,kW,out,in), and the
    bias (oH,oW,out).
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter,
        stride: tuple[int, int],
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.stride, self.interleaved = stride, interleaved

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.interleaved:
            weight, bias = weight.permute(4, 0, 1, 5, 2, 3), bias.permute(2, 0, 1)
        batch = x if x.dim() == 4 else x[None]
        windows = F.unfold(batch, weight.shape[4:], stride=self.stride)  # [N,in*kH*kW,oH*oW]
        windows = windows.unflatten(2, weight.shape[1:3])
        y = torch.einsum("nkhw,ohwk->nohw", windows, weight.flatten(3)) + bias
        return y if x.dim() == 4 else y[0]


class NestedDropout(StochasticLayer):
    """Keep the first b features of each row while training, b drawn from a geometric distribution
    (fbnn): each has the chance (1-p)^(i-1), and feature i is divided by (1-p)^i.

    Source: Rippel, Gelbart and Adams 2014, and Lua's file.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 < p < 1:
            raise ValueError(f"the probability {p} is outside 0 < p < 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drawn = self._uniform(torch.empty(len(x), dtype=torch.float64))
        last = torch.floor(torch.log1p(-drawn) / math.log1p(-self.p)) + 1
        numbers = torch.arange(1, x.shape[1] + 1, dtype=torch.float64)
        kept = (numbers <= last[:, None]) / (1 - self.p) ** numbers
        return x * kept.to(x).reshape(*kept.shape, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        return f"{self.p:g}"


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
