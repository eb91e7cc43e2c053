"""Containers of torch-rnnlib, of which fairseq-lua and its word models are built.

Their input is a list, one of whose entries is a sequence; the others are the state, which each
module takes from the one before. Source: facebookarchive/torch-rnnlib, one Lua file per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from torch import Tensor, nn

from .steps import detached


class SequenceTable(nn.ModuleList):
    """A module for each entry of the sequence, which is the input's entry ``dim`` (from 1).

    [state, sequence] -> [list of all states, list of all outputs], in the order of ``dim``. As in
    Lua no gradient comes from states before the last.
    """

    def __init__(self, dim: int, *modules: nn.Module) -> None:
        super().__init__(modules)
        self.dim = dim

    def _steps(self, count: int) -> Any:
        if count > len(self):
            raise ValueError(f"a sequence of {count} entries for {len(self)} modules")
        return self

    def forward(self, inputs: Sequence[Any]) -> list[list[Any]]:
        place = self.dim - 1
        sequence = inputs[place]
        entries = [sequence] if isinstance(sequence, Tensor) else list(sequence)
        now, results = list(inputs), []
        for module, entry in zip(self._steps(len(entries)), entries, strict=False):
            now = list(module([*now[:place], entry, *now[place + 1 :]]))
            results.append(now)
        return [
            list(part) if number == place else [*map(detached, part[:-1]), part[-1]]
            for number, part in enumerate(zip(*results, strict=True))
        ]

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class RecurrentTable(SequenceTable):
    """One module for all entries of the sequence (nn.RecurrentTable)."""

    def _steps(self, count: int) -> Any:
        return repeat(self[0], count)
