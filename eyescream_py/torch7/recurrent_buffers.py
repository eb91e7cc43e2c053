"""What Lua's recurrent layers compute as gradients in evaluation mode, with torch's autograd.

There the package rnn runs every step with the buffers of one, so that each step's backward pass
finds the outputs of the last one: of layers that compute, what they made then; of layers that only
route tables, references to the last input and to the last state, which the next one overwrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.torch7.layers_simple import Instead
from eyescream_py.torch7.recurrent import Recurrent, detached

ROUTES = ("Identity", "SelectTable", "NarrowTable", "FlattenTable", "SplitTable")


def in_place_of(value: Any, numbers: Any) -> Any:
    """``numbers``, with gradients that flow to ``value``; ``value`` where shapes differ."""
    if not isinstance(value, Tensor):
        return [in_place_of(a, b) for a, b in zip(value, numbers, strict=True)]
    if value.shape != numbers.shape:
        return value
    return Instead.apply(value, numbers.detach())


class LastBuffers:
    """The buffers inside ``layer`` after a sequence of steps."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        leaves = [part for part in layer.modules() if not [*part.children()]]
        self._routes = [part for part in leaves if type(part).__name__ in ROUTES]
        self._computing = [part for part in leaves if type(part).__name__ not in ROUTES]
        self._masks = [part for part in layer.modules() if hasattr(part, "last_mask")]
        self._memories = [part for part in layer.modules() if isinstance(part, Recurrent)]
        self._kept: dict[int, Any] = {}

    def run(self, steps: Sequence[Any]) -> list[Any]:
        """The outputs of all steps, with Lua's gradients. The state goes on from here."""
        before = self._states()
        with torch.no_grad():
            outputs = self._hooked(self._computing, self._keep, steps)
            after = self._states()
            self._routed(steps[-1])
        self._restore(before)
        for mask in self._masks:
            mask.last_mask = self._kept[id(mask)]
        try:
            again = self._hooked([*self._routes, *self._computing], self._replace, steps)
        finally:
            for mask in self._masks:
                del mask.last_mask
        self._restore(after)
        return [in_place_of(a, b) for a, b in zip(again, outputs, strict=True)]

    def _routed(self, step: Any) -> None:
        """What routing layers hold: the last input, and the state as it is after all steps."""
        handles = [part.register_forward_hook(self._replace) for part in self._computing]
        try:
            self._hooked(self._routes, self._keep, [step])
        finally:
            for handle in handles:
                handle.remove()

    def _hooked(
        self, parts: Sequence[nn.Module], hook: Callable[..., Any], steps: Sequence[Any]
    ) -> list[Any]:
        """Run the steps with a hook on each of the parts."""
        handles = [part.register_forward_hook(hook) for part in parts]
        handles += [mask.register_forward_pre_hook(self._keep_mask) for mask in self._masks]
        try:
            return [_own(self.layer(step)) for step in steps]
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, part: nn.Module, given: Any, output: Any) -> None:
        self._kept[id(part)] = detached(output)

    def _keep_mask(self, part: Any, given: Any) -> None:
        self._kept[id(part)] = part.mask_of(given[0])

    def _replace(self, part: nn.Module, given: Any, output: Any) -> Any:
        kept = self._kept.get(id(part))
        return output if kept is None else in_place_of(output, kept)

    def _states(self) -> list[Any]:
        return [detached(part._past) for part in self._memories]

    def _restore(self, states: list[Any]) -> None:
        for part, state in zip(self._memories, states, strict=True):
            part._past = state


def _own(value: Any) -> Any:
    """Copies: layers that overwrite may write over an output in the next step."""
    if isinstance(value, Tensor):
        return value.clone()
    return [_own(part) for part in value]
