"""Readers of `layers/nnx.py`."""

from __future__ import annotations

from torch import nn

from ..layers.arithmetic import MulConstant
from ..layers.nnx import SpatialPadding, SpatialReSampling
from .codec import Node
from .projects import build_pixel_convolution
from .registry import register

_MODES = ("simple", "average", "bilinear")


def build_padding(node: Node) -> nn.Module:
    left, right, top, bottom = (node.integer(f"pad_{side}") for side in "lrtb")
    y_dim, x_dim = node.count("y_dim", 2), node.count("x_dim", 3)
    if y_dim == x_dim:
        raise node.fail(f"height and width are both dimension {x_dim}")
    return SpatialPadding((left, right, top, bottom), y_dim, x_dim)


def build_upsampling(node: Node) -> nn.Module:
    times = float(node.count("dH")), float(node.count("dW"))
    return SpatialReSampling("simple", times, _y_dim(node))


def build_resampling(node: Node) -> nn.Module:
    """Lua keeps the sizes of its first call, whatever comes later."""
    return SpatialReSampling("bilinear", _sizes(node), y_dim=None, rounds=False)


def build_resampling_ex(node: Node) -> nn.Module:
    mode = node.text("mode", "simple")
    if mode not in _MODES:
        raise node.fail(f"the mode {mode} is none of {', '.join(_MODES)}")
    return SpatialReSampling(mode, _sizes(node), _y_dim(node))


def _y_dim(node: Node) -> int:
    y_dim: int = node.count("yDim", 2)
    if node.count("xDim", y_dim + 1) != y_dim + 1:
        raise node.fail("xDim has to be yDim + 1")
    return y_dim


def _sizes(node: Node) -> tuple[int | float, int | float]:
    """Height and width: as many pixels as the file says, else a fraction of the input's."""
    return _size(node, "height"), _size(node, "width")


def _size(node: Node, name: str) -> int | float:
    pixels: int | None = node.count(f"o{name}", None)
    if pixels is not None:
        return pixels
    ratio = float(node.number(f"r{name}"))
    if not 0 < ratio <= 1e6:
        raise node.fail(f"the field r{name} is no ratio of sizes: {ratio}")
    return ratio


def register_nnx() -> None:
    register("nn.Minus", lambda node: MulConstant(-1.0))
    register("nn.MultiSoftMax", lambda node: nn.Softmax(-1))
    register("nn.SpatialLinear", build_pixel_convolution)
    register("nn.SpatialPadding", build_padding)
    register("nn.SpatialUpSampling", build_upsampling)
    register("nn.SpatialReSampling", build_resampling)
    register("nn.SpatialReSamplingEx", build_resampling_ex)
