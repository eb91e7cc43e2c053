"""Weights in bfloat16 that a network computes with, beside the float32 ones that it learns with.

Autocast rounds every weight anew in each pass, with a kernel for each, and casts each gradient
back. Here all are rounded at once after a step and all gradients cast at once before it; the
numbers are the same to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyescream_py.networks.modes import InFull


@dataclass(frozen=True)
class _Place:
    """Where a module keeps a weight that has a copy."""

    owner: nn.Module
    name: str
    master: nn.Parameter
    copy: nn.Parameter


class Working:
    """Copies of the weights that autocast would round: those of convolutions and Linears, and on
    CUDA of PReLUs; layers that compute in full keep theirs.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        kinds = (nn.Conv2d, nn.Linear)
        if next(network.parameters()).is_cuda:
            kinds = (*kinds, nn.PReLU)  # type: ignore[assignment]
        self.places = [
            _Place(layer, name, master, nn.Parameter(master.detach().to(dtype)))
            for layer in network.modules()
            if isinstance(layer, kinds) and not isinstance(layer.__dict__.get("forward"), InFull)
            for name, master in layer.named_parameters(recurse=False)
        ]
        copies = {id(place.master): place.copy for place in self.places}
        self._masters = list(network.parameters())
        # what a loss is differentiated by, in the order of the network's parameters
        self.leaves = [copies.get(id(master), master) for master in self._masters]
        self._gradients = [torch.empty_like(master) for master in self._masters]

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

    def backward(self, loss: Tensor) -> None:
        """The gradients of `loss`, as those of the float32 weights."""
        for leaf in self.leaves:
            leaf.grad = None
        loss.backward(inputs=self.leaves)
        found = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        torch._foreach_copy_(self._gradients, found)
        for master, gradient in zip(self._masters, self._gradients, strict=True):
            master.grad = gradient

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the weights anew: after each change of them."""
        copies, masters = ([getattr(p, kind) for p in self.places] for kind in ("copy", "master"))
        torch._foreach_copy_(copies, masters)
