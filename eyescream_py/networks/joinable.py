"""Which layers of a network `fused_layers` may compute, and which of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from eyescream_py.networks.models_c2f import PairSequential
from eyescream_py.torch7.graph import GraphModule
from eyescream_py.torch7.layers.containers import Concat, ConcatTable, Parallel, ParallelTable
from eyescream_py.torch7.layers.dpnn import InBatch
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.layers.tables import DepthConcat

# how networks run each of their children once, a graph as often as its nodes say; others may run
# one for every part of a table, or go backwards by themselves
ONCE = {
    kind.forward
    for kind in (nn.Sequential, PairSequential, Concat, ConcatTable, DepthConcat, GraphModule,
                 InBatch, Parallel, ParallelTable)
}  # fmt: skip


def left_alone(network: nn.Module) -> set[nn.Module]:
    """Layers that a pass may run several times, as they stand in several places or in a network of
    another kind than those of `ONCE`, or that share weights with others: autograd adds up their
    slopes while some may still be on their way, and none may learn before all are found.
    """
    layers = list(network.modules())
    runs = Counter(child for layer in layers for child in _run_by(layer))
    weights = Counter(p for layer in layers for p in layer.parameters(recurse=False))
    alone = {
        layer
        for layer in layers
        if runs[layer] > 1
        or any(weights[p] > 1 for p in layer.parameters(recurse=False))
        or not _runs_each_once(layer)
    }
    return alone.union(*(layer.modules() for layer in alone))


def _run_by(network: nn.Module) -> list[nn.Module | None]:
    """Its children, each as often as it runs it."""
    if isinstance(network, GraphModule):
        return [network._modules[node.module] for node in network.nodes if node.module]
    return list(network._modules.values())


def _runs_each_once(network: nn.Module) -> bool:
    """Also of a layer, which runs no other."""
    known = "forward" not in network.__dict__ and type(network).forward in ONCE
    return known or not network._modules


def is_plain(layer: nn.Module) -> bool:
    """Whether it is a layer with weights that still computes as torch does, and as we can."""
    if "forward" in layer.__dict__:
        return False
    if type(layer) is nn.Conv2d:
        named = isinstance(layer.padding, str)
        return layer.groups == 1 and layer.padding_mode == "zeros" and not named
    return type(layer) is nn.Linear


def is_rectifier(layer: nn.Module) -> bool:
    """Whether it is a leaky rectifier with one slope for all planes (PReLU, LeakyReLU)."""
    if type(layer) is nn.PReLU:
        return layer.weight.numel() == 1
    return isinstance(layer, nn.LeakyReLU) and not layer.inplace


def joined(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """What of the layers behind a rectifier its kernel does: a pooling, then a dropout; dropout of
    whole planes may also come first, as it is the same.
    """
    found: list[nn.Module] = []
    for layer in layers[:2]:
        pooled = any(_is_halving(a) for a in found)
        dropped = len(found) - pooled
        pools = _is_halving(layer) and not pooled
        drops = isinstance(layer, Dropout | SpatialDropout) and not dropped
        commute = all(isinstance(a, SpatialDropout) for a in found)
        if not (drops or (pools and commute)):
            break
        found.append(layer)
    return found


def _is_halving(layer: nn.Module) -> bool:
    """Whether it pools 2x2 pixels without overlap."""
    if type(layer) is nn.AvgPool2d:
        plain = layer.padding == 0 and layer.divisor_override is None
    elif type(layer) is nn.MaxPool2d:
        plain = layer.padding == 0 and layer.dilation == 1 and not layer.return_indices
    else:
        return False
    return (
        plain
        and not layer.ceil_mode
        and layer.kernel_size in (2, (2, 2))
        and layer.stride in (2, (2, 2))
    )
