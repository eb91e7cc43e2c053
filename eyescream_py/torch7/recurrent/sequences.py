"""Layers of the package rnn that run a recurrent layer over a sequence.

A sequence is a list of steps or a tensor whose first dimension is time. ``remember`` says when
the next sequence goes on where the last one ended: "train", "eval", "both" or "neither" (those
modes). Between sequences no gradient flows, as in Lua, where it stays within one call.
Source: Element-Research/rnn, one Lua file per class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .buffers import outputs_with_lua_gradients
from .steps import Recurrent, forget


class Remembering(nn.Module):
    """A layer over sequences that may go on with the last one (rnn's remember and forget).

    Changing between training and evaluation forgets.
    """

    def __init__(self, remember: str = "neither") -> None:
        super().__init__()
        if remember not in ("train", "eval", "both", "neither"):
            raise ValueError(f'remember is "train", "eval", "both" or "neither", not {remember!r}')
        self.remember = remember

    @property
    def remembers(self) -> bool:
        """Whether the next sequence goes on with the last one's state."""
        return self.remember in ("both", "train" if self.training else "eval")

    def train(self, mode: bool = True) -> Remembering:
        if mode != self.training:
            forget(self)
        return super().train(mode)


def _begin(layer: nn.Module, remembers: bool) -> None:
    """Forget, or go on without gradients, in every recurrent layer inside ``layer``."""
    for inner in layer.modules():
        if isinstance(inner, Recurrent):
            if remembers:
                inner.detach_past()
            else:
                inner.forget()


def _run(layer: Any, steps: Any) -> list[Any]:
    """The outputs of all steps of a Sequencer or Repeater."""
    luas = layer.lua_gradients and torch.is_grad_enabled() and not layer.training
    if luas and len(steps) > 1 and not any(map(_has_true_gradients, layer.modules())):
        return outputs_with_lua_gradients(layer.module, list(steps))
    return [layer.module(step) for step in steps]


def _has_true_gradients(module: nn.Module) -> bool:
    """Whether what Lua's layer does in evaluation is not known: its gradients are then the true."""
    kinds = ("TrimZero", "GivenMask", "StepLSTM", "StepLSTMP", "StepGRU")
    return type(module).__name__ in kinds


def lua_gradients(module: nn.Module, on: bool) -> nn.Module:
    """Say whether gradients in evaluation mode are Lua's in all sequence layers inside ``module``.

    Lua's are not those of the outputs (see `buffers`). Networks from files have them;
    in training mode all gradients are the true ones.
    """
    for layer in module.modules():
        if isinstance(layer, Sequencer | Repeater):
            layer.lua_gradients = on
    return module


class Sequencer(Remembering):
    """A recurrent layer over each step of a sequence (nn.Sequencer)."""

    def __init__(
        self, module: nn.Module, remember: str = "neither", lua_gradients: bool = False
    ) -> None:
        super().__init__(remember)
        self.module, self.lua_gradients = module, lua_gradients

    def forward(self, steps: Any) -> Any:
        _begin(self.module, self.remembers)
        outputs = _run(self, steps)
        return torch.stack(outputs) if isinstance(steps, Tensor) else outputs


class Repeater(nn.Module):
    """A recurrent layer that sees the same input ``steps`` times: a list (nn.Repeater)."""

    def __init__(self, module: nn.Module, steps: int, lua_gradients: bool = False) -> None:
        super().__init__()
        self.module, self.lua_gradients = module, lua_gradients
        self.steps = steps

    def forward(self, x: Any) -> list[Any]:
        forget(self.module)
        return _run(self, [x] * self.steps)


class RecurrentAttention(nn.Module):
    """A recurrent layer that chooses, step by step, where to look (nn.RecurrentAttention).

    ``action`` turns the last output (zeros at first) into a place; ``rnn`` takes {input, place}.
    With ``with_actions`` each output is the list {output, place}.
    """

    def __init__(
        self,
        rnn: nn.Module,
        action: nn.Module,
        steps: int,
        hidden_size: tuple[int, ...],
        with_actions: bool = False,
    ) -> None:
        super().__init__()
        self.rnn, self.action = rnn, action
        self.steps, self.hidden_size = steps, tuple(hidden_size)
        self.with_actions = with_actions

    def forward(self, x: Tensor) -> list[Any]:
        forget(self.rnn)
        hidden: Any = x.new_zeros(x.shape[0], *self.hidden_size)
        outputs = []
        for _ in range(self.steps):
            place = self.action(hidden)
            output = self.rnn([x, place])
            hidden = [output, place] if self.with_actions else output
            outputs.append(hidden)
        return outputs


class BiSequencer(nn.Module):
    """Two Sequencers, one from the end, whose outputs are merged (nn.BiSequencer, nn.SeqBRNN)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, steps: Any) -> Any:
        return self.module(steps)


class SeqBRNN(BiSequencer):
    """Two SeqLSTMs, one from the end: (T,N,F) -> (T,N,H) (nn.SeqBRNN)."""


class BiSequencerLM(nn.Module):
    """Each step from those before and those after it, not itself (nn.BiSequencerLM).

    The ahead layer runs over all steps but the last, the back layer over all but the first; zeros
    stand for what the first and the last step lack; ``merge`` joins both lists.
    """

    def __init__(self, ahead: nn.Module, back: nn.Module, merge: nn.Module) -> None:
        super().__init__()
        self.ahead, self.back, self.merge = ahead, back, merge

    def forward(self, steps: list[Tensor]) -> list[Tensor]:
        if len(steps) < 2:
            raise ValueError("BiSequencerLM takes a list of at least two steps")
        ahead, back = self.ahead(steps[:-1]), self.back(steps[1:])
        before, after = torch.zeros_like(ahead[0]), torch.zeros_like(back[0])
        return self.merge([[before, *ahead], [*back, after]])


class SeqReverseSequence(nn.Module):
    """Reverse one dimension, counted from 1 (nn.SeqReverseSequence)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.dim - 1)


