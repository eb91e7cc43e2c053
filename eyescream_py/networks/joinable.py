"""Which layers of a network `fused_layers` may compute, and which of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from eyescream_py.torch7.layers.inplace_order import ConcatTableInOrder, SequentialInOrder
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout


def left_alone(network: nn.Module) -> set[nn.Module]:
    """Layers that stand in several places, or share weights with others: autograd adds up their
    slopes while some may still be on their way. And those that run backwards one by one.
    """
    layers = list(network.modules())
    places = Counter(child for layer in layers for child in layer._modules.values())
    weights = Counter(p for layer in layers for p in layer.parameters(recurse=False))
    alone = {
        layer
        for layer in layers
        if places[layer] > 1 or any(weights[p] > 1 for p in layer.parameters(recurse=False))
    }
    ordered = [m for m in layers if isinstance(m, ConcatTableInOrder | SequentialInOrder)]
    return alone.union(*(m.modules() for m in [*ordered, *alone]))


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
