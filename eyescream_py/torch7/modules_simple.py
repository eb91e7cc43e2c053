"""Converters of `layers_simple` and `layers_wrappers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import layers, layers_simple, layers_wrappers
from .modules_codec import Codec, Node, Plain, Writer, long_storage, plain
from .values import Table

MAX_DIMS = 64


def read_add_constant(node: Node) -> nn.Module:
    """The constant is a number or a tensor."""
    if isinstance(node.obj.fields.get("constant_scalar"), Tensor):
        shape = node.tensor("constant_scalar").shape
        return layers_simple.AddConstantTensor(node.buffer("constant_scalar", shape))
    return layers.AddConstant(node.number("constant_scalar"))


def write_add_constant(module: Any, writer: Writer) -> dict[str, Any]:
    return {"constant_scalar": writer.tensor(module.constant), "inplace": False}


def read_constant(node: Node) -> nn.Module:
    value = node.buffer("value", node.tensor("value").shape)
    return layers_simple.Constant(value, node.integer("nInputDim", None))


def write_constant(module: Any, writer: Writer) -> dict[str, Any]:
    fields: dict[str, Any] = {"value": writer.tensor(module.value)}
    if module.n_input_dim is not None:
        fields["nInputDim"] = module.n_input_dim
    return fields


def read_one_hot(node: Node) -> nn.Module:
    return layers_simple.OneHot(node.count("outputSize"), node.value_type())


def read_convert(node: Node) -> nn.Module:
    names = node.text("inputShape"), node.text("outputShape")
    return layers_simple.Convert(*names, node.value_type())


def write_convert(module: Any, writer: Writer) -> dict[str, Any]:
    source, target = module.source, module.target
    fields = {
        "inputShape": source,
        "outputShape": target,
        "inputBatchDim": source.index("b") + 1,
        "outputBatchDim": target.index("b") + 1,
        "nInputDim": -1 if "*" in source else len(source),
        "nOutputDim": -1 if "*" in source else len(target),
        "modules": Table(),
    }
    return {**fields, "transposition": True} if module.transposes else fields


def write_parallel(module: Any, writer: Writer) -> dict[str, Any]:
    dims = {"inputDimension": module.input_dim, "outputDimension": module.output_dim}
    return {**dims, "modules": writer.children(list(module))}


def read_parallel(node: Node) -> nn.Module:
    dims = node.integer("inputDimension"), node.integer("outputDimension")
    return layers_wrappers.Parallel(*dims, *node.children())


def read_map_table(node: Node) -> nn.Module:
    """Its ``modules`` are clones with the same weights; ``module`` is what they are of."""
    if node.has("module"):
        return layers_wrappers.MapTable(node.child("module"))
    return layers_wrappers.MapTable(node.first_child())


def write_map_table(module: Any, writer: Writer) -> dict[str, Any]:
    names = Table.from_list(["weight", "bias", "gradWeight", "gradBias"])
    inner = writer.obj(module.layer)
    return {
        "module": inner,
        "modules": Table.from_list([inner]),
        "shared": True,
        "sharedparams": names,
        "output": Table(),
        "gradInput": Table(),
    }


def read_bottle(node: Node) -> nn.Module:
    dims = node.count("nInputDim", 2)
    out_dims = node.count("nOutputDim", dims)
    if max(dims, out_dims) > MAX_DIMS:
        raise node.fail(f"tensors have at most {MAX_DIMS} dimensions")
    return layers_wrappers.Bottle(node.first_child(), dims, out_dims)


def write_bottle(module: Any, writer: Writer) -> dict[str, Any]:
    dims = module.n_input_dim, module.n_output_dim
    return {
        "nInputDim": dims[0],
        "nOutputDim": dims[1],
        "dimDelta": dims[0] - dims[1],
        "inShape": torch.zeros(dims[0], dtype=torch.int64),
        "outShape": torch.zeros(dims[1], dtype=torch.int64),
        "modules": Table.from_list([writer.obj(module.layer)]),
    }


def read_mixture(node: Node) -> nn.Module:
    return layers_wrappers.MixtureTable(node.integer("dim", None))


def write_mixture(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = {"size": long_storage([]), "size2": long_storage([])}
    names = ("_gaterView", "_expert", "_expertView", "_sum", "_expertView2")
    second = Table() if module.dim is None else writer.empty()
    return {
        **({} if module.dim is None else {"dim": module.dim}),
        **sizes,
        **{name: writer.empty() for name in names},
        "batchSize": 0,
        "backwardSetup": False,
        "gradInput": Table.from_list([writer.empty(), second]),
    }


SIMPLE = [
    Codec(("AddConstant",), layers_simple.AddConstantTensor, read_add_constant, write_add_constant),
    plain("GatedLinearUnit", layers_simple.GatedLinearUnit, Plain("dim", "dim", int, None)),
    plain("GradientReversal", layers_simple.GradientReversal, Plain("lambda", "scale", float, 1.0)),
    plain("ZeroGrad", layers_simple.ZeroGrad),
    plain(
        "L1Penalty",
        layers_simple.L1Penalty,
        Plain("l1weight", "weight", float),
        Plain("sizeAverage", "size_average", bool, False),
        Plain("provideOutput", "provide_output", bool, True),
    ),
    Codec(("Constant",), layers_simple.Constant, read_constant, write_constant),
    Codec(
        ("OneHot",),
        layers_simple.OneHot,
        read_one_hot,
        lambda module, writer: {"outputSize": module.size},
    ),
    plain("Index", layers_simple.Index, Plain("dimension", "dimension", int)),
    plain(
        "MaskedSelect",
        layers_simple.MaskedSelect,
        buffers=("_gradBuffer",),
        tables=("gradInput",),
    ),
    plain("Collapse", layers_simple.Collapse, Plain("nInputDim", "n_input_dim", int)),
    Codec(("Convert",), layers_simple.Convert, read_convert, write_convert),
    plain(
        "ArgMax",
        layers_simple.ArgMax,
        Plain("dim", "dim", int, 1),
        Plain("nInputDim", "n_input_dim", int, 9999),
        Plain("asLong", "as_long", bool, True),
    ),
    plain(
        "Clip",
        layers_simple.Clip,
        Plain("minval", "low", float),
        Plain("maxval", "high", float),
    ),
]

WRAPPERS = [
    Codec(("Parallel",), layers_wrappers.Parallel, read_parallel, write_parallel),
    Codec(("MapTable",), layers_wrappers.MapTable, read_map_table, write_map_table),
    Codec(("Bottle",), layers_wrappers.Bottle, read_bottle, write_bottle),
    plain("ZipTable", layers_wrappers.ZipTable, tables=("output", "gradInput")),
    plain("ZipTableOneToMany", layers_wrappers.ZipTableOneToMany, tables=("output", "gradInput")),
    plain("CAddTensorTable", layers_wrappers.CAddTensorTable, tables=("output", "gradInput")),
    plain("ReverseTable", layers_wrappers.ReverseTable, tables=("output", "gradInput")),
    Codec(("MixtureTable",), layers_wrappers.MixtureTable, read_mixture, write_mixture),
    plain(
        "MM",
        layers_wrappers.MM,
        Plain("transA", "trans_a", bool, False),
        Plain("transB", "trans_b", bool, False),
        tables=("gradInput",),
    ),
    plain("MV", layers_wrappers.MV, Plain("trans", "trans", bool, False), tables=("gradInput",)),
    Codec(("CReLU",), None, lambda node: layers_wrappers.CReLU(node.count("nInputDims", 1))),
]

CODECS = [*SIMPLE, *WRAPPERS]
