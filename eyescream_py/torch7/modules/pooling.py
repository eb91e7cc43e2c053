"""Converters of `layers/pooling.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..layers import pooling as pooling
from .codec import Codec, Node, Plain, Writer, long_storage, plain
from .weights import without_memory


def read_unpooling(node: Node) -> nn.Module:
    found = node.child("pooling")
    if not isinstance(found, pooling.SpatialMaxPooling | pooling.VolumetricMaxPooling):
        raise node.fail("the field pooling holds no max pooling")
    return pooling.MaxUnpooling(found)


def write_unpooling(module: Any, writer: Writer) -> dict[str, Any]:
    return {"pooling": writer.obj(module.pooling)}


def read_fractional(axes: str) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        pool = [node.count(f"poolSize{axis}") for axis in axes]
        ratio = [node.number(f"ratio{axis}", None) for axis in axes]
        by_ratio = None not in ratio
        out = None if by_ratio else [node.count(f"out{axis}") for axis in axes]
        samples = None
        if node.has("randomSamples"):
            samples = node.buffer("randomSamples", node.tensor("randomSamples").shape)
        fixed = node.boolean("newRandomPool", False)  # its meaning in Lua, despite the name
        return pooling.FractionalMaxPooling(pool, out, ratio if by_ratio else None, samples, fixed)

    return read


def write_fractional(module: Any, writer: Writer) -> dict[str, Any]:
    axes = "HW" if len(module.pool) == 2 else "HWT"
    name, values = ("out", module.out) if module.ratio is None else ("ratio", module.ratio)
    fields = {f"poolSize{axis}": size for axis, size in zip(axes, module.pool, strict=True)}
    fields.update({f"{name}{axis}": value for axis, value in zip(axes, values, strict=True)})
    if module.samples is not None:
        fields["randomSamples"] = writer.tensor(module.samples)
    return {**fields, "newRandomPool": module.fixed, "indices": torch.empty(0, dtype=torch.int64)}


def read_sub_sampling(node: Node) -> nn.Module:
    kernel = node.count("kH"), node.count("kW")
    stride = node.count("dH", 1), node.count("dW", 1)
    planes = node.count("nInputPlane")
    return node.fill(without_memory(lambda: pooling.SpatialSubSampling(planes, kernel, stride)))


def write_sub_sampling(module: Any, writer: Writer) -> dict[str, Any]:
    (k_h, k_w), (d_h, d_w) = module.kernel_size, module.stride
    sizes = {"kH": k_h, "kW": k_w, "dH": d_h, "dW": d_w}
    return {"nInputPlane": module.planes, **sizes, **writer.weights_of(module)}


def read_up_sampling(node: Node) -> nn.Module:
    mode = node.text("mode", "nearest")
    if node.has("scale_factor") or not node.has("oheight"):
        return pooling.UpSampling(node.count("scale_factor"), mode)
    sizes = node.count("odepth", None), node.count("oheight"), node.count("owidth")
    return pooling.UpSampling(None, mode, sizes)


def write_up_sampling(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = {"scale_factor": module.scale_factor}
    if module.sizes is not None:
        sizes = dict(zip(("odepth", "oheight", "owidth"), module.sizes, strict=True))
    return {
        **{name: size for name, size in sizes.items() if size is not None},
        "mode": module.mode,
        "inputSize": long_storage([0] * 5),
        "outputSize": long_storage([0] * 5),
    }


def is_spatial(module: Any) -> bool:
    return isinstance(module.pooling, nn.MaxPool2d)


def is_flat(module: Any) -> bool:
    return len(module.pool) == 2


CODECS = [
    Codec(
        ("SpatialMaxUnpooling",),
        pooling.MaxUnpooling,
        read_unpooling,
        write_unpooling,
        fits=is_spatial,
    ),
    Codec(("VolumetricMaxUnpooling",), pooling.MaxUnpooling, read_unpooling, write_unpooling),
    Codec(
        ("SpatialFractionalMaxPooling",),
        pooling.FractionalMaxPooling,
        read_fractional("HW"),
        write_fractional,
        fits=is_flat,
    ),
    Codec(
        ("VolumetricFractionalMaxPooling",),
        pooling.FractionalMaxPooling,
        read_fractional("HWT"),
        write_fractional,
    ),
    plain(
        "FeatureLPPooling",
        pooling.FeatureLPPooling,
        Plain("width", "width", int),
        Plain("stride", "stride", int),
        Plain("power", "power", float, 2.0),
        Plain("batch_mode", "batch_mode", bool, False),
    ),
    Codec(
        ("SpatialSubSampling",), pooling.SpatialSubSampling, read_sub_sampling, write_sub_sampling
    ),
    Codec(("UpSampling",), pooling.UpSampling, read_up_sampling, write_up_sampling),
]
