"""Recurrent layers over whole sequences with one weight and one bias.

SeqLSTM, SeqLSTMP, SeqGRU and the Step layers are of the package rnn; SequenceLSTM (its own name is
nn.LSTM too), VanillaRNN and LanguageModel of jcjohnson/torch-rnn. The weight is (F+H, gates*H): the
first F rows are for the input. An input is a tensor, or a list that begins with the starting
state(s).
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from .masks import given_mask, next_mask
from .steps import Recurrent, detached


class SequenceLayer(Recurrent, abc.ABC):
    """(T,N,F) -> (T,N,H), with ``batch_first`` (N,T,F) -> (N,T,H).

    ``remember``: in which modes a sequence goes on where the last one ended ("train", "eval",
    "both", "neither"). ``mask_zero``: a step of zeros leaves output and state zero, or with
    ``given_mask`` those that `masks.set_zero_mask` names.
    Changing between training and evaluation forgets, unless ``keeps`` (torch-rnn's layers).
    """

    gates = 1
    states = 1
    _zero_mask: Tensor | bool | None = None
    _by_step = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        batch_first: bool = False,
        mask_zero: bool = False,
        remember: str = "neither",
        keeps: bool = False,
        given_mask: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.output_size = output_size or hidden_size
        self.batch_first, self.mask_zero = batch_first, mask_zero
        self.remember, self.keeps, self.given_mask = remember, keeps, given_mask
        columns = self.gates * hidden_size
        self.weight = nn.Parameter(torch.zeros(input_size + self.output_size, columns))
        self.bias = nn.Parameter(torch.zeros(columns))

    def train(self, mode: bool = True) -> SequenceLayer:
        if mode != self.training and not self.keeps:
            self._past = None
        super().train(mode)
        return self

    def forward(self, inputs: Any) -> Tensor:
        given = [] if isinstance(inputs, Tensor) else list(inputs[:-1])
        x = inputs if isinstance(inputs, Tensor) else inputs[-1]
        if x.dim() != 3 or len(given) > self.states:
            raise ValueError(f"{type(self).__name__} takes (time, batch, features)")
        x = x.transpose(0, 1) if self.batch_first else x  # [T,N,F]
        state = self._start(x, given)
        outputs = []
        masks = given_mask(self) if self.mask_zero and self.given_mask else None
        if masks is not None and masks.shape != x.shape[:2]:
            raise ValueError(f"the mask is of {tuple(masks.shape)}, steps of {tuple(x.shape[:2])}")
        for number, step in enumerate(x):
            state = self.advance(step, state, None if masks is None else masks[number])
            outputs.append(state[0])
        self._past = detached(state)
        y = torch.stack(outputs)
        return y.transpose(0, 1) if self.batch_first else y

    def _start(self, x: Tensor, given: list[Tensor]) -> list[Tensor]:
        """Output and cell before the first step: as given, remembered, or zeros."""
        sizes = [self.output_size, self.hidden_size][: self.states]
        remembers = self.remember in ("both", "train" if self.training else "eval")
        past = self._past if remembers else None
        if past is not None and len(past[0]) != x.shape[1]:
            raise ValueError("a remembered sequence goes on with the same batch size")
        state = past or [x.new_zeros(x.shape[1], size) for size in sizes]
        # a list of inputs is {cell, output, input} or {output, input}
        return [*given[::-1], *state[len(given) :]]

    def advance(self, x: Tensor, state: list[Tensor], mask: Tensor | None = None) -> list[Tensor]:
        """The state after the input (N,F) of one step, its output first; ``mask`` (N): is zero."""
        weight, hidden = self.weight.split([self.input_size, self.output_size])
        state = self.step(torch.addmm(self.bias, x, weight), hidden, state)
        if self.mask_zero and not self.given_mask:
            mask = torch.linalg.vector_norm(x, dim=-1) == 0
        if mask is not None:
            state = [part.masked_fill(mask[:, None], 0) for part in state]
        return state

    def advance_once(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The same for the layers that take one step, which count theirs for the mask."""
        masks = self.mask_zero and self.given_mask
        return self.advance(x, state, next_mask(self) if masks else None)

    @abc.abstractmethod
    def step(self, gates: Tensor, hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The same, of the gates without what the last output adds to them."""

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.output_size}"


class SeqLSTM(SequenceLayer):
    """An LSTM over a sequence (nn.SeqLSTM); gates in the order input, forget, output, new."""

    gates = 4
    states = 2

    def step(self, gates: Tensor, hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
        gates = gates + state[0] @ hidden
        into, keep, out = gates[:, : 3 * self.hidden_size].sigmoid().chunk(3, 1)
        cell = keep * state[1] + into * gates[:, 3 * self.hidden_size :].tanh()
        return [self.project(out * cell.tanh()), cell]

    def project(self, output: Tensor) -> Tensor:
        """What a step's output (N,H) becomes before it is the hidden state."""
        return output


class SeqLSTMP(SeqLSTM):
    """A SeqLSTM whose output is a projection of it, by ``weightO`` (H,O) (nn.SeqLSTMP)."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, output_size, **options)
        self.weightO = nn.Parameter(torch.zeros(hidden_size, output_size))

    def project(self, output: Tensor) -> Tensor:
        return output @ self.weightO


class SequenceLSTM(SeqLSTM):
    """torch-rnn's nn.LSTM: (N,T,F) -> (N,T,H)."""


class SeqGRU(SequenceLayer):
    """A GRU over a sequence (nn.SeqGRU); gates in the order reset, update, new."""

    gates = 3

    def step(self, gates: Tensor, hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
        size, past = self.hidden_size, state[0]
        both = (gates[:, : 2 * size] + past @ hidden[:, : 2 * size]).sigmoid()
        reset, update = both.chunk(2, 1)
        new = (gates[:, 2 * size :] + (reset * past) @ hidden[:, 2 * size :]).tanh()
        return [new - update * new + update * past]


class StepLSTM(SeqLSTM):
    """One step {input, output, cell} -> {output, cell} (nn.StepLSTM)."""

    def forward(self, inputs: Any) -> Any:
        return self.advance_once(inputs[0], list(inputs[1:]))


class StepLSTMP(SeqLSTMP):
    """A StepLSTM whose output is a projection of it."""

    def forward(self, inputs: Any) -> Any:
        return self.advance_once(inputs[0], list(inputs[1:]))


class StepGRU(SeqGRU):
    """One step {input, output} -> output (nn.StepGRU)."""

    def forward(self, inputs: Any) -> Any:
        return self.advance_once(inputs[0], list(inputs[1:]))[0]


class VanillaRNN(SequenceLayer):
    """torch-rnn's nn.VanillaRNN: tanh of input and last output, (N,T,F) -> (N,T,H)."""

    def step(self, gates: Tensor, hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [(gates + state[0] @ hidden).tanh()]


class FoldTime(nn.Module):
    """(N,T,F) -> (N*T,F), for layers that know no time (a nn.View in torch-rnn's models)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])


class UnfoldTime(nn.Module):
    """(N*T,F) -> (N,T,F); the language model sets ``steps``, T, before it runs."""

    steps = 1

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.steps, x.shape[-1])


class LanguageModel(nn.Module):
    """torch-rnn's model of text: indices (N,T), from 1 -> scores of the next token (N,T,V).

    ``vocabulary``: the tokens (characters) of the indices 1, 2, ...
    """

    def __init__(self, net: nn.Sequential, vocabulary: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.net = net
        self.vocabulary = tuple(vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            if isinstance(layer, UnfoldTime):
                layer.steps = x.shape[1]
        return self.net(x)

    def extra_repr(self) -> str:
        return f"{len(self.vocabulary)} tokens"
