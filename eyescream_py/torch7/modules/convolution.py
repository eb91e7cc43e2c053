"""Converters of `layers/convolution.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..layers import convolution as convolution
from .codec import Codec, Node, Writer
from .weights import read_geometry, read_planes, without_memory, write_geometry


def read_map(full: bool) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        planes, geometry = read_planes(node), read_geometry(node)
        rows = node.indices("connTable", columns=2)
        if rows.min() < 1 or (rows.max(0).values > torch.tensor(planes)).any():
            raise node.fail("the field connTable names planes that there are not")
        size, stride = geometry["kernel_size"], geometry["stride"]
        meta = rows.to("meta")
        module: Any = without_memory(
            lambda: convolution.SpatialConvolutionMap(meta, planes, size, stride, full)
        )
        module.table = rows
        return node.fill(module)

    return read


def write_map(module: Any, writer: Writer) -> dict[str, Any]:
    (k_h, k_w), (d_h, d_w) = module.kernel_size, module.stride
    return {
        "nInputPlane": module.planes[0],
        "nOutputPlane": module.planes[1],
        "kH": k_h,
        "kW": k_w,
        "dH": d_h,
        "dW": d_w,
        "connTable": writer.tensor(module.table),
        **writer.weights_of(module),
    }


def read_local(node: Node) -> nn.Module:
    planes, geometry = read_planes(node), read_geometry(node)
    sizes = node.count("iH"), node.count("iW")
    make = convolution.SpatialConvolutionLocal
    return node.fill(without_memory(lambda: make(planes, **geometry, input_size=sizes)))


def write_planes(module: Any, writer: Writer) -> dict[str, Any]:
    inputs, outputs = module.planes
    geometry = write_geometry(module)
    planes = {"nInputPlane": inputs, "nOutputPlane": outputs}
    return {**planes, **geometry, **writer.weights_of(module)}


def write_local(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = (*module.input_size, *module.output_size)
    buffers = {"finput": writer.empty(), "fgradInput": writer.empty()}
    return {
        **write_planes(module, writer),
        **dict(zip(("iH", "iW", "oH", "oW"), sizes, strict=True)),
        **buffers,
    }


def read_depth_wise(node: Node) -> nn.Module:
    planes, geometry, bias = read_planes(node), read_geometry(node), node.has("bias")
    make = convolution.SpatialDepthWiseConvolution
    return node.fill(without_memory(lambda: make(*planes, **geometry, bias=bias)))


def write_depth_wise(module: Any, writer: Writer) -> dict[str, Any]:
    planes = {"nInputPlane": module.planes, "nOutputPlane": module.multiplier}
    buffers = {"finput": writer.empty(), "fgradInput": writer.empty()}
    return {**planes, **write_geometry(module), **buffers, **writer.weights_of(module)}


def read_binary(node: Node) -> nn.Module:
    planes, geometry = read_planes(node), read_geometry(node)
    make = convolution.SpatialBinaryConvolution
    return node.fill(without_memory(lambda: make(planes, **geometry)))


def write_binary(module: Any, writer: Writer) -> dict[str, Any]:
    (inputs, outputs), (k_h, k_w) = module.planes, module.kernel_size
    counts = {"iwh": inputs * k_h * k_w, "owh": outputs * k_h * k_w}
    return {**write_planes(module, writer), **counts}


def is_full(module: Any) -> bool:
    return module.full


MAP = convolution.SpatialConvolutionMap
CODECS = [
    Codec(("SpatialFullConvolutionMap",), MAP, read_map(True), write_map, fits=is_full),
    Codec(("SpatialConvolutionMap",), MAP, read_map(False), write_map),
    Codec(
        ("SpatialConvolutionLocal",), convolution.SpatialConvolutionLocal, read_local, write_local
    ),
    Codec(
        ("SpatialDepthWiseConvolution",),
        convolution.SpatialDepthWiseConvolution,
        read_depth_wise,
        write_depth_wise,
    ),
    Codec(
        ("SpatialBinaryConvolution",),
        convolution.SpatialBinaryConvolution,
        read_binary,
        write_binary,
    ),
]
