"""Converters of `layers/normalization.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..files.values import Table, TorchObject
from ..layers import normalization as normalization
from .codec import Codec, Node, Writer
from .weights import without_memory


def read_linear_weight_norm(node: Node) -> nn.Module:
    shape = node.tensor("v").shape
    if len(shape) != 2:
        raise node.fail(f"v has shape {tuple(shape)}, expected (outputs, inputs)")
    eps, bias = node.number("eps", 1e-16), node.has("bias")
    make = normalization.LinearWeightNorm
    return node.fill(without_memory(lambda: make(shape[1], shape[0], bias, eps)))


def write_linear_weight_norm(module: Any, writer: Writer) -> dict[str, Any]:
    outputs, inputs = module.v.shape
    whole = module.v.detach().double()  # a file's eps may be beyond float's numbers
    norm = torch.linalg.vector_norm(whole, dim=1, keepdim=True).clamp(min=module.eps)
    (v, grad_v), (g, grad_g) = writer.weight(module.v), writer.weight(module.g)
    scale = module.g.detach() / norm
    fields = {
        "inputSize": inputs,
        "outputSize": outputs,
        "eps": module.eps,
        "weight": writer.tensor(module.v * scale),
        "gradWeight": writer.tensor(torch.zeros_like(module.v)),
        "v": v,
        "gradV": grad_v,
        "g": g,
        "gradG": grad_g,
        "norm": writer.tensor(norm),
        "scale": writer.tensor(scale),
    }
    if module.bias is not None:
        fields["bias"], fields["gradBias"] = writer.weight(module.bias)
    return fields


def read_weight_norm(node: Node) -> nn.Module:
    """Lua's file holds the wrapped layer without a weight: there is none but in use."""
    modules = node.obj.fields.get("modules")
    inner = modules.get(1) if isinstance(modules, Table) else None
    if not isinstance(inner, TorchObject) or not isinstance(inner.fields, Table):
        raise node.fail("it wraps no module")
    size, shape = node.sizes("weightSize") if node.has("weightSize") else (), node.sizes("viewOut")
    dim, v = node.count("outputDim", 1), node.tensor("v")
    if math.prod(shape) != v.numel() or min(shape, default=0) < 1 or dim > len(shape):
        raise node.fail(f"v has {v.numel()} elements, viewOut is {shape}")
    if not size:
        size = (*shape[1:dim], shape[0], *shape[dim:])
    if sorted(size) != sorted(shape):
        raise node.fail(f"weightSize {size} is no order of viewOut {shape}")
    weight = v.new_zeros(size)
    whole = TorchObject(inner.typename, Table(inner.fields, weight=weight), inner.version)
    layer = node.reader.module(whole, f"{node.place} > (1)")
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise node.fail("the layer within has no weight")
    parameters = node.parameter("v", (shape[0], v.numel() // shape[0]))
    gains = node.parameter("g", (shape[0], 1))
    return normalization.WeightNorm(layer, parameters, gains, shape, dim)


def read_subtractive(node: Node) -> nn.Module:
    return normalization.SpatialSubtractiveNormalization(node.child("meanestimator"))


def read_divisive(node: Node) -> nn.Module:
    threshold = node.real("threshold", 1e-4)
    return normalization.SpatialDivisiveNormalization(
        node.child("meanestimator"),
        node.child("stdestimator"),
        threshold,
        node.real("thresval", threshold),
    )


def read_contrastive(node: Node) -> nn.Module:
    return normalization.SpatialContrastiveNormalization(node.child("normalizer"))


CODECS = [
    Codec(
        ("LinearWeightNorm",),
        normalization.LinearWeightNorm,
        read_linear_weight_norm,
        write_linear_weight_norm,
    ),
    Codec(("WeightNorm",), None, read_weight_norm),
    Codec(("SpatialSubtractiveNormalization",), None, read_subtractive),
    Codec(("SpatialDivisiveNormalization",), None, read_divisive),
    Codec(("SpatialContrastiveNormalization",), None, read_contrastive),
]
