"""Readers of `layers/batch_last.py`: cunn's classes of 2013, and the package ccn2."""

from __future__ import annotations

from torch import nn

from ..layers.batch_last import BatchLast, BatchLastConvolution
from .codec import Node
from .registry import register
from .spatial import read_max_pooling
from .weights import read_planes, without_memory


def build_cuda_convolution(node: Node) -> nn.Module:
    """Lua's padding is that of both sides together."""
    kernel, stride = ((node.count(f"{k}H"), node.count(f"{k}W")) for k in "kd")
    both = node.integer("padding", 0)
    padding = (both // 2, both - both // 2)
    return _filled(node, kernel, stride, padding)


def build_ccn2_convolution(node: Node) -> nn.Module:
    """Files of before the groups are of before windows beyond the border, too."""
    kernel, stride = (node.count("kH"),) * 2, (node.count("dH", 1),) * 2
    padding = (node.integer("padding", 0),) * 2
    groups = node.count("groups", 1)
    return _filled(node, kernel, stride, padding, groups, whole=node.has("groups"))


def _filled(
    node: Node,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int = 1,
    whole: bool = False,
) -> nn.Module:
    inputs, outputs = read_planes(node)
    if inputs % groups or outputs % groups:
        raise node.fail(f"{inputs} and {outputs} planes are not divided by {groups} groups")
    if min(padding) < 0:
        raise node.fail(f"the field padding is negative: {min(padding)}")
    sizes = (inputs, outputs, kernel, stride, padding, groups, whole)
    return node.fill(without_memory(lambda: BatchLastConvolution(*sizes)))


def build_cuda_pooling(node: Node) -> nn.Module:
    return BatchLast(read_max_pooling(node))


def build_ccn2_pooling(node: Node) -> nn.Module:
    kernel = node.count("kW")
    return BatchLast(nn.MaxPool2d(kernel, node.count("dW", kernel), ceil_mode=True))


def register_batch_last() -> None:
    register("nn.SpatialConvolutionCUDA", build_cuda_convolution)
    register("nn.SpatialMaxPoolingCUDA", build_cuda_pooling)
    register("ccn2.SpatialConvolution", build_ccn2_convolution)
    register("ccn2.SpatialMaxPooling", build_ccn2_pooling)
