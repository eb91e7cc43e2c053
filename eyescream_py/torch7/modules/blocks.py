"""Readers of `layers/blocks.py`: Shake-Shake, stochastic depth, deepspeech.torch."""

from __future__ import annotations

from torch import nn

from ..files.values import Table, TorchObject
from ..layers.blocks import ResidualDrop, SequenceWise, ShakeShakeBlock
from .codec import Node
from .registry import register

_SEQUENCES = ("nn.SequenceWise", *(f"cudnn.Batch{kind}" for kind in ("RNN", "BRNN")))


def build_shake_shake(node: Node) -> nn.Module:
    """Lua keeps its options as text."""
    shakes = (node.text(name) == "true" for name in ("forwardShake", "backwardShake", "shakeImage"))
    return ShakeShakeBlock(
        _branch(node, "net1"), _branch(node, "net2"), node.child("skip"), *shakes
    )


def _branch(node: Node, name: str) -> nn.Module:
    """Without its last layer, a constant that Lua sets anew at each call."""
    net = node.obj.fields.get(name)
    fields = net.fields if isinstance(net, TorchObject) else None
    listed = fields.get("modules") if isinstance(fields, Table) else None
    if not isinstance(listed, Table):
        raise node.fail(f"the field {name} is no container")
    shorter = Table(modules=Table.from_list(listed.to_list()[:-1]))
    return node.reader.module(TorchObject("nn.Sequential", shorter), f"{node.place} > {name}")


def build_residual_drop(node: Node) -> nn.Module:
    rate, gate = node.number("deathRate"), node.boolean("gate", True)
    return ResidualDrop(node.child("net"), node.child("skip"), rate, gate)


def build_sequence_wise(node: Node) -> nn.Module:
    """The layers between the two views, whose sizes Lua sets at each call, and those after."""
    children = node.children()
    listed = node.obj.fields["modules"].to_list()
    views = [node.obj.fields.get(name) for name in ("view_in", "view_out")]
    at = [place for view in views for place, obj in enumerate(listed) if obj is view]
    if len(at) != 2 or not 0 == at[0] < at[1]:
        raise node.fail("its views are not among its modules")
    inner, after = children[1 : at[1]], children[at[1] + 1 :]
    return SequenceWise(nn.Sequential(*inner), nn.Sequential(*after))


def register_blocks() -> None:
    register("nn.ShakeShakeBlock", build_shake_shake)
    register("nn.ResidualDrop", build_residual_drop)
    for name in _SEQUENCES:
        register(name, build_sequence_wise)
    for name in _SEQUENCES[1:]:
        register(f"{name}ReLU", build_sequence_wise)
