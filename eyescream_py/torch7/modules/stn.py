"""Readers of `layers/stn.py`, and of what else the package inn had before nn had it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..files.values import Table, TorchObject
from ..layers import stn
from ..layers.containers import SpatialPyramidPooling
from .codec import Node, Writer
from .containers import read_sequential
from .registry import register
from .spatial import read_average_pooling, read_lrn, read_max_pooling

_PARTS = ("useRotation", "useScale", "useTranslation")


def build_matrix(node: Node) -> nn.Module:
    """``fullMode``: none of the three."""
    full = node.boolean("fullMode", False)
    used = [not full and node.boolean(name, False) for name in _PARTS]
    return stn.AffineTransformMatrixGenerator(*used)


def write_matrix(module: Any, writer: Writer) -> dict[str, Any]:
    used = (module.rotation, module.scale, module.translation)
    return {"fullMode": not any(used), **dict(zip(_PARTS, used, strict=True))}


def build_grid(node: Node) -> nn.Module:
    return stn.AffineGridGenerator(node.count("height"), node.count("width"))


def in_inn(read: Callable[[Node], nn.Module]) -> Callable[[Node], nn.Module]:
    """inn's poolings keep the last, partial window, whatever the fields of their parents say."""

    def build(node: Node) -> nn.Module:
        fields = Table(node.obj.fields, ceil_mode=True, divide=True, count_include_pad=True)
        return read(Node(TorchObject(node.obj.typename, fields), node.place, node.reader))

    return build


def build_mean(node: Node) -> nn.Module:
    """Lua keeps the mean repeated for a batch."""
    mean = node.obj.fields.get("mean")
    one = mean[0] if isinstance(mean, Tensor) and mean.dim() == 4 else mean
    whole = Node(TorchObject("", Table(mean=one)), node.place, node.reader)
    return stn.MeanSubtraction(whole.buffer("mean", whole.tensor("mean").shape))


def build_affine(node: Node) -> nn.Module:
    planes = node.tensor("a").numel()
    return stn.ConstAffine(node.buffer("a", (planes,)), node.buffer("b", (planes,)))


def register_stn() -> None:
    register(
        "nn.AffineTransformMatrixGenerator",
        build_matrix,
        stn.AffineTransformMatrixGenerator,
        write_matrix,
    )
    register("nn.AffineGridGeneratorBHWD", build_grid)
    register(
        "nn.BilinearSamplerBHWD",
        lambda node: stn.BilinearSampler(),
        stn.BilinearSampler,
        lambda module, writer: {"gradInput": Table()},
    )
    register("inn.SpatialMaxPooling", in_inn(read_max_pooling))
    register("inn.SpatialAveragePooling", in_inn(read_average_pooling))
    register("inn.SpatialCrossResponseNormalization", read_lrn)
    register("inn.SpatialSameResponseNormalization", read_sequential)
    register("inn.MeanSubtraction", build_mean)
    register("inn.SpatialPyramidPooling", lambda node: SpatialPyramidPooling(*node.children()))
    register("inn.LocalResponseNormalization", lambda node: node.child("modules"))
    for name in ("inn.ConstAffine", "inn.SpatialConstAffine"):
        register(name, build_affine)
