"""Converters of `layers/captions.py`, whose objects `fused` tells from torch-rnn's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..files.values import Table, TorchObject
from ..layers import captions
from ..recurrent.fused import FoldTime, UnfoldTime
from .codec import Codec, Node, Writer

MAX_STATES = 2000


def read_neuraltalk(node: Node) -> nn.Module:
    states = 2 * node.count("num_layers", 1)
    if states > MAX_STATES:
        raise node.fail(f"{states} states are more than {MAX_STATES}")
    sizes = node.count("vocab_size"), node.count("rnn_size"), states, node.count("seq_length")
    lookup = node.child("lookup_table")
    if not isinstance(getattr(lookup, "weight", None), Tensor):
        raise node.fail("its lookup_table has no weight")
    return captions.NeuraltalkModel(node.child("core"), lookup, *sizes)


def write_neuraltalk(module: Any, writer: Writer) -> dict[str, Any]:
    state = writer.empty().new_zeros(1, module.size)
    return {
        "vocab_size": module.words,
        "input_encoding_size": module.lookup.weight.shape[1],
        "rnn_size": module.size,
        "num_layers": module.states // 2,
        "num_state": module.states,
        "seq_length": module.length,
        "core": writer.obj(module.core),
        "lookup_table": writer.obj(module.lookup),
        "init_state": Table.from_list(state.clone() for _ in range(module.states)),
    }


def read_densecap(node: Node) -> nn.Module:
    rnn = layers_in_time(node, "rnn", ["view_in"], ["view_out"])
    sizes = node.count("vocab_size"), node.count("seq_length")
    parts = node.child("image_encoder"), node.child("lookup_table")
    return captions.DensecapModel(*parts, rnn, *sizes)


def layers_in_time(node: Node, name: str, folds: list[str], unfolds: list[str]) -> nn.Sequential:
    """A Sequential of which Lua sets the sizes of views before each run, as layers that know.

    ``folds`` and ``unfolds``: the fields that hold those views, or tables of them.
    """
    net = node.obj.fields.get(name)
    if not isinstance(net, TorchObject) or not isinstance(net.fields, Table):
        raise node.fail(f"the field {name} is no module")
    views: dict[int, type[nn.Module]] = dict.fromkeys(_views(node, folds), FoldTime)
    views.update(dict.fromkeys(_views(node, unfolds), UnfoldTime))
    listed = net.fields.get("modules")
    layers: list[nn.Module] = []
    for number, child in enumerate(listed.to_list() if isinstance(listed, Table) else [], 1):
        place = f"{node.place} > {name} > ({number})"
        view = views.get(id(child))
        layers.append(view() if view else node.reader.module(child, place))
    return nn.Sequential(*layers)


def _views(node: Node, names: list[str]) -> Iterator[int]:
    """The identities of the objects in those fields."""
    for name in names:
        value = node.obj.fields.get(name)
        found = value.to_list() if isinstance(value, Table) else [value]
        yield from (id(view) for view in found if isinstance(view, TorchObject))


CODECS = [
    Codec(
        (),
        captions.NeuraltalkModel,
        read_neuraltalk,
        write_neuraltalk,
        written="nn.LanguageModel",
    ),
]
