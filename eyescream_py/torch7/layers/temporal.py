"""Lua nn's layers on sequences: (T,F), or (N,T,F) with a batch first.

Source: the Lua package nn, one file per class.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def over_time(x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """``run`` on (N,F,T), as torch has sequences, and its output in Lua's order again."""
    batch = x if x.dim() == 3 else x[None]
    y = run(batch.transpose(1, 2)).transpose(1, 2)
    return (y if x.dim() == 3 else y[0]).contiguous()


class TemporalConvolution(nn.Module):
    """Convolution over time (nn.TemporalConvolution). The weight is (out, k_w * in).

    (N,T,in) -> (N, (T + 2 padding - k_w) / d_w + 1, out); only cudnn's class has a padding,
    and may lack the bias.
    """

    def __init__(
        self,
        in_frame: int,
        out_frame: int,
        k_w: int,
        d_w: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_frame, self.out_frame, self.k_w, self.d_w = in_frame, out_frame, k_w, d_w
        self.padding = padding
        self.weight = nn.Parameter(torch.zeros(out_frame, k_w * in_frame))
        self.bias = nn.Parameter(torch.zeros(out_frame)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.reshape(self.out_frame, self.k_w, self.in_frame).transpose(1, 2)
        return over_time(x, lambda t: F.conv1d(t, weight, self.bias, self.d_w, self.padding))


class TemporalRowConvolution(nn.Module):
    """Convolution of each feature by itself (nn.TemporalRowConvolution). Weight (F, 1, k_w).

    ``feat_first``: input and output are (N,F,T) or (F,T).
    """

    def __init__(
        self, in_frame: int, k_w: int, d_w: int = 1, feat_first: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.in_frame, self.k_w, self.d_w, self.feat_first = in_frame, k_w, d_w, feat_first
        self.weight = nn.Parameter(torch.zeros(in_frame, 1, k_w))
        self.bias = nn.Parameter(torch.zeros(in_frame)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        def run(t: Tensor) -> Tensor:
            return F.conv1d(t, self.weight, self.bias, self.d_w, groups=self.in_frame)

        return run(x) if self.feat_first else over_time(x, run)


class TemporalSubSampling(nn.Module):
    """Sum over windows, times a weight, plus a bias (nn.TemporalSubSampling)."""

    def __init__(self, in_frame: int, k_w: int, d_w: int = 1) -> None:
        super().__init__()
        self.in_frame, self.k_w, self.d_w = in_frame, k_w, d_w
        self.weight = nn.Parameter(torch.ones(in_frame))
        self.bias = nn.Parameter(torch.zeros(in_frame))

    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(-2, self.k_w, self.d_w).sum(-1) * self.weight + self.bias


class TemporalMaxPooling(nn.Module):
    """Maximum over windows of time (nn.TemporalMaxPooling)."""

    def __init__(self, k_w: int, d_w: int | None = None) -> None:
        super().__init__()
        self.k_w, self.d_w = k_w, k_w if d_w is None else d_w

    def forward(self, x: Tensor) -> Tensor:
        return over_time(x, lambda t: F.max_pool1d(t, self.k_w, self.d_w))


class TemporalDynamicKMaxPooling(nn.Module):
    """The k largest of each feature in the order of time (nn.TemporalDynamicKMaxPooling).

    k is ``factor`` times the length, rounded up, and at least ``min_k``.
    """

    def __init__(self, min_k: int, factor: float = 0.0) -> None:
        super().__init__()
        self.min_k, self.factor = min_k, factor

    def forward(self, x: Tensor) -> Tensor:
        k = max(self.min_k, math.ceil(self.factor * x.shape[-2]))
        index = x.detach().topk(k, dim=-2).indices.sort(-2).values
        return x.gather(-2, index)
