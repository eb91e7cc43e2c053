"""Converters of `layers/linear.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..files.values import Table, TorchObject
from ..layers import linear
from ..layers.linear import LookupTable
from ..layers.tree import SoftMaxTree
from .codec import Codec, Node, Writer, long_storage
from .weights import without_memory, write_weights


def shape_of(node: Node, name: str, dims: int) -> tuple[int, ...]:
    shape = tuple(node.tensor(name).shape)
    if len(shape) != dims:
        raise node.fail(f"{name} has shape {shape}, expected {dims} dimensions")
    return shape


def read_bilinear(node: Node) -> nn.Module:
    outputs, size1, size2 = shape_of(node, "weight", 3)
    bias = node.has("bias")
    return node.fill(without_memory(lambda: linear.Bilinear(size1, size2, outputs, bias)))


def write_bilinear(module: Any, writer: Writer) -> dict[str, Any]:
    return {**write_weights(module, writer), "gradInput": writer.two()}


def read_euclidean(node: Node) -> nn.Module:
    shape = shape_of(node, "weight", 2)
    return node.fill(without_memory(lambda: linear.Euclidean(*shape)))


def read_weighted_euclidean(node: Node) -> nn.Module:
    shape = shape_of(node, "weight", 2)
    return node.fill(without_memory(lambda: linear.WeightedEuclidean(*shape)))


def write_euclidean(module: Any, writer: Writer) -> dict[str, Any]:
    return {**writer.weights_of(module), "fastBackward": True}


def write_weighted_euclidean(module: Any, writer: Writer) -> dict[str, Any]:
    values, grad = writer.weight(module.diagCov)
    return {**write_euclidean(module, writer), "diagCov": values, "gradDiagCov": grad}


def read_cosine(node: Node) -> nn.Module:
    outputs, inputs = shape_of(node, "weight", 2)
    return node.fill(without_memory(lambda: linear.Cosine(inputs, outputs)))


def read_cadd(node: Node) -> nn.Module:
    shape = node.tensor("bias").shape
    return node.fill(without_memory(lambda: linear.CAdd(*shape)))


def write_cadd(module: Any, writer: Writer) -> dict[str, Any]:
    return {"size": long_storage(module.bias.shape), **writer.weights_of(module)}


def read_partial_linear(node: Node) -> nn.Module:
    """Its weight is that of the LookupTable within its ``network``."""
    weight = _find_weight(node.obj.fields.get("network"))
    if weight is None or weight.dim() != 2:
        raise node.fail("its network has no weight of two dimensions")
    outputs, inputs = weight.shape
    bias = node.has("bias")
    module: Any = without_memory(lambda: linear.PartialLinear(inputs, outputs, bias))
    whole = Node(TorchObject("", Table(node.obj.fields, weight=weight)), node.place, node.reader)
    whole.fill(module)
    node.taken += whole.taken
    module.partition = node.indices("partition").reshape(-1)
    if ((module.partition < 1) | (module.partition > outputs)).any():
        raise node.fail("the partition names outputs that there are not")
    return module


def _find_weight(value: Any) -> Tensor | None:
    """The first weight among the modules within."""
    stack, met = [value], set()
    while stack:
        value = stack.pop()
        whole = isinstance(value, TorchObject) and isinstance(value.fields, Table)
        if not whole or id(value) in met:
            continue
        met.add(id(value))
        weight, modules = value.fields.get("weight"), value.fields.get("modules")
        if isinstance(weight, Tensor):
            return weight
        stack += reversed(modules.to_list() if isinstance(modules, Table) else [])
    return None


def read_sparse_linear(node: Node) -> nn.Module:
    outputs, inputs = shape_of(node, "weight", 2)
    grad = node.boolean("doGradInput", False)
    return node.fill(without_memory(lambda: linear.SparseLinear(inputs, outputs, grad)))


def write_sparse_linear(module: Any, writer: Writer) -> dict[str, Any]:
    options = {"weightDecay": 0, "doGradInput": module.grad_input, "sparseUpdate": 0}
    return {**options, "gradInput": Table(), **writer.weights_of(module)}


def read_tree(node: Node) -> nn.Module:
    parents, families = node.indices("childParent", 2), node.indices("parentChildren", 2)
    rows, features = shape_of(node, "weight", 2)
    children, place = parents[parents[:, 0] > 0].unbind(1)
    if len(children) != rows or (children > len(families)).any():
        raise node.fail(f"weight has {rows} rows for {len(children)} children, or parents lack")
    first, count = families[children - 1].unbind(1)
    if ((first < 1) | (first - 1 + count > rows) | (place < 1) | (place > count)).any():
        raise node.fail("its tree names rows of weights that there are not")
    meta, root = (parents.to("meta"), families.to("meta")), node.integer("rootId")
    module: Any = without_memory(lambda: SoftMaxTree(rows, features, *meta, root))
    module.parents, module.families = parents, families
    return node.fill(module)


def read_forest(node: Node) -> nn.Module:
    """Several trees and a mixture of them, which its module is built of."""
    return node.child("module") if node.has("module") else node.first_child()


def read_index_linear(node: Node) -> nn.Module:
    inputs, columns = shape_of(node, "weight", 2)
    normalize, offset = node.integer("normalize", 0), node.integer("offset", -1)
    if normalize not in (0, 4) or columns <= normalize:
        raise node.fail(f"normalize is {normalize}, with {columns} columns of weights")
    make = linear.IndexLinear
    return node.fill(without_memory(lambda: make(inputs, columns - normalize, normalize, offset)))


def read_lookup_table(node: Node) -> nn.Module:
    shape = node.tensor("weight").shape
    if len(shape) != 2:
        raise node.fail(f"weight has shape {tuple(shape)}, expected (indices, outputs)")
    padding, max_norm = node.integer("paddingValue", 0), node.number("maxNorm", None)
    by_freq = node.boolean("shouldScaleGradByFreq", False)
    if max_norm is None:
        return node.fill(without_memory(lambda: LookupTable(*shape, padding, by_freq)))
    norm = node.number("normType", 2)
    make = linear.LookupTableMaxNorm
    return node.fill(without_memory(lambda: make(*shape, padding, max_norm, norm, by_freq)))


def write_lookup_table(module: Any, writer: Writer) -> dict[str, Any]:
    norms = {}
    if isinstance(module, linear.LookupTableMaxNorm):
        norms = {"maxNorm": module.max_norm, "normType": module.norm_type}
    return {
        "paddingValue": module.padding_value,
        "shouldScaleGradByFreq": module.scale_by_freq,
        **norms,
        **writer.weights_of(module),
        "_count": torch.empty(0, dtype=torch.int32),
        "_input": torch.empty(0, dtype=torch.int64),
    }


LOOKUP = ("LookupTable", "Dictionary")
CODECS = [
    Codec(("Bilinear",), linear.Bilinear, read_bilinear, write_bilinear),
    Codec(("Euclidean",), linear.Euclidean, read_euclidean, write_euclidean),
    Codec(
        ("WeightedEuclidean",),
        linear.WeightedEuclidean,
        read_weighted_euclidean,
        write_weighted_euclidean,
    ),
    Codec(("Cosine",), linear.Cosine, read_cosine, write_weights),
    Codec(("CAdd",), linear.CAdd, read_cadd, write_cadd),
    Codec(("PartialLinear",), None, read_partial_linear),
    Codec(("SparseLinear",), linear.SparseLinear, read_sparse_linear, write_sparse_linear),
    Codec(("IndexLinear",), None, read_index_linear),
    Codec(("SoftMaxTree",), None, read_tree),
    Codec(("SoftMaxForest",), None, read_forest),
    *(
        Codec(LOOKUP, python, read_lookup_table, write_lookup_table, version=4)
        for python in (LookupTable, linear.LookupTableMaxNorm)
    ),
]
