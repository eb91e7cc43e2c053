"""The layers of generators as JSON and back, so that a file of weights can say what they are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.activations import LeakyReLU, ReLU
from eyescream_py.torch7.layers.arithmetic import MulConstant
from eyescream_py.torch7.layers.containers import ConcatTable
from eyescream_py.torch7.layers.normalization import BatchNormalization, SpatialBatchNormalization
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from eyescream_py.torch7.layers.shapes import Identity, View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.layers.tables import CAddTable

# class -> its constructor's arguments, read from a module
_ARGUMENTS: dict[type[nn.Module], Callable[[Any], list[Any]]] = {
    nn.Linear: lambda m: [m.in_features, m.out_features, m.bias is not None],
    nn.Conv2d: lambda m: [
        m.in_channels, m.out_channels, list(m.kernel_size), list(m.stride), list(m.padding),
        list(m.dilation), m.groups, m.bias is not None,
    ],
    nn.BatchNorm2d: lambda m: [m.num_features, m.eps, m.momentum],
    nn.BatchNorm1d: lambda m: [m.num_features, m.eps, m.momentum],
    nn.PReLU: lambda m: [m.num_parameters],
    nn.ReLU: lambda m: [],
    LeakyReLU: lambda m: [m.negative_slope],
    nn.Sigmoid: lambda m: [],
    nn.Tanh: lambda m: [],
    nn.Identity: lambda m: [],
    Identity: lambda m: [],
    CAddTable: lambda m: [],
    MulConstant: lambda m: [m.constant],
    SpatialUpSamplingNearest: lambda m: [m.scale_factor],
    View: lambda m: list(m.sizes),
}  # fmt: skip
# layers of Lua's files that differ from torch's only for a sample without a batch, or for NaN
_SAME: dict[type[nn.Module], type[nn.Module]] = {
    ReLU: nn.ReLU,
    BatchNormalization: nn.BatchNorm1d,
    SpatialBatchNormalization: nn.BatchNorm2d,
}


def _name_in_files(kind: type[nn.Module]) -> str:
    """Of torch's layers with their module; ours are "layers." wherever the class stands today."""
    ours = kind.__module__.startswith("eyescream_py.")
    return f"{'layers' if ours else kind.__module__.rpartition('.')[2]}.{kind.__name__}"


_LEAVES = {_name_in_files(kind): kind for kind in _ARGUMENTS}
_NAMES = {kind: name for name, kind in _LEAVES.items()}
_CONTAINERS: dict[str, type[nn.Module]] = {
    "Sequential": nn.Sequential, "ConcatTable": ConcatTable,
}  # fmt: skip
_DROPOUTS = (Dropout, SpatialDropout, nn.Dropout, nn.Dropout2d)


def describe(network: nn.Module) -> dict[str, Any]:
    """{"type", "arguments"} of a layer, {"type", "layers"} of a container.

    Dropout becomes what it does in evaluation, as G is only sampled from. Raises UserError for a
    layer unknown here.
    """
    for name, container in _CONTAINERS.items():
        if isinstance(network, container):
            return {"type": name, "layers": [describe(layer) for layer in network.children()]}
    if isinstance(network, _DROPOUTS) and not getattr(network, "stochastic_inference", False):
        network = _in_evaluation(network)
    kind = _SAME.get(type(network), type(network))
    if kind not in _NAMES:
        raise UserError(
            f"--export: safetensors files cannot describe a layer {type(network).__name__}; "
            "export .pt or .onnx"
        )
    return {"type": _NAMES[kind], "arguments": _ARGUMENTS[kind](network)}


def _in_evaluation(dropout: Any) -> nn.Module:
    """The identity, or for Lua's layers that do not scale while they drop: times 1-p."""
    unscaled = isinstance(dropout, SpatialDropout) or not getattr(dropout, "scaled", True)
    return MulConstant(1 - dropout.p) if unscaled else nn.Identity()


def build(description: dict[str, Any]) -> nn.Module:
    """The network that `describe` described, with fresh weights; ValueError for an unknown type."""
    kind = description["type"]
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](*[build(layer) for layer in description["layers"]])
    if kind not in _LEAVES:
        raise ValueError(f"unknown layer {kind}")
    return _LEAVES[kind](*description["arguments"])
