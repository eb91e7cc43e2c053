"""Converters of the layers on volumes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import T7Error
from ..files.values import Table, TorchObject
from ..layers import pooling
from ..layers.volumetric import VolumetricDropout, VolumetricFullConvolution
from .codec import Codec, Node, Plain, Writer, plain
from .weights import without_memory

AXES = ("T", "H", "W")


def triple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """torch's (time, height, width) of a kernel, stride, padding or dilation."""
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def read_geometry(node: Node, stride: int | None = 1) -> dict[str, Any]:
    """kernel_size, stride and padding; no ``stride`` in the file: 1, or with None the kernel's."""
    kernel = tuple(node.count(f"k{axis}") for axis in AXES)
    steps = kernel if stride is None else (stride,) * 3
    both = node.integer("padding", 0)
    return {
        "kernel_size": kernel,
        "stride": tuple(node.count(f"d{a}", d) for a, d in zip(AXES, steps, strict=True)),
        "padding": tuple(node.integer(f"pad{axis}", both) for axis in AXES),
    }


def write_geometry(module: Any) -> dict[str, Any]:
    if isinstance(module.padding, str):
        raise T7Error(f"{type(module).__name__}: padding={module.padding!r} has to be a number")
    named = (("k", module.kernel_size), ("d", module.stride), ("pad", module.padding))
    return {
        f"{name}{axis}": size
        for name, sizes in named
        for axis, size in zip(AXES, triple(sizes), strict=True)
    }


def axes(node: Node, name: str, default: int) -> tuple[int, ...]:
    return tuple(node.integer(f"{name}{axis}", default) for axis in AXES)


def write_axes(name: str, sizes: Any) -> dict[str, int]:
    return {f"{name}{axis}": n for axis, n in zip(AXES, triple(sizes), strict=True)}


def read_convolution(node: Node) -> nn.Module:
    planes = node.count("nInputPlane"), node.count("nOutputPlane")
    geometry, dilation = read_geometry(node), axes(node, "dilation", 1)
    groups, bias = node.count("groups", 1), node.has("bias")
    return node.fill(
        without_memory(
            lambda: nn.Conv3d(*planes, **geometry, dilation=dilation, groups=groups, bias=bias)  # type: ignore[arg-type]
        )
    )


def write_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    if module.padding_mode != "zeros" or module.groups != 1:
        raise T7Error("Conv3d: padding_mode and groups have no Lua class")
    return {
        "nInputPlane": module.in_channels,
        "nOutputPlane": module.out_channels,
        **write_geometry(module),
        **writer.weights_of(module),
        "finput": writer.empty(),
        "fgradInput": writer.empty(),
    }


def write_dilated(module: Any, writer: Writer) -> dict[str, Any]:
    return {**write_convolution(module, writer), **write_axes("dilation", module.dilation)}


def as_before_adj(node: Node) -> Node:
    """A nn.VolumetricFullConvolution of 2015: weights (out, in, ...), padding pT, pW, pH."""
    weight = node.tensor("weight")
    if weight.dim() != 5:
        raise node.fail(f"weight has shape {tuple(weight.shape)}, expected five dimensions")
    fields = Table(node.obj.fields, weight=weight.transpose(0, 1))
    for axis in AXES:
        fields[f"pad{axis}"] = fields.get(f"pad{axis}", fields.get(f"p{axis}"))
    return Node(TorchObject(node.obj.typename, fields), node.place, node.reader)


def read_full_convolution(node: Node) -> nn.Module:
    if node.obj.typename == "nn.VolumetricFullConvolution" and not node.has("adjW"):
        node = as_before_adj(node)
    planes = node.count("nInputPlane"), node.count("nOutputPlane")
    geometry, bias = read_geometry(node), node.has("bias")
    geometry["output_padding"] = axes(node, "adj", 0)
    return node.fill(
        without_memory(lambda: VolumetricFullConvolution(*planes, **geometry, bias=bias))
    )


def write_full_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    if triple(module.dilation) != (1, 1, 1):
        raise T7Error("ConvTranspose3d: dilation has no Lua class")
    fields = write_convolution(module, writer)
    return {**fields, **write_axes("adj", module.output_padding), "ones": writer.empty()}


def read_max_pooling(node: Node) -> nn.Module:
    return pooling.VolumetricMaxPooling(
        **read_geometry(node, None),
        dilation=axes(node, "dilation", 1),
        ceil_mode=node.boolean("ceil_mode", False),
    )


def write_max_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    indices = torch.empty(0, dtype=torch.int64)
    return {**write_geometry(module), "ceil_mode": module.ceil_mode, "indices": indices}


def write_dilated_max_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    return {**write_max_pooling(module, writer), **write_axes("dilation", module.dilation)}


def read_average_pooling(node: Node) -> nn.Module:
    excludes = node.obj.fields.get("mode") == "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING"
    return pooling.VolumetricAveragePooling(
        **read_geometry(node, None),
        ceil_mode=node.boolean("ceil_mode", False),
        count_include_pad=node.boolean("count_include_pad", not excludes),
    )


def write_average_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    if module.divisor_override is not None:
        raise T7Error("AvgPool3d: divisor_override has no Lua field")
    return {
        **write_geometry(module),
        "ceil_mode": module.ceil_mode,
        "count_include_pad": module.count_include_pad,
    }


SIDES = ("pleft", "pright", "ptop", "pbottom", "pfront", "pback")


def read_padding(node: Node) -> nn.Module:
    left = node.integer("pleft")
    return nn.ReplicationPad3d(tuple(node.integer(side, left) for side in SIDES))


def write_padding(module: Any, writer: Writer) -> dict[str, Any]:
    return dict(zip(SIDES, module.padding, strict=True))


def is_dilated(module: Any) -> bool:
    return triple(module.dilation) != (1, 1, 1)


CONVOLUTIONS = [
    Codec(
        ("VolumetricDilatedConvolution",),
        nn.Conv3d,
        read_convolution,
        write_dilated,
        fits=is_dilated,
    ),
    Codec(("VolumetricConvolution",), nn.Conv3d, read_convolution, write_convolution),
    Codec(
        ("VolumetricFullConvolution",),
        nn.ConvTranspose3d,
        read_full_convolution,
        write_full_convolution,
    ),
]

CODECS = [
    *CONVOLUTIONS,
    Codec(
        ("VolumetricDilatedMaxPooling",),
        nn.MaxPool3d,
        read_max_pooling,
        write_dilated_max_pooling,
        fits=is_dilated,
    ),
    Codec(("VolumetricMaxPooling",), nn.MaxPool3d, read_max_pooling, write_max_pooling, version=2),
    Codec(("VolumetricAveragePooling",), nn.AvgPool3d, read_average_pooling, write_average_pooling),
    Codec(("VolumetricReplicationPadding",), nn.ReplicationPad3d, read_padding, write_padding),
    plain(
        "VolumetricDropout",
        VolumetricDropout,
        Plain("p", "p", float, 0.5),
        Plain("stochastic_inference", "stochastic_inference", bool, False),
        buffers=("noise",),
    ),
]
