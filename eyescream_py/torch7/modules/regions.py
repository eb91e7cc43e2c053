"""Readers of `layers/regions.py`, densecap's model."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..files.values import Table, TorchObject
from ..layers import regions
from .codec import Node
from .projects import few
from .registry import register


def build_anchors(node: Node) -> nn.Module:
    shape = node.tensor("anchors").shape
    if len(shape) != 2 or shape[0] != 2:
        raise node.fail(f"anchors has shape {tuple(shape)}, expected (2, k)")
    start, step = (node.number("x0"), node.number("y0")), (node.number("sx"), node.number("sy"))
    return regions.MakeAnchors(start, step, node.buffer("anchors", shape))


def _part(node: Node, name: str) -> Any:
    """One of the networks in the table of them."""
    nets = node.obj.fields.get("nets")
    return nets.get(name) if isinstance(nets, Table) else None


def build_localization(node: Node) -> nn.Module:
    proposals = node.reader.module(_part(node, "rpn"), f"{node.place} > nets.rpn")
    pooling = _part(node, "roi_pooling")
    if not isinstance(pooling, TorchObject) or not isinstance(pooling.fields, Table):
        raise node.fail("it has no nets.roi_pooling")
    sizes = Node(pooling, f"{node.place} > nets.roi_pooling", node.reader)
    most = node.integer("test_max_proposals", 300)
    return regions.LocalizationLayer(
        proposals,
        (few(sizes, "height"), few(sizes, "width")),
        node.number("test_nms_thresh", 0.3),
        None if most == -1 else most,
        node.boolean("test_clip_boxes", True),
    )


def build_densecap(node: Node) -> nn.Module:
    net, options = node.child("net"), node.obj.fields.get("opt")
    if not isinstance(net, nn.Sequential):
        raise node.fail("its net is no nn.Sequential")
    told = Node(
        TorchObject("", options if isinstance(options, Table) else Table()), node.place, node.reader
    )
    return regions.DenseCap(net, told.number("final_nms_thresh", 0.3))


def register_regions() -> None:
    ours = regions
    register("nn.MakeAnchors", build_anchors)
    register("nn.ReshapeBoxFeatures", lambda node: ours.ReshapeBoxFeatures(node.count("k")))
    register("nn.ApplyBoxTransform", lambda node: ours.ApplyBoxTransform())
    register("nn.PosSlicer", lambda node: ours.PosSlicer())
    register(
        "nn.RegularizeLayer",
        lambda node: ours.RegularizeLayer(node.number("w"), node.number("gradMul", 1.0)),
    )
    register("nn.LocalizationLayer", build_localization)
    register("nn.DenseCapModel", build_densecap)
