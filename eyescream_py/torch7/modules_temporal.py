"""Converters of the layers on sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import layers_temporal as temporal
from .modules_codec import Codec, Node, Plain, Writer, plain
from .modules_weights import without_memory


def read_convolution(node: Node) -> nn.Module:
    frames = node.count("inputFrameSize"), node.count("outputFrameSize")
    window = node.count("kW"), node.count("dW", 1)
    return node.fill(without_memory(lambda: temporal.TemporalConvolution(*frames, *window)))


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
