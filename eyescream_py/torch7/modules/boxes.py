"""Readers of `layers/boxes.py`: DeepMask, SharpMask, multipathnet, and inn's pooling of boxes."""

from __future__ import annotations

from torch import nn

from ..files.values import Table
from ..layers import boxes
from .codec import Node
from .registry import register
from .stn import build_affine
from .weights import MAX_PLANES


def build_deep_mask(node: Node) -> nn.Module:
    parts = (node.child(name) for name in ("trunk", "maskBranch", "scoreBranch"))
    return boxes.DeepMask(*parts)


def build_sharp_mask(node: Node) -> nn.Module:
    """Its refinements are numbered from 0, that of the trunk's output."""
    refs, places = node.obj.fields.get("refs"), node.sizes("skpos")
    if not isinstance(refs, Table) or set(refs) != set(range(len(places) + 1)):
        raise node.fail(f"the field refs is no table of 0 to {len(places)}")
    modules = [node.reader.module(refs[i], f"{node.place} > refs[{i}]") for i in sorted(refs)]
    trunk = node.child("trunk")
    if not isinstance(trunk, nn.Sequential) or not all(1 <= p <= len(trunk) for p in places):
        raise node.fail(f"the trunk has no layers {', '.join(map(str, places))}")
    return boxes.SharpMask(trunk, node.child("scoreBranch"), modules, places)


def build_roi_pooling(node: Node) -> nn.Module:
    height, width = node.count("H"), node.count("W")
    if height * width > MAX_PLANES:
        raise node.fail(f"{height} x {width} parts of a box are more than {MAX_PLANES}")
    scale, second = float(node.number("spatial_scale", 1)), node.boolean("v2", False)
    return boxes.ROIPooling(height, width, scale, second)


def build_box_norm(node: Node) -> nn.Module:
    return boxes.BBoxNorm(node.buffer("mean", (4,)), node.buffer("std", (4,)))


def build_mode_switch(node: Node) -> nn.Module:
    children = node.children()
    if len(children) != 2:
        raise node.fail(f"it has {len(children)} modules, not two")
    return boxes.ModeSwitch(*children)


def register_boxes() -> None:
    register("nn.DeepMask", build_deep_mask)
    register("nn.SharpMask", build_sharp_mask)
    register("nn.SpatialConstDiagonal", build_affine)
    register("inn.ROIPooling", build_roi_pooling)
    register("nn.BBoxNorm", build_box_norm)
    register("nn.ModeSwitch", build_mode_switch)
    register("nn.Foveal", lambda node: boxes.Foveal())
    register("nn.ConvertFrom", lambda node: boxes.ConvertFrom())
    register("nn.ContextRegion", lambda node: boxes.ContextRegion(node.buffer("tr", (4, 4))))
