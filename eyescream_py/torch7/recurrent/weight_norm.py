"""The package rnn's sequence layers whose weights are directions times lengths (Seq..._WN).

Columns of the weight's two parts, for the input and for the last output, are ``v`` divided by its
norm, times ``g``. Source: Element-Research/rnn, one Lua file per class; arXiv 1602.07868.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .fused import SeqGRU, SeqLSTM, SeqLSTMP, SequenceLayer

EPS = 1e-16  # the least norm


def of_length(v: Tensor, g: Tensor) -> Tensor:
    """Columns of ``v`` (rows,columns) with the norms ``g`` (1,columns)."""
    norm = torch.linalg.vector_norm(v, dim=0, keepdim=True).clamp(min=EPS)
    return v * (g / norm)


class NormedWeights(SequenceLayer):
    """Before a sequence layer's class: its weight is made anew for each pass.

    ``g`` (2, columns), ``v`` as the weight (inputs + outputs, columns).
    """

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        weight, bias = self.weight, self.bias
        del self.weight, self.bias
        self.g = nn.Parameter(weight.new_ones(2, weight.shape[1]))
        self.v = nn.Parameter(torch.zeros_like(weight))
        self.bias = nn.Parameter(torch.zeros_like(bias))

    def _made(self) -> dict[str, Tensor]:
        parts = self.v.split([self.input_size, self.output_size])
        pairs = zip(parts, self.g.split(1), strict=True)
        return {"weight": torch.cat([of_length(v, g) for v, g in pairs])}

    def forward(self, inputs: Any) -> Tensor:
        made = self._made()
        for name, weight in made.items():
            setattr(self, name, weight)
        try:
            return super().forward(inputs)
        finally:
            for name in made:  # they belong to this pass: a copy of the layer would fail
                delattr(self, name)


class SeqLSTMWN(NormedWeights, SeqLSTM):
    """nn.SeqLSTM_WN."""

    of_its_own = True  # never written as a layer of plain weights


class SeqGRUWN(NormedWeights, SeqGRU):
    """nn.SeqGRU_WN."""

    of_its_own = True  # never written as a layer of plain weights


class SeqLSTMPWN(NormedWeights, SeqLSTMP):
    """nn.SeqLSTMP_WN: the projection is ``vO`` (H,O) with the norms ``gO`` (1,O)."""

    of_its_own = True  # never written as a layer of plain weights

    def __init__(self, input_size: int, hidden_size: int, output_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, output_size, **options)
        projection = self.weightO
        del self.weightO
        self.gO = nn.Parameter(projection.new_ones(1, output_size))
        self.vO = nn.Parameter(torch.zeros_like(projection))

    def _made(self) -> dict[str, Tensor]:
        return {**super()._made(), "weightO": of_length(self.vO, self.gO)}
