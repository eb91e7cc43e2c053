"""What Lua's recurrent layers compute as gradients in evaluation mode, with torch's autograd.

There the package rnn runs every step with the buffers of one, so that each step's backward pass
finds the outputs of the last one: of layers that compute, what they made then; of layers that only
route tables, references to the last input and to the last state, which the next one overwrote.

The forward pass is the plain one; backward runs the steps again to find those buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.inplace import overwrites
from ..layers.inplace_order import flat, shaped
from ..layers.simple import Instead
from .steps import Recurrent, detached

ROUTES = ("Identity", "SelectTable", "NarrowTable", "FlattenTable", "SplitTable")


def in_place_of(value: Any, numbers: Any) -> Any:
    """``numbers``, with gradients that flow to ``value``; ``value`` where shapes differ."""
    if not isinstance(value, Tensor):
        same = len(value) == len(numbers)
        return [in_place_of(a, b) for a, b in zip(value, numbers, strict=True)] if same else value
    if value.shape != numbers.shape:
        return value
    return Instead.apply(value, numbers.detach())


class LastBuffers:
    """The buffers inside ``layer`` after a sequence of steps that began with ``states``."""

    def __init__(self, layer: nn.Module, states: list[Any]) -> None:
        self.layer, self._states = layer, states
        leaves = [part for part in layer.modules() if not [*part.children()]]
        self._routes = [part for part in leaves if type(part).__name__ in ROUTES]
        self._computing = [part for part in leaves if type(part).__name__ not in ROUTES]
        self._masks: list[Any] = [part for part in layer.modules() if hasattr(part, "last_mask")]
        self._kept: dict[int, Any] = {}

    def run(self, steps: Sequence[Any]) -> list[Any]:
        """Outputs of all steps whose gradients are Lua's; the state is what it was before."""
        now = states_of(self.layer)
        try:
            set_states(self.layer, self._states)
            with torch.no_grad():
                self._hooked(self._computing, self._keep, own(steps))
                self._routed(own(steps[-1]))
            set_states(self.layer, self._states)
            for mask in self._masks:
                mask.last_mask = self._kept.get(id(mask))
            return self._hooked([*self._routes, *self._computing], self._replace, own(steps))
        finally:
            for mask in self._masks:
                mask.__dict__.pop("last_mask", None)
            set_states(self.layer, now)

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
            return [self.layer(step) for step in steps]
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


class _LuaGradients(torch.autograd.Function):
    """All steps of a layer; ``tensors`` are those of the steps, then the layer's parameters."""

    @staticmethod
    def forward(ctx: Any, layer: nn.Module, steps: Any, made: list[Any], *tensors: Tensor) -> Any:
        ctx.layer, ctx.tensors, ctx.states = layer, tensors, states_of(layer)
        ctx.steps = own(steps) if overwrites(layer) else steps
        made += [own(layer(step)) for step in steps]
        return tuple(flat(made))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        given = [x.detach() for x in flat(ctx.steps)]
        wanted = [*given, *ctx.tensors[len(given) :]]
        needed = ctx.needs_input_grad[3:]
        for x, needs in zip(given, needed, strict=False):
            x.requires_grad_(needs)
        with torch.enable_grad():
            steps = shaped(ctx.steps, iter(given))
            outputs = flat(LastBuffers(ctx.layer, ctx.states).run(steps))
        live = [(y, g) for y, g in zip(outputs, grads, strict=True) if y.requires_grad]
        asked = [x for x, needs in zip(wanted, needed, strict=True) if needs]
        ys, gs = [y for y, _ in live], [g for _, g in live]
        found = iter(torch.autograd.grad(ys, asked, gs, allow_unused=True))
        return None, None, None, *(next(found) if needs else None for needs in needed)


def outputs_with_lua_gradients(layer: nn.Module, steps: Sequence[Any]) -> list[Any]:
    """The outputs of all steps, as the layer makes them, with Lua's gradients."""
    made: list[Any] = []
    tensors = _LuaGradients.apply(layer, steps, made, *flat(steps), *layer.parameters())
    return shaped(made, iter(tensors))


def states_of(layer: nn.Module) -> list[Any]:
    """What every recurrent layer inside remembers, without history."""
    return [detached(part._past) for part in layer.modules() if isinstance(part, Recurrent)]


def set_states(layer: nn.Module, states: list[Any]) -> None:
    """Let the recurrent layers inside remember what `states_of` found."""
    parts = (part for part in layer.modules() if isinstance(part, Recurrent))
    for part, state in zip(parts, states, strict=True):
        part._past = state


def own(value: Any) -> Any:
    """Copies: layers that overwrite may write over an input, or over an output of before."""
    return value.clone() if isinstance(value, Tensor) else [own(part) for part in value]
