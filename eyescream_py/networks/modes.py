"""Ways to run a network without changing what it is: evaluation mode, and layers whose `forward` is
exchanged.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; modes come back after it."""
    modes = [net.training for net in networks]
    for net in networks:
        net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for net, training in zip(networks, modes, strict=True):
            net.train(training)


def run_on_shapes(network: nn.Module, *inputs: Any) -> None:
    """Run the network on `inputs` of the device meta, by shapes alone: nothing is computed and no
    memory taken, and its weights stay where they are. A layer that needs numbers to know its shape
    ends the run. Raises what layers raise where shapes do not fit.
    """
    shapes = {n: t.to("meta") for n, t in (*network.named_parameters(), *network.named_buffers())}
    with torch.no_grad(), contextlib.suppress(NotImplementedError):
        torch.func.functional_call(network, shapes, inputs)


class Forward:
    """Stands in for the `forward` of one layer, and of its copy in a copied network.

    The layer keeps its class, parameters and place, so that whoever saves or prints the network
    finds what it was.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def install(self) -> None:
        """Make this what the layer calls as its `forward`."""
        self.layer.forward = self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = copy.copy(self)
        twin.layer = memo[id(self.layer)]
        return twin


class FastForward(Forward):
    """A `forward` that is quicker than torch's, and can be differentiated only once; `otherwise`
    computes where that does not do, None: torch's own layer.
    """

    otherwise: Forward | None = None

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`x`, weight and bias, rounded where torch's own layer would round them."""
        bias = self.layer.bias
        return rounded(x), rounded(self.layer.weight), None if bias is None else rounded(bias)


def rounded(x: Tensor) -> Tensor:
    """`x` as autocast hands it to a product."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@contextlib.contextmanager
def plain(network: nn.Module) -> Iterator[None]:
    """A block in which `network` computes by torch's own layers, which can be differentiated
    twice.
    """
    exchanged = [
        (layer, layer.__dict__.pop("forward"))
        for layer in network.modules()
        if isinstance(layer.__dict__.get("forward"), FastForward)
    ]
    for _, forward in exchanged:
        if forward.otherwise:
            forward.otherwise.install()
    try:
        yield
    finally:
        for layer, forward in exchanged:
            layer.forward = forward


class InFull(Forward):
    """A layer whose output has to be exact: computes in its weights' type under any autocast."""

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = type(layer).forward(layer, x.to(layer.weight.dtype))
        return y


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 where it has 16 bits, else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def exact_output(network: nn.Module) -> None:
    """Let the last layer with weights compute in full, and what follows it with it."""
    weighted = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if weighted:
        InFull(weighted[-1]).install()
