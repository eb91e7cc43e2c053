"""Readers of well-known programs' classes, and the example of what `register` is for."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers import projects, published, simple
from ..layers.activations import LeakyReLU
from ..layers.arithmetic import Normalize
from .codec import Node, Writer
from .registry import register
from .weights import MAX_PLANES, without_memory

_MASKED = ("n_colors", "num_mask_noise_times", "num_noise_channels")
_MEASURES = ("nn.ContentLoss", "nn.StyleLoss", "nn.DeepDreamLoss")


def build_leaky_relu(node: Node) -> LeakyReLU:
    """waifu2x's own, older than nn's."""
    return LeakyReLU(node.number("negative_scale", 0.333))


def register_projects() -> None:
    _register_waifu2x()
    _register_published()
    register(
        "nn.ShaveImage",
        lambda layer: projects.ShaveImage(layer.count("size")),
        projects.ShaveImage,
        lambda module, writer: {"size": module.size},
    )
    for name in ("nn.TotalVariation", "nn.TVLoss"):
        register(
            name,
            lambda layer: projects.TotalVariation(layer.number("strength", 0.0)),
            projects.TotalVariation,
            write_total_variation,
        )
    for name in _MEASURES:
        register(name, lambda layer: projects.PassOn())
    register(
        "nn.FeatExpander",
        lambda layer: projects.FeatExpander(layer.count("n")),
        projects.FeatExpander,
        lambda module, writer: {"n": module.n},
    )
    register(
        "nn.GramMatrix",
        lambda layer: projects.GramMatrix(layer.boolean("normalize", False)),
        projects.GramMatrix,
        lambda module, writer: {"normalize": module.normalize, "buffer": writer.empty()},
    )


def _register_waifu2x() -> None:
    for name in ("w2nn.InplaceClip01", "w2nn.Clip01"):
        register(name, lambda layer: projects.Clip01(), projects.Clip01)
    for name in ("w2nn.LeakyReLU", "w2nn.LeakyReLU_deprecated"):
        register(name, build_leaky_relu)
    register(
        "w2nn.DepthExpand2x",
        lambda layer: projects.DepthExpand2x(),
        projects.DepthExpand2x,
    )
    register("w2nn.ScaleTable", lambda layer: projects.ScaleTable(), projects.ScaleTable)
    register(
        "w2nn.AuxiliaryLossTable",
        lambda layer: projects.AuxiliaryLossTable(layer.count("i", 1)),
        projects.AuxiliaryLossTable,
        lambda module, writer: {"i": module.i},
    )
    for name in ("w2nn.Print", "w2nn.PrintTable"):
        register(name, lambda layer: projects.PassOn())
    register(
        "w2nn.ShakeShakeTable",
        lambda layer: published.ShakeShakeTable(),
        published.ShakeShakeTable,
    )


def write_total_variation(module: Any, writer: Writer) -> dict[str, Any]:
    return {"strength": module.strength, "x_diff": writer.empty(), "y_diff": writer.empty()}


def build_noise_fill(node: Node) -> nn.Module:
    """The first version has no ``mult``; one that appends has a buffer; one takes masks."""
    if node.has("n_colors"):
        colors, times, planes = (node.integer(name) for name in _MASKED)
        made = colors * (times + 1) + planes
        if colors < 1 or min(times, planes) < 0 or made > MAX_PLANES:
            raise node.fail(f"{colors} masks, {times} times, and {planes} planes cannot be")
        scales = node.number("mult_noise_mask", 1.0), node.number("mult_noise", 1.0)
        return published.MaskedNoiseFill(colors, times, planes, *scales)
    planes, scale = node.integer("num_noise_channels"), node.number("mult", 1.0)
    if not 0 <= planes <= MAX_PLANES:
        raise node.fail(f"the field num_noise_channels is not 0 to {MAX_PLANES}: {planes}")
    return published.NoiseFill(planes, scale, append=node.has("buffer"))


def write_noise_fill(module: Any, writer: Writer) -> dict[str, Any]:
    buffer = {"buffer": writer.empty()} if module.append else {}
    return {"num_noise_channels": module.planes, "mult": module.scale, **buffer}


def few(node: Node, name: str) -> int:
    """A number of planes that no weights show."""
    count: int = node.count(name)
    if count > MAX_PLANES:
        raise node.fail(f"the field {name} is more than {MAX_PLANES}: {count}")
    return count


def build_symmetric_padding(node: Node) -> nn.Module:
    sides = [node.integer(f"pad_{side}") for side in "lrtb"]
    return published.SpatialSymmetricPadding(sides)


def write_symmetric_padding(module: Any, writer: Writer) -> dict[str, Any]:
    return {f"pad_{side}": size for side, size in zip("lrtb", module.padding, strict=True)}


def build_pixel_convolution(node: Node) -> nn.Module:
    """A convolution of single pixels, weight (out,in), of mc-cnn and of nnx."""
    shape = node.tensor("weight").shape
    if len(shape) != 2:
        raise node.fail(f"weight has shape {tuple(shape)}, expected (out, in)")
    return node.fill(without_memory(lambda: nn.Conv2d(shape[1], shape[0], 1)))


def _register_published() -> None:
    ours = published
    register("nn.NoiseFill", build_noise_fill, ours.NoiseFill, write_noise_fill)
    register(
        "nn.GenNoise",
        lambda layer: ours.GenNoise(few(layer, "num_planes"), layer.number("mult", 1.0)),
        ours.GenNoise,
        lambda module, writer: {"num_planes": module.planes, "mult": module.scale},
    )
    register("nn.DummyGradOutput", lambda layer: simple.ZeroGrad())
    register("nn.Rectifier", lambda layer: nn.ReLU())  # of the Atari player (dqn)
    register(
        "nn.SpatialSymmetricPadding",
        build_symmetric_padding,
        ours.SpatialSymmetricPadding,
        write_symmetric_padding,
    )
    register("nn.SpatialConvolution1_fw", build_pixel_convolution)
    register(
        "nn.StereoJoin",
        lambda layer: ours.StereoJoin(few(layer, "disp_max")),
        ours.StereoJoin,
        lambda module, writer: {"disp_max": module.disparities, "direction": -1},
    )
    register("nn.BinActiveZ", lambda layer: ours.BinActiveZ(), ours.BinActiveZ)
    register("nn.Normalize2", lambda layer: ours.Normalize2(), ours.Normalize2)
    register("nn.L2Normalize", lambda layer: Normalize(2, 0))  # nn's of 2015
    register("nn.StereoJoin1", lambda layer: ours.StereoJoin1(), ours.StereoJoin1)
