"""Converters of containers and of the layers that change shapes."""

from __future__ import annotations

import itertools
import math
from typing import Any

from torch import nn

from ..files.values import Table, TorchObject
from ..layers import tables
from ..layers.containers import Concat, ConcatTable, ParallelTable
from ..layers.inplace import overwrites, without_overwriting
from ..layers.inplace_order import ConcatTableInOrder, SequentialInOrder, needs_order
from ..layers.shapes import (
    Copy,
    Narrow,
    Padding,
    Replicate,
    Reshape,
    Select,
    Squeeze,
    Transpose,
    Unsqueeze,
    View,
)
from ..layers.tables import JoinTable
from .codec import Codec, Node, Plain, Writer, long_storage, plain


def read_sequential(node: Node) -> nn.Module:
    _mark_summed(node)
    children = without_overwriting(node.children(), id(node.obj) in node.reader.summed)
    return (SequentialInOrder if needs_order(children) else nn.Sequential)(*children)


def _mark_summed(node: Node) -> None:
    """Note which tables of branches go into a sum that overwrites its first part."""
    objs, marked = _objects(node), node.reader.summed
    for obj, after in itertools.pairwise(objs):
        if after.typename == "nn.CAddTable" and after.fields.get("inplace") is True:
            marked.add(id(obj))
    if objs and id(node.obj) in marked:
        marked.add(id(objs[-1]))


def _objects(node: Node) -> list[TorchObject]:
    listed = node.obj.fields.get("modules")
    entries = listed.to_list() if isinstance(listed, Table) else []
    return [e for e in entries if isinstance(e, TorchObject) and isinstance(e.fields, Table)]


def write_modules(module: Any, writer: Writer) -> dict[str, Any]:
    return {"modules": writer.children(list(module))}


def write_concat_table(module: Any, writer: Writer) -> dict[str, Any]:
    return {"output": Table(), **write_modules(module, writer)}


def write_parallel_table(module: Any, writer: Writer) -> dict[str, Any]:
    return {"gradInput": Table(), **write_concat_table(module, writer)}