class ReverseSequence(nn.Module):
    """Reverse a list, or the first dimension (nn.ReverseSequence)."""

    def forward(self, x: Any) -> Any:
        return x.flip(0) if isinstance(x, Tensor) else list(x)[::-1]


class _MaskValue(torch.autograd.Function):
    """Zero rows of a tensor, but not of its gradient; `_MaskGradient` is the other way round."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mask: Tensor) -> Tensor:
        return y.masked_fill(mask, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


class _MaskGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return grads[0].masked_fill(mask, 0), None


def _rows_of(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))


class MaskZero(nn.Module):
    """Zero the rows of the module's output whose input row is all zeros (nn.MaskZero).

    ``n_input_dim``: dimensions of the (first) input without the batch. As in Lua, the parameters of
    a module that is one layer get the gradient of the masked rows too, its input does not.
    """

    last_mask: Tensor | None = None  # for a while, in backward passes of `buffers`

    def __init__(self, module: nn.Module, n_input_dim: int) -> None:
        super().__init__()
        self.module = module
        self.n_input_dim = n_input_dim

    def forward(self, x: Any) -> Any:
        mask = self.mask_of(x)
        if torch.is_grad_enabled() and isinstance(x, Tensor) and not [*self.module.children()]:
            y = self.module(_MaskGradient.apply(x, _rows_of(mask, x)))
            return _MaskValue.apply(y, _rows_of(mask, y))
        return self._masked(self.module(x), mask)

    def mask_of(self, x: Any) -> Tensor:
        """Whether each row of the first input is all zeros: (N,), or () without a batch."""
        if self.last_mask is not None:
            return self.last_mask
        while not isinstance(x, Tensor):
            x = x[0]
        if x.dim() not in (self.n_input_dim, self.n_input_dim + 1):
            raise ValueError(f"MaskZero takes {self.n_input_dim} dimensions and a batch")
        rows = x.reshape(-1) if x.dim() == self.n_input_dim else x.reshape(x.shape[0], -1)
        return torch.linalg.vector_norm(rows, dim=-1) == 0

    def _masked(self, y: Any, mask: Tensor) -> Any:
        if not isinstance(y, Tensor):
            return [self._masked(part, mask) for part in y]
        return y.masked_fill(_rows_of(mask, y), 0)


class TrimZero(MaskZero):
    """As MaskZero, but the module does not see those rows at all (nn.TrimZero)."""

    def forward(self, x: Any) -> Any:
        mask = self.mask_of(x)
        if mask.dim() == 0 or not mask.any():
            return self._masked(self.module(x), mask)
        rows = (~mask).nonzero().reshape(-1)
        # Lua keeps one row, of zeros, where there would be none
        kept = rows if rows.numel() else rows.new_zeros(1)
        return self._spread(self.module(self._rows(x, kept)), rows, len(mask))

    def _rows(self, x: Any, rows: Tensor) -> Any:
        if not isinstance(x, Tensor):
            return [self._rows(part, rows) for part in x]
        return x.index_select(0, rows)

    def _spread(self, y: Any, rows: Tensor, count: int) -> Any:
        if not isinstance(y, Tensor):
            return [self._spread(part, rows, count) for part in y]
        whole = y.new_zeros(count, *y.shape[1:])
        return whole.index_copy(0, rows, y[: len(rows)])


class LookupTableMaskZero(nn.Module):
    """Rows of a table by index; index 0 is a row of zeros (nn.LookupTableMaskZero)."""

    def __init__(self, indices: int, outputs: int) -> None:
        super().__init__()
        weight = torch.empty(indices + 1, outputs)
        self.weight = nn.Parameter(weight if weight.is_meta else weight.normal_())

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight[0] = 0
        return nn.functional.embedding(x.long(), self.weight)


class SAdd(nn.Module):
    """Add a number, and change the sign if ``negate`` (nn.SAdd)."""

    def __init__(self, addend: float, negate: bool = False) -> None:
        super().__init__()
        self.addend, self.negate = addend, negate

    def forward(self, x: Tensor) -> Tensor:
        return -(x + self.addend) if self.negate else x + self.addend


class ExpandAs(nn.Module):
    """The second tensor repeated to the first one's shape: both (nn.ExpandAs)."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0], inputs[1].expand_as(inputs[0])]


class CopyGrad(nn.Identity):
    """Return the input (nn.CopyGrad)."""
