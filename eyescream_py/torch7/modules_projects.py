"""Readers of well-known programs' classes, and the example of what `register` is for."""

from __future__ import annotations

from typing import Any

from . import layers, layers_projects
from .modules_codec import Node, Writer
from .registry import register

_MEASURES = ("nn.ContentLoss", "nn.StyleLoss", "nn.DeepDreamLoss")


def build_leaky_relu(node: Node) -> layers.LeakyReLU:
    """waifu2x's own, older than nn's."""
    return layers.LeakyReLU(node.number("negative_scale", 0.333))


def register_projects() -> None:
    _register_waifu2x()
    register(
        "nn.ShaveImage",
        lambda layer: layers_projects.ShaveImage(layer.count("size")),
        layers_projects.ShaveImage,
        lambda module, writer: {"size": module.size},
    )
    for name in ("nn.TotalVariation", "nn.TVLoss"):
        register(
            name,
            lambda layer: layers_projects.TotalVariation(layer.number("strength", 0.0)),
            layers_projects.TotalVariation,
            write_total_variation,
        )
    for name in _MEASURES:
        register(name, lambda layer: layers_projects.PassOn())
    register(
        "nn.FeatExpander",
        lambda layer: layers_projects.FeatExpander(layer.count("n")),
        layers_projects.FeatExpander,
        lambda module, writer: {"n": module.n},
    )
    register(
        "nn.GramMatrix",
        lambda layer: layers_projects.GramMatrix(layer.boolean("normalize", False)),
        layers_projects.GramMatrix,
        lambda module, writer: {"normalize": module.normalize},
    )


def _register_waifu2x() -> None:
    for name in ("w2nn.InplaceClip01", "w2nn.Clip01"):
        register(name, lambda layer: layers_projects.Clip01(), layers_projects.Clip01)
    for name in ("w2nn.LeakyReLU", "w2nn.LeakyReLU_deprecated"):
        register(name, build_leaky_relu)
    register(
        "w2nn.DepthExpand2x",
        lambda layer: layers_projects.DepthExpand2x(),
        layers_projects.DepthExpand2x,
    )
    register(
        "w2nn.ScaleTable", lambda layer: layers_projects.ScaleTable(), layers_projects.ScaleTable
    )
    register(
        "w2nn.AuxiliaryLossTable",
        lambda layer: layers_projects.AuxiliaryLossTable(layer.count("i", 1)),
        layers_projects.AuxiliaryLossTable,
        lambda module, writer: {"i": module.i},
    )
    register("w2nn.Print", lambda layer: layers_projects.PassOn())


def write_total_variation(module: Any, writer: Writer) -> dict[str, Any]:
    return {"strength": module.strength}
