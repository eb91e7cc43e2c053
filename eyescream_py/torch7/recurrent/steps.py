"""Layers of the package rnn that take one step of a sequence at a time, and remember.

Each call is the next step; `forget` starts a new sequence from zeros. Within a sequence gradients
flow back through all steps. A layer runs the step that its file holds, whatever that is built of.
Tables are lists, batches come first: a step is (N, F) or (F). Source: Element-Research/rnn, one
Lua file per class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """What all layers with a memory share (nn.AbstractRecurrent).

    ``rho`` is Lua's limit of steps for gradients; here they flow through all steps since `forget`.
    """

    def __init__(self, rho: int = 9999) -> None:
        super().__init__()
        self.rho = rho
        self._past: Any = None  # what the last step left; None: at the start of a sequence

    def forget(self) -> None:
        """Start a new sequence, here and in all layers inside."""
        for layer in _recurrent_layers(self):
            layer._past = None

    def detach_past(self) -> None:
        """Go on with the sequence, but let no gradient flow further back than this."""
        for layer in _recurrent_layers(self):
            layer._past = detached(layer._past)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_past": detached(self._past)}  # a copy has no graph of gradients

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Recurrent:
        super()._apply(fn, recurse)
        self._past = _mapped(fn, self._past)  # what is remembered moves, and changes type, too
        return self


def _recurrent_layers(module: nn.Module) -> Iterator[Recurrent]:
    return (layer for layer in module.modules() if isinstance(layer, Recurrent))


def forget(module: nn.Module) -> None:
    """Start a new sequence in every recurrent layer inside ``module`` (rnn's Module:forget)."""
    for layer in _recurrent_layers(module):
        layer._past = None


def detached(value: Any) -> Any:
    """Nested lists of tensors without their history."""
    return _mapped(Tensor.detach, value)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    return [_mapped(function, entry) for entry in value] if isinstance(value, list) else value


def first_tensor(value: Any) -> Tensor:
    """The first tensor of nested lists."""
    while not isinstance(value, Tensor):
        value = value[0]
    return value


class Gated(Recurrent):
    """What LSTM and GRU share: the ``step`` of the gates, and the features of an output."""

    def __init__(self, step: nn.Module, output_size: int, rho: int = 9999) -> None:
        super().__init__(rho)
        self.step = step
        self.output_size = output_size


class LSTM(Gated):
    """A step {input, output, cell} -> {output, cell} (rnn's nn.LSTM): (N,F) -> (N,H)."""

    def forward(self, x: Tensor) -> Tensor:
        if self._past is None:
            zeros = x.new_zeros(*x.shape[:-1], self.output_size)
            self._past = [zeros, zeros]
        self._past = list(self.step([x, *self._past]))
        return self._past[0]


class FastLSTM(LSTM):
    """An LSTM that computes its gates at once (nn.FastLSTM)."""


class RecLSTM(LSTM):
    """An LSTM of one weight, with a cell of a size of its own (nn.RecLSTM)."""

    def __init__(self, step: nn.Module, output_size: int, cell_size: int, rho: int = 9999) -> None:
        super().__init__(step, output_size, rho)
        self.cell_size = cell_size

    def forward(self, x: Tensor) -> Tensor:
        if self._past is None:
            sizes = (self.output_size, self.cell_size)
            self._past = [x.new_zeros(*x.shape[:-1], size) for size in sizes]
        return super().forward(x)


class GRU(Gated):
    """A step {input, output} -> output (nn.GRU): (N,F) -> (N,H)."""

    def forward(self, x: Tensor) -> Tensor:
        if self._past is None:
            self._past = x.new_zeros(*x.shape[:-1], self.output_size)
        self._past = self.step([x, self._past])
        return self._past


class RecGRU(GRU):
    """A GRU of one weight (nn.RecGRU)."""


class MuFuRu(GRU):
    """A GRU that mixes several operations on its state (nn.MuFuRu)."""


class Grid2DLSTM(Recurrent):
    """An LSTM over steps and over layers, of the step {zeros, input, cell 1, output 1, cell 2 ...}
    -> {cell 1, output 1, ..., the last layer's output} (nn.Grid2DLSTM): (N,F) -> (N,F).
    """

    def __init__(self, step: nn.Module, layers: int, rho: int = 9999) -> None:
        super().__init__(rho)
        self.step, self.layers = step, layers

    def forward(self, x: Tensor) -> Tensor:
        past = self._past
        if past is None:
            past = [torch.zeros_like(x) for _ in range(2 * self.layers)]
        *self._past, output = self.step([torch.zeros_like(x), x, *past])
        return output


class Recurrence(Recurrent):
    """Any step {input, output} -> output, which begins with zeros (nn.Recurrence).

    ``output_size``: the sizes of the output without the batch, or nested lists of such.
    ``n_input_dim``: dimensions of the (first) input without the batch.
    """

    def __init__(
        self, step: nn.Module, output_size: Any, n_input_dim: int, rho: int = 9999
    ) -> None:
        super().__init__(rho)
        self.step = step
        self.output_size, self.n_input_dim = output_size, n_input_dim

    def forward(self, x: Any) -> Any:
        if self._past is None:
            first = first_tensor(x)
            batch = first.shape[: first.dim() - self.n_input_dim]
            self._past = self._zeros(first, batch, self.output_size)
        self._past = self.step([x, self._past])
        return self._past

    def _zeros(self, like: Tensor, batch: torch.Size, size: Any) -> Any:
        if not isinstance(size[0], int):
            return [self._zeros(like, batch, part) for part in size]
        if like.is_floating_point():
            return like.new_zeros(*batch, *size)
        weight = next(self.parameters(), like)  # the input is of indices (LookupRNN)
        return weight.new_zeros(*batch, *size)


class Recursor(Recurrent):
    """Any module as a step, with what it remembers inside (nn.Recursor)."""

    def __init__(self, step: nn.Module, rho: int = 9999999) -> None:
        super().__init__(rho)
        self.step = step

    def forward(self, x: Any) -> Any:
        return self.step(x)


class SimpleRecurrent(Recurrent):
    """Elman's network: the first step adds a learned start, others the feedback (nn.Recurrent).

    ``parts``: Lua's start, input, feedback, transfer and merge modules, of which ``initial`` (the
    first step, on the input) and ``step`` (on {input, output}) are built.
    """

    def __init__(
        self, parts: list[nn.Module], initial: nn.Module, step: nn.Module, rho: int = 5
    ) -> None:
        super().__init__(rho)
        self.parts = nn.ModuleList(parts)
        self.initial, self.step = initial, step

    def forward(self, x: Any) -> Any:
        self._past = self.initial(x) if self._past is None else self.step([x, self._past])
        return self._past


class _KeepNorms(torch.autograd.Function):
    """A step's output, whose gradient, and the one of the step before, get the penalty's slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(x, before)
        ctx.beta = beta
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, before = ctx.saved_tensors
        norms = [torch.linalg.vector_norm(h, dim=1, keepdim=True) for h in (x, before)]
        change = (norms[0] - norms[1]) * (2 * ctx.beta / len(x))
        return grads[0] + x * (change / norms[0]), -before * (change / norms[1]), None


class NormStabilizer(Recurrent):
    """Return the input (N,F); while training, penalize changes of its norm (nn.NormStabilizer).

    The penalty, ``beta`` times the batch's mean of (norm - last step's norm)^2 for each step after
    the first, is in no output: as in Lua its slope is added to the gradients. Source: arXiv
    1511.08400.
    """

    def __init__(self, beta: float, rho: int = 9999) -> None:
        super().__init__(rho)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if x.dim() != 2:
            raise ValueError("NormStabilizer takes (batch, features) while training")
        before, self._past = self._past, x
        if before is None or before.shape != x.shape:
            return x
        y: Tensor = _KeepNorms.apply(x, before, self.beta)
        return y
