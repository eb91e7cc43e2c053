"""What cudnn.torch has and nn has not, or has otherwise: recurrent layers, soft-maxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..recurrent.steps import Recurrent, detached
from .activations import LogSoftMax, SoftMax

# by cudnn.torch's name of each mode: blocks of H rows in its matrices, and what torch runs
GATES = {"CUDNN_LSTM": 4, "CUDNN_GRU": 3, "CUDNN_RNN_TANH": 1, "CUDNN_RNN_RELU": 1}
_RUNS: dict[str, Callable[..., Any]] = {
    "CUDNN_LSTM": torch.lstm,
    "CUDNN_GRU": torch.gru,
    "CUDNN_RNN_TANH": torch.rnn_tanh,
    "CUDNN_RNN_RELU": torch.rnn_relu,
}


class CudnnRNN(Recurrent):
    """(T,N,F) -> (T,N,directions*H), with ``batch_first`` (N,T,F) -> (N,T,directions*H).

    ``weight`` is all that cuDNN has in one: of each layer, and in it of each direction, the matrix
    (gates*H, inputs) and the matrix (gates*H, H); after all of those, in the same order, two
    biases (gates*H) each. Gates come in torch's order, which is cuDNN's. ``skips``: the first
    layer has no matrix for its inputs, and adds them as they are to each gate; they are H.

    ``remembers``: a call goes on where the last one ended, the first where the file's did; a
    batch of another size begins at zeros. ``hidden`` and ``cell`` (layers*directions,N,H): where
    every call begins if it remembers nothing; None: at zeros. Source: RNN:updateOutput in RNN.lua
    of cudnn.torch, and cuDNN's documentation of cudnnGetRNNLinLayerMatrixParams.
    """

    hidden: Tensor | None
    cell: Tensor | None

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        layers: int = 1,
        directions: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        remembers: bool = False,
        skips: bool = False,
    ) -> None:
        super().__init__()
        self.skips = skips
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.layers, self.directions = layers, directions
        self.batch_first, self.dropout, self.remembers = batch_first, dropout, remembers
        count = sum(rows * size for rows, size in self.shapes())
        if skips:
            count -= directions * GATES[mode] * hidden_size * input_size
        self.weight = nn.Parameter(torch.zeros(count))
        self.register_buffer("hidden", None)
        self.register_buffer("cell", None)

    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the parts of ``weight``; a bias has one column."""
        rows, hidden = GATES[self.mode] * self.hidden_size, self.hidden_size
        matrices = []
        for layer in range(self.layers):
            inputs = self.directions * hidden if layer else self.input_size
            matrices += [(rows, inputs), (rows, hidden)] * self.directions
        return [*matrices, *[(rows, 1)] * len(matrices)]

    def _parts(self) -> list[Tensor]:
        """Both matrices and both biases of the first layer, then of the next, as torch has them."""
        shapes = self.shapes()
        weight = self._with_inputs() if self.skips else self.weight
        parts = weight.split([rows * size for rows, size in shapes])
        half = len(parts) // 2
        matrices = [part.view(shape) for part, shape in zip(parts[:half], shapes, strict=False)]
        pairs = range(0, half, 2)
        return [p for i in pairs for p in (*matrices[i : i + 2], *parts[half + i : half + i + 2])]

    def _with_inputs(self) -> Tensor:
        """The weight, with a unit matrix for each gate where inputs are skipped."""
        gates, size = GATES[self.mode], self.hidden_size
        unit = torch.eye(size, dtype=self.weight.dtype, device=self.weight.device)
        unit = unit.repeat(gates, 1).view(-1)
        first, rest = self.weight.tensor_split([self.directions * len(unit)])
        parts = [part for matrix in first.view(self.directions, -1) for part in (unit, matrix)]
        return torch.cat([*parts, rest])

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError("cuDNN's recurrent layers take (time, batch, features)")
        x = x.transpose(0, 1) if self.batch_first else x
        state = self._start(x)
        given = state if self.mode == "CUDNN_LSTM" else state[0]
        both = self.directions == 2
        options = (True, self.layers, self.dropout, self.training, both, False)
        y, *state = _RUNS[self.mode](x, given, self._parts(), *options)
        self._past = detached(state)
        return y.transpose(0, 1) if self.batch_first else y

    def _start(self, x: Tensor) -> list[Tensor]:
        """Hidden state and cell before the first step."""
        zeros = x.new_zeros(self.layers * self.directions, x.shape[1], self.hidden_size)
        if self.remembers:
            past = self._past or [zeros, zeros]
            return past if past[0].shape == zeros.shape else [zeros, zeros]
        state = [zeros if part is None else part for part in (self.hidden, self.cell)]
        for part in state:
            if part.shape != zeros.shape:
                raise ValueError(
                    f"its file has the state of a batch of {part.shape[1]}, the input has "
                    f"{x.shape[1]}: set hidden and cell to None to begin at zeros"
                )
        return state

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}, layers={self.layers}"
        return f"{self.mode}, {sizes}, directions={self.directions}"


def rows(x: Tensor) -> Tensor:
    """(C,H,W) and (N,C,H,W) with all numbers of an image in one row."""
    return x.reshape(1, -1) if x.dim() == 3 else x.flatten(1)


class CudnnSoftMax(SoftMax):
    """Soft-max over all of an image, channels and pixels, or over (F), (N,F) (cudnn.SoftMax)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.dim() < 3 else rows(x).softmax(1).reshape(x.shape)


class CudnnLogSoftMax(LogSoftMax):
    """The logarithm of the same (cudnn.LogSoftMax)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.dim() < 3 else rows(x).log_softmax(1).reshape(x.shape)


class VolumetricSoftMax(nn.Module):
    """Soft-max over the channels of (C,T,H,W) or (N,C,T,H,W), or its logarithm if ``log``."""

    def __init__(self, log: bool = False) -> None:
        super().__init__()
        self.log = log

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(-4) if self.log else x.softmax(-4)
