"""Readers of `layers/opennmt.py`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers import opennmt
from .codec import Node, Writer
from .registry import register
from .weights import without_memory

_OPENNMT = (
    *("Network", "LSTM", "GRU", "WordEmbedding", "FeaturesEmbedding", "Generator"),
    *("FeaturesGenerator", "Attention", "GlobalAttention", "MaskedSoftmax"),
    "NoAttention",
)


def build_network(node: Node) -> nn.Module:
    inner = node.child("net") if node.has("net") else node.first_child()
    return opennmt.Network(inner)


def write_network(module: Any, writer: Writer) -> dict[str, Any]:
    return {"net": writer.obj(module.net), "modules": writer.children([module.net])}


def build_bridge(node: Node) -> nn.Module:
    return build_network(node) if node.has("net") else opennmt.Bridge()


def build_positions(node: Node) -> nn.Module:
    positions, outputs = node.count("max_pos"), node.count("nOutput")
    node.tensor("weight", (positions + 1, outputs))
    make, dimension = opennmt.PositionEmbedding, node.integer("dimension")
    return node.fill(without_memory(lambda: make(dimension, positions, outputs)))


def build_batch_norm(node: Node) -> nn.Module:
    children = node.children()
    if not children:
        raise node.fail("it has no module for any step")
    return opennmt.RecurrentBatchNorm(children)


def build_join(node: Node) -> nn.Module:
    dims = node.integer("dimensionReplicate"), node.integer("dimensionJoin")
    return opennmt.JoinReplicateTable(*dims, node.count("nInputDims", None))


def register_opennmt() -> None:
    for name in _OPENNMT:
        register(f"onmt.{name}", build_network)
    register("onmt.Network", build_network, opennmt.Network, write_network)
    register("onmt.Bridge", build_bridge)
    register("onmt.PositionEmbedding", build_positions)
    register("onmt.RecurrentBatchNorm", build_batch_norm)
    register("onmt.JoinReplicateTable", build_join)
    register("onmt.VDropout", lambda node: opennmt.VDropout(node.number("p", 0.5)))
