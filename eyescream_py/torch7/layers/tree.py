"""The package nnx's nn.SoftMaxTree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SoftMaxTree(nn.Module):
    """Log-likelihood of leaves of a tree, with a linear soft-max at every parent (nn.SoftMaxTree).

    {x (N,F), leaves (N)} -> (N): the sum of the logarithms on the way from the root. Numbers count
    from 1. ``parents`` (children, 2): each one's parent, and its place among that one's children;
    0 for what is no child. ``families`` (parents, 2): the first row of weights, and how many.
    """

    parents: Tensor
    families: Tensor

    def __init__(
        self, rows: int, features: int, parents: Tensor, families: Tensor, root: int
    ) -> None:
        super().__init__()
        self.root = root
        self.register_buffer("parents", parents)
        self.register_buffer("families", families)
        self.weight = nn.Parameter(torch.zeros(rows, features))
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x, leaves = inputs
        rows = [self._likelihood(row, leaf) for row, leaf in zip(x, leaves.tolist(), strict=True)]
        return torch.stack(rows)

    def _likelihood(self, x: Tensor, child: int) -> Tensor:
        total = x.new_zeros(())
        for _ in range(len(self.parents)):  # a way that is longer goes in circles
            if not 1 <= child <= len(self.parents):
                raise ValueError(f"the tree has no leaf {child}")
            parent, place = self.parents[int(child) - 1].tolist()
            if parent < 1:
                raise ValueError(f"the tree's node {child} has no parent")
            first, count = self.families[parent - 1].tolist()
            rows = slice(first - 1, first - 1 + count)
            scores = F.linear(x, self.weight[rows], self.bias[rows])
            total = total + scores.log_softmax(0)[place - 1]
            if parent == self.root:
                return total
            child = parent
        raise ValueError(f"the tree's root is not {self.root}")
