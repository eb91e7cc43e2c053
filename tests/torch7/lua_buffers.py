"""What Lua's recurrent layers compute as gradients in evaluation mode, with torch's autograd.

There a Sequencer's layer keeps the buffers of one step, so that each step's backward pass finds
the outputs of the last one: those of layers that compute, and, of layers that only route tables,
references to the last input and to the last state, which has been overwritten by the next one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ROUTES = {"Identity", "SelectTable", "NarrowTable", "FlattenTable", "SplitTable"}


def stale(value: Any, buffer: Any) -> Any:
    """The numbers of a buffer, with gradients that flow to ``value``."""
    if isinstance(value, Tensor):
        return value + (buffer.detach() - value).detach()
    return [stale(a, b) for a, b in zip(value, buffer, strict=True)]


def hooked(layers: list[nn.Module], hook: Callable[..., Any], run: Callable[[], Any]) -> Any:
    """Run with a forward hook on each layer."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


def last_buffers(sequencer: nn.Module, steps: list[Tensor]) -> tuple[dict[int, Any], list[Tensor]]:
    """The outputs of the layers within after a sequence, by their ids, and the last state."""
    cell: Any = sequencer.module
    leaves = [layer for layer in cell.step.modules() if not list(layer.children())]
    routes = [layer for layer in leaves if type(layer).__name__ in ROUTES]
    computing = [layer for layer in leaves if layer not in routes]
    kept: dict[int, Any] = {}

    def keep(layer: nn.Module, given: Any, output: Any) -> None:
        kept[id(layer)] = output

    with torch.no_grad():
        hooked(computing, keep, lambda: sequencer(steps))
        past = cell._past if isinstance(cell._past, list) else [cell._past]

        def routed() -> Any:
            return hooked(routes, keep, lambda: cell.step([steps[-1], *past]))

        hooked(computing, lambda layer, given, output: kept[id(layer)], routed)
    return kept, past


def outputs_with_lua_gradients(sequencer: nn.Module, steps: list[Tensor]) -> list[Tensor]:
    """One output a step; its numbers are the last step's, its gradients those of Lua."""
    kept, last = last_buffers(sequencer, [step.detach() for step in steps])
    cell: Any = sequencer.module
    state = [torch.zeros_like(part) for part in last]
    outputs = []
    leaves = [layer for layer in cell.step.modules() if id(layer) in kept]
    for number, x in enumerate(steps):
        given = [x, *(stale(state, last) if number else state)]
        made = hooked(
            leaves,
            lambda layer, given, output: stale(output, kept[id(layer)]),
            lambda given=given: cell.step(given),
        )
        state = made if isinstance(made, list) else [made]
        outputs.append(state[0])
    return outputs