def write_concat(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = {name: long_storage([]) for name in ("size", "outputSize")}  # by nn's age
    return {"dimension": module.dimension, **sizes, **write_modules(module, writer)}


def read_wrapper(node: Node) -> nn.Module:
    """A class that only wraps another one (dpnn's decorators, GPU placement): what it wraps."""
    return node.first_child()


def read_concat_table(node: Node) -> nn.Module:
    if id(node.obj) in node.reader.summed:
        node.reader.summed.update(map(id, _objects(node)))
    children = node.children()
    in_order = any(map(overwrites, children))
    return (ConcatTableInOrder if in_order else ConcatTable)(*children)


def read_dont_cast(node: Node) -> nn.Module:
    """A layer of another type than what is around it, if types are kept at all."""
    layer, outer = node.first_child(), node.value_type()
    inner = next((p.dtype for p in layer.parameters() if p.is_floating_point()), outer)
    if node.reader.dtype is not None or inner == outer:
        return layer
    return nn.Sequential(Copy(inner), layer, Copy(outer))


def read_view(node: Node) -> nn.Module:
    dims = node.count("numInputDims", None)
    return View(*node.sizes("size"), num_input_dims=dims, keep_batch=False)


def write_view(module: Any, writer: Writer) -> dict[str, Any]:
    fields = {"size": long_storage(module.sizes), "numElements": module.num_elements}
    if module.num_input_dims is not None:
        fields["numInputDims"] = module.num_input_dims
    return fields


def read_reshape(node: Node) -> nn.Module:
    batch_mode = node.boolean("batchMode", False) if node.has("batchMode") else None
    return Reshape(*node.sizes("size"), batch_mode=batch_mode)


def write_reshape(module: Any, writer: Writer) -> dict[str, Any]:
    fields = {
        "size": long_storage(module.sizes),
        "batchsize": long_storage((0, *module.sizes)),
        "nelement": math.prod(module.sizes),
    }
    if module.batch_mode is not None:
        fields["batchMode"] = module.batch_mode
    return fields


def write_join_table(module: Any, writer: Writer) -> dict[str, Any]:
    fields = {"dimension": module.dimension, "size": long_storage([]), "gradInput": Table()}
    if module.n_input_dims is not None:
        fields["nInputDims"] = module.n_input_dims
    return fields


def read_join_table(node: Node) -> nn.Module:
    return JoinTable(node.integer("dimension"), node.count("nInputDims", None))


def read_transpose(node: Node) -> nn.Module:
    table = node.obj.fields.get("permutations")
    swaps = table.to_list() if isinstance(table, Table) else [None]
    pairs = [swap.to_list() if isinstance(swap, Table) else [] for swap in swaps]
    if not all(len(pair) == 2 and all(isinstance(d, int) for d in pair) for pair in pairs):
        raise node.fail("the field permutations is no list of pairs of dimensions")
    dims = node.count("numInputDims", None)
    return Transpose(*((a, b) for a, b in pairs), num_input_dims=dims)


def write_transpose(module: Any, writer: Writer) -> dict[str, Any]:
    fields = {"permutations": Table.from_list(Table.from_list(p) for p in module.permutations)}
    if module.num_input_dims is not None:
        fields["numInputDims"] = module.num_input_dims
    return fields


def write_padding(module: Any, writer: Writer) -> dict[str, Any]:
    fields = {
        "dim": module.dim,
        "pad": module.pad,
        "value": module.value,
        "index": module.index,
        "outputSize": long_storage([]),
    }
    if module.n_input_dim is not None:
        fields["nInputDim"] = module.n_input_dim
    return fields


def read_padding(node: Node) -> nn.Module:
    return Padding(
        node.integer("dim"),
        node.integer("pad"),
        node.count("nInputDim", None),
        node.real("value", 0.0),
        node.integer("index", 1),
    )


CONTAINERS = [
    Codec(
        ("Sequential", "SpatialLPPooling", "LayerNormalization", "Maxout", "SequentialSplitBatch"),
        nn.Sequential,
        read_sequential,
        write_modules,
    ),
    Codec(
        ("ConcatTable",),
        ConcatTable,
        read_concat_table,
        write_concat_table,
    ),
    Codec(
        ("ParallelTable",),
        ParallelTable,
        lambda node: ParallelTable(*node.children()),
        write_parallel_table,
    ),
    Codec(
        # two of fbcunn and multipathnet: branches on a GPU each
        ("Concat", "ModelParallel", "ModelParallelTable"),
        Concat,
        lambda node: Concat(node.integer("dimension"), *node.children()),
        write_concat,
    ),
    Codec(
        ("DepthConcat",),
        tables.DepthConcat,
        lambda node: tables.DepthConcat(node.integer("dimension"), *node.children()),
        write_concat,
    ),
    Codec(("DontCast",), None, read_dont_cast),
    Codec(
        (
            *("Decorator", "NoBackprop", "GPU", "DataParallelTable", "DataParallel"),
            *("Serial", "NaN", "Profile", "FireModule", "ReverseUnreverse"),
        ),
        None,
        read_wrapper,
    ),
]

SHAPES = [
    Codec(("View",), View, read_view, write_view),
    Codec(("Reshape",), Reshape, read_reshape, write_reshape),
    Codec(("JoinTable",), JoinTable, read_join_table, write_join_table),
    Codec(("Transpose",), Transpose, read_transpose, write_transpose),
    Codec(("Padding",), Padding, read_padding, write_padding),
    plain(
        "Narrow",
        Narrow,
        Plain("dimension", "dimension", int),
        Plain("index", "index", int),
        Plain("length", "length", int, 1),
    ),
    plain(
        "Select",
        Select,
        Plain("dimension", "dimension", int),
        Plain("index", "index", int),
    ),
    plain(
        "Squeeze",
        Squeeze,
        Plain("dim", "dim", int, None),
        Plain("numInputDims", "num_input_dims", int, None),
    ),
    plain(
        "Unsqueeze",
        Unsqueeze,
        Plain("pos", "pos", int),
        Plain("numInputDims", "num_input_dims", int, None),
    ),
    plain(
        "Replicate",
        Replicate,
        Plain("nfeatures", "nfeatures", int),
        Plain("dim", "dim", int, 1),
        Plain("ndim", "ndim", int, None),
    ),
]

CODECS = [*CONTAINERS, *SHAPES]
