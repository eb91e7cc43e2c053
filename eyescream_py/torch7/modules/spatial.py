"""Converters of the layers on images: pooling, padding, upsampling, local normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import T7Error
from ..layers.normalization import CrossMapLRNAhead, SpatialCrossMapLRN
from ..layers.pooling import (
    SpatialAveragePooling,
    SpatialMaxPooling,
    SpatialUndividedPooling,
    SpatialUpSamplingBilinear,
    SpatialUpSamplingBilinearTo,
    SpatialUpSamplingNearest,
)
from .codec import Codec, Node, Writer, long_storage
from .weights import is_dilated, pair, read_geometry, write_geometry


def read_max_pooling(node: Node) -> nn.Module:
    return SpatialMaxPooling(
        **read_geometry(node, stride=None),
        dilation=(node.count("dilationH", 1), node.count("dilationW", 1)),
        ceil_mode=node.boolean("ceil_mode", False),
    )


def write_max_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        **write_geometry(module),
        "ceil_mode": module.ceil_mode,
        "indices": torch.empty(0, dtype=torch.int64),
    }


def write_dilated_max_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    dilation_h, dilation_w = pair(module.dilation)
    fields = write_max_pooling(module, writer)
    return {**fields, "dilationH": dilation_h, "dilationW": dilation_w}


def read_average_pooling(node: Node) -> nn.Module:
    """``divide`` false, or missing but in cudnn: means times the size of the window."""
    is_cudnn = node.obj.typename.startswith("cudnn.")
    excludes = node.obj.fields.get("mode") == "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING"
    divides = node.boolean("divide", is_cudnn)
    python = SpatialAveragePooling if divides else SpatialUndividedPooling
    return python(
        **read_geometry(node),
        ceil_mode=node.boolean("ceil_mode", False),
        count_include_pad=node.boolean("count_include_pad", not excludes),
    )


def write_average_pooling(module: Any, writer: Writer) -> dict[str, Any]:
    # a divisor of 1 is what Lua does without ``divide`` where all windows are whole
    whole = module.count_include_pad and not module.ceil_mode
    if module.divisor_override is not None and not (module.divisor_override == 1 and whole):
        raise T7Error(f"AvgPool2d: divisor_override={module.divisor_override} has no Lua field")
    undivided = isinstance(module, SpatialUndividedPooling) or module.divisor_override is not None
    return {
        **write_geometry(module),
        "ceil_mode": module.ceil_mode,
        "count_include_pad": module.count_include_pad,
        "divide": not undivided,
    }


def read_adaptive(python: Callable[[tuple[int, int]], nn.Module]) -> Callable[[Node], nn.Module]:
    return lambda node: python((node.count("H"), node.count("W")))


def write_adaptive(module: Any, writer: Writer) -> dict[str, Any]:
    height, width = pair(module.output_size)
    if height is None or width is None:
        raise T7Error(f"{type(module).__name__}: Lua needs both output sizes as numbers")
    return {"H": height, "W": width}


def write_adaptive_max(module: Any, writer: Writer) -> dict[str, Any]:
    indices = torch.empty(0, dtype=torch.int64)
    return {**write_adaptive(module, writer), "indices": indices}


def read_padding(python: Callable[[Any], nn.Module]) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        left = node.integer("pad_l")
        right, top, bottom = (node.integer(name, left) for name in ("pad_r", "pad_t", "pad_b"))
        return python((left, right, top, bottom))

    return read


def write_padding(module: Any, writer: Writer) -> dict[str, Any]:
    return dict(zip(("pad_l", "pad_r", "pad_t", "pad_b"), module.padding, strict=True))


def write_upsampling(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "scale_factor": module.scale_factor,
        "inputSize": long_storage([0] * 4),
        "outputSize": long_storage([0] * 4),
    }


def read_bilinear(node: Node) -> nn.Module:
    if not node.has("scale_factor"):
        return SpatialUpSamplingBilinearTo(node.count("oheight"), node.count("owidth"))
    return SpatialUpSamplingBilinear(node.count("scale_factor"))


def write_bilinear_to(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = {"inputSize": long_storage([0] * 4), "outputSize": long_storage([0] * 4)}
    return {"oheight": module.height, "owidth": module.width, **sizes}


def read_pixel_shuffle(node: Node) -> nn.Module:
    return nn.PixelShuffle(node.count("upscaleFactor"))


def write_pixel_shuffle(module: Any, writer: Writer) -> dict[str, Any]:
    factor = module.upscale_factor
    return {"upscaleFactor": factor, "upscaleFactorSquared": factor * factor}


def read_lrn(node: Node) -> nn.Module:
    """Old files of cudnn name ``k`` with a capital."""
    size = node.count("size")
    even = size % 2 == 0
    if even and node.obj.typename.startswith("nn."):
        raise node.fail(f"Lua runs this class with an odd size only, not {size}")
    k = node.number("k", node.number("K", 1.0))
    python = CrossMapLRNAhead if even else SpatialCrossMapLRN
    return python(size, node.number("alpha", 1e-4), node.number("beta", 0.75), k)


def write_lrn(module: Any, writer: Writer) -> dict[str, Any]:
    if module.size % 2 == 0:
        raise T7Error(f"LocalResponseNorm: Lua's class needs an odd size, not {module.size}")
    return {"size": module.size, "alpha": module.alpha, "beta": module.beta, "k": module.k}


CODECS = [
    Codec(
        ("SpatialDilatedMaxPooling",),
        nn.MaxPool2d,
        read_max_pooling,
        write_dilated_max_pooling,
        fits=is_dilated,
    ),
    Codec(("SpatialMaxPooling",), nn.MaxPool2d, read_max_pooling, write_max_pooling),
    Codec(("SpatialAveragePooling",), nn.AvgPool2d, read_average_pooling, write_average_pooling),
    Codec(
        ("SpatialAdaptiveMaxPooling",),
        nn.AdaptiveMaxPool2d,
        read_adaptive(nn.AdaptiveMaxPool2d),
        write_adaptive_max,
    ),
    Codec(
        ("SpatialAdaptiveAveragePooling",),
        nn.AdaptiveAvgPool2d,
        read_adaptive(nn.AdaptiveAvgPool2d),
        write_adaptive,
    ),
    *(
        Codec((lua,), python, read_padding(python), write_padding)
        for lua, python in (
            ("SpatialZeroPadding", nn.ZeroPad2d),
            ("SpatialReflectionPadding", nn.ReflectionPad2d),
            ("SpatialReplicationPadding", nn.ReplicationPad2d),
        )
    ),
    Codec(
        ("SpatialUpSamplingNearest",),
        SpatialUpSamplingNearest,
        lambda node: SpatialUpSamplingNearest(node.count("scale_factor")),
        write_upsampling,
    ),
    Codec(
        ("SpatialUpSamplingBilinear",),
        SpatialUpSamplingBilinear,
        read_bilinear,
        write_upsampling,
    ),
    Codec(
        ("SpatialUpSamplingBilinear",),
        SpatialUpSamplingBilinearTo,
        read_bilinear,
        write_bilinear_to,
    ),
    Codec(("PixelShuffle",), nn.PixelShuffle, read_pixel_shuffle, write_pixel_shuffle),
    Codec(("SpatialCrossMapLRN",), nn.LocalResponseNorm, read_lrn, write_lrn),
]
