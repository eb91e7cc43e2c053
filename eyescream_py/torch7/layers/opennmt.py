"""Layers of OpenNMT, the Lua version. Source: OpenNMT/OpenNMT, onmt/modules, a file per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..recurrent.steps import Recurrent
from .shapes import batched_dim

PAD = 1  # the index of what fills up short sentences


class Network(nn.Module):
    """OpenNMT's wrapper of one network, of which its LSTM, GRU, embeddings and the like are kinds.

    A list of one tensor is taken for the tensor, as its generators do.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x[0] if isinstance(x, list) and len(x) == 1 else x)


class PositionEmbedding(nn.Module):
    """Rows of a table by place along ``dimension`` (from 1), whatever the word (N,T) or (T,N) is.

    The table has ``positions`` rows, and one of zeros that gets no gradient, for later places and
    for padding.
    """

    def __init__(self, dimension: int, positions: int, outputs: int) -> None:
        super().__init__()
        self.dimension, self.positions = dimension, positions
        self.weight = nn.Parameter(torch.zeros(positions + 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        dim = batched_dim(self.dimension, x, None)
        places = torch.arange(x.shape[dim], device=x.device).clamp(max=self.positions)
        shape = [1] * x.dim()
        shape[dim] = -1
        rows = places.reshape(shape).expand(x.shape).masked_fill(x == PAD, self.positions)
        return F.embedding(rows, self.weight, self.positions)


class RecurrentBatchNorm(Recurrent):
    """A batch normalization for each step of a sequence; the last one goes on (onmt's class).

    Each call is the next step; `forget` starts a new sequence.
    """

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        step = self._past or 0
        self._past = step + 1
        return self.steps[min(step, len(self.steps) - 1)](x)


class VDropout(Recurrent):
    """Dropout with one mask for all steps of a sequence, until `forget` (onmt.VDropout)."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability {p} is outside 0 <= p < 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self._past is None or self._past.shape != x.shape:
            self._past = F.dropout(torch.ones_like(x), self.p)
        return x * self._past


class JoinReplicateTable(nn.Module):
    """Join a list of tensors, those of size 1 along ``replicated`` repeated first (onmt's class).

    Dimensions count from 1, with ``n_input_dims`` without a batch.
    """

    def __init__(self, replicated: int, joined: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.replicated, self.joined, self.n_input_dims = replicated, joined, n_input_dims

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        repeated, joined = (
            batched_dim(dim, inputs[0], self.n_input_dims) for dim in (self.replicated, self.joined)
        )
        size = max(x.shape[repeated] for x in inputs)
        shapes = [list(x.shape) for x in inputs]
        for shape in shapes:
            shape[repeated] = size
        return torch.cat([x.expand(s) for x, s in zip(inputs, shapes, strict=True)], joined)


class Bridge(nn.Module):
    """No state for the decoder, whatever the encoder's is (onmt.Bridge of the type none)."""

    def forward(self, x: Any) -> None:
        return None
