"""Weights in bfloat16 that a network computes with, beside the float32 ones that it learns with.

Autocast rounds every weight anew in each pass, with a kernel for each, and casts each gradient
back. Here all are rounded at once after a step, from one buffer to another, and all gradients cast
at once before it; the numbers are the same to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyescream_py.networks.modes import InFull
from eyescream_py.torch7.flat import Flat


@dataclass(frozen=True)
class _Place:
    """Where a module keeps a weight that has a copy."""

    owner: nn.Module
    name: str
    master: nn.Parameter
    copy: nn.Parameter


def _over(view: Tensor) -> nn.Parameter:
    """A parameter over the memory of `view`. Autograd does not count the changes of others beside
    it: in a backward pass a weight may have learned while another is still needed as it was.
    """
    made = nn.Parameter(view.new_empty(0))
    made.data = view
    return made


class Working:
    """Copies of the weights that autocast would round: those of convolutions and Linears, and on
    CUDA of PReLUs; layers that compute in full keep theirs.

    `flat` holds the network's weights, `rounded` all copies in its layout. `leaves` are what a loss
    is to be differentiated by, in the order of the network's parameters.
    """

    def __init__(self, network: nn.Module, flat: Flat) -> None:
        kinds = (nn.Conv2d, nn.Linear)
        if next(network.parameters()).is_cuda:
            kinds = (*kinds, nn.PReLU)  # type: ignore[assignment]
        self._masters, self.rounded = flat.weights, flat.weights.bfloat16()
        copies = {
            id(master): _over(view)
            for master, view in zip(flat.parameters, flat.views(self.rounded), strict=True)
        }
        self.places = [
            _Place(layer, name, master, copies[id(master)])
            for layer in network.modules()
            if isinstance(layer, kinds) and not isinstance(layer.__dict__.get("forward"), InFull)
            for name, master in layer.named_parameters(recurse=False)
        ]
        used = {id(place.master): place.copy for place in self.places}
        self.leaves: list[Tensor] = [used.get(id(master), master) for master in flat.parameters]

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """A block in which the network computes with the copies."""
        for place in self.places:
            place.owner._parameters[place.name] = place.copy
        try:
            yield
        finally:
            for place in self.places:
                place.owner._parameters[place.name] = place.master

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the weights anew: after each change of them."""
        self.rounded.copy_(self._masters)
