"""Converters of the layers on sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers import temporal as temporal
from .codec import Codec, Node, Plain, Writer, long_storage, plain
from .weights import without_memory


def read_convolution(node: Node) -> nn.Module:
    """cudnn's class is a convolution of images: time is their height, a frame their width."""
    frames = node.count("inputFrameSize"), node.count("outputFrameSize")
    if node.obj.typename.startswith("cudnn."):
        window = node.count("kH"), node.count("dH", 1), node.integer("padH", 0)
    else:
        window = node.count("kW"), node.count("dW", 1), 0
    sizes = *frames, *window, node.has("bias")
    return node.fill(without_memory(lambda: temporal.TemporalConvolution(*sizes)))


def write_padded_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "inputFrameSize": module.in_frame,
        "outputFrameSize": module.out_frame,
        "nInputPlane": 1,
        "nOutputPlane": module.out_frame,
        "kW": module.in_frame,
        "kH": module.k_w,
        "dW": 1,
        "dH": module.d_w,
        "padW": 0,
        "padH": module.padding,
        "groups": 1,
        "iSize": long_storage([0] * 4),
        **writer.weights_of(module),
    }


def write_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "inputFrameSize": module.in_frame,
        "outputFrameSize": module.out_frame,
        "kW": module.k_w,
        "dW": module.d_w,
        **writer.weights_of(module),
    }


def read_row_convolution(node: Node) -> nn.Module:
    sizes = node.count("inputFrameSize"), node.count("kW"), node.count("dW", 1)
    first, bias = node.boolean("featFirst", False), node.has("bias")
    make = temporal.TemporalRowConvolution
    return node.fill(without_memory(lambda: make(*sizes, first, bias)))


def write_row_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "inputFrameSize": module.in_frame,
        "kW": module.k_w,
        "dW": module.d_w,
        "featFirst": module.feat_first,
        "finput": writer.empty(),
        "fgradInput": writer.empty(),
        **writer.weights_of(module),
    }


def read_sub_sampling(node: Node) -> nn.Module:
    sizes = node.count("inputFrameSize"), node.count("kW"), node.count("dW", 1)
    return node.fill(without_memory(lambda: temporal.TemporalSubSampling(*sizes)))


def write_sub_sampling(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = {"inputFrameSize": module.in_frame, "kW": module.k_w, "dW": module.d_w}
    return {**sizes, **writer.weights_of(module)}


def write_max_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    indices = torch.empty(0, dtype=torch.int64)
    return {"kW": module.k_w, "dW": module.d_w, "indices": indices}


CODECS = [
    Codec(
        ("TemporalConvolution",),
        temporal.TemporalConvolution,
        read_convolution,
        write_padded_convolution,
        written="cudnn.TemporalConvolution",
        fits=lambda module: module.padding > 0,
    ),
    Codec(
        ("TemporalConvolution",),
        temporal.TemporalConvolution,
        read_convolution,
        write_convolution,
    ),
    Codec(
        ("TemporalRowConvolution",),
        temporal.TemporalRowConvolution,
        read_row_convolution,
        write_row_convolution,
    ),
    Codec(
        ("TemporalSubSampling",),
        temporal.TemporalSubSampling,
        read_sub_sampling,
        write_sub_sampling,
    ),
    Codec(
        ("TemporalMaxPooling",),
        temporal.TemporalMaxPooling,
        lambda node: temporal.TemporalMaxPooling(node.count("kW"), node.count("dW", None)),
        write_max_pooling,
    ),
    plain(
        "TemporalDynamicKMaxPooling",
        temporal.TemporalDynamicKMaxPooling,
        Plain("minK", "min_k", int),
        Plain("factor", "factor", float, 0.0),
        buffers=("indices",),
    ),
]
