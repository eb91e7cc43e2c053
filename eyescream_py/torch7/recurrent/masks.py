"""Masks from outside, by which the package rnn of 2017 knows the steps between sequences.

Layers of 2016 look for steps of zeros instead. Source: torch/rnn, MaskZero.lua and the like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .sequences import ReverseSequence
from .steps import Recurrent


class GivenMask(Recurrent):
    """Zero the module's output where a mask says so, and its input if asked (nn.MaskZero).

    `set_zero_mask` gives the mask.
    """

    _zero_mask: Tensor | bool | None = None
    _by_step = False

    def __init__(
        self, module: nn.Module, mask_input: bool = False, mask_output: bool = True
    ) -> None:
        super().__init__()
        self.module = module
        self.mask_input, self.mask_output = mask_input, mask_output

    def forward(self, x: Any) -> Any:
        mask = next_mask(self)
        if mask is None:
            return self.module(x)
        y = self.module(_masked(x, mask) if self.mask_input else x)
        return _masked(y, mask) if self.mask_output else y


def _masked(value: Any, mask: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return [_masked(part, mask) for part in value]
    return value.masked_fill(mask.reshape(mask.shape + (1,) * (value.dim() - mask.dim())), 0)


def given_mask(layer: Any) -> Tensor | None:
    """The mask that was set for a layer; None: nothing is masked. Raises ValueError: none was."""
    if layer._zero_mask is None:
        raise ValueError(
            f"{type(layer).__name__} has its mask from outside: call set_zero_mask(network, mask) "
            "of torch7.recurrent.masks first, with False for none"
        )
    return None if layer._zero_mask is False else layer._zero_mask


def next_mask(layer: Any) -> Tensor | None:
    """The same, for the next step of a layer that runs once for each step of a sequence."""
    mask = given_mask(layer)
    if mask is None or not layer._by_step:
        return mask
    step = layer._past or 0
    if step >= len(mask):
        raise ValueError(f"the mask is of {len(mask)} steps, and this is one more")
    layer._past = step + 1
    return mask[step]


def set_zero_mask(module: nn.Module, mask: Tensor | bool) -> nn.Module:
    """Say which steps are between sequences (rnn's Module:setZeroMask): ``module`` itself.

    ``mask`` (T,N): true where a step is no part of a sequence; for layers that are run on one step
    by themselves (N); False for none. It holds until the next, which a sequence of another length
    or batch needs. Steps are counted from here, or from the last `forget`.
    """
    if mask is True:
        raise ValueError("a mask is a tensor (time, batch), or False")
    _set(module, mask.bool() if isinstance(mask, Tensor) else False, False)
    return module


def _set(module: Any, mask: Tensor | bool, by_step: bool) -> None:
    if hasattr(type(module), "_zero_mask"):
        inside = by_step and isinstance(mask, Tensor) and mask.dim() > 1
        module._zero_mask, module._by_step = mask, inside
        if inside:
            module._past = None
    steps = by_step or (
        isinstance(module, Recurrent) and isinstance(getattr(module, "step", None), nn.Module)
    )
    for child in module.children():
        if isinstance(child, ReverseSequence) and isinstance(mask, Tensor):
            mask = mask.flip(0)  # until the sequence is turned back
        _set(child, mask, steps)


class VariableLength(nn.Module):
    """A layer of sequences over a list of sequences (T_i,...), each by itself (nn.VariableLength).

    (T,N,...) of all of them, filled up with zeros that are masked, is what the layer gets. A list
    of its outputs, or with ``last_only`` the last step of each (N,...).
    """

    def __init__(self, module: nn.Module, last_only: bool = False) -> None:
        super().__init__()
        self.module, self.last_only = module, last_only

    def forward(self, samples: Sequence[Tensor]) -> Any:
        lengths = [len(sample) for sample in samples]
        x = nn.utils.rnn.pad_sequence(list(samples))
        steps = torch.arange(len(x), device=x.device)[:, None]
        set_zero_mask(self.module, steps >= torch.tensor(lengths, device=x.device))
        y = self.module(x)
        if self.last_only:
            return torch.stack([y[n - 1, i] for i, n in enumerate(lengths)])
        return [y[:n, i] for i, n in enumerate(lengths)]
