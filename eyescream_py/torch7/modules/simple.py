"""Converters of `layers/simple.py` and `layers/containers.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..files.values import Table
from ..layers import containers, simple
from ..layers.arithmetic import AddConstant
from .codec import Codec, Node, Plain, Writer, long_storage, plain

MAX_DIMS = 64


def read_add_constant(node: Node) -> nn.Module:
    """The constant is a number or a tensor."""
    if isinstance(node.obj.fields.get("constant_scalar"), Tensor):
        shape = node.tensor("constant_scalar").shape
        return simple.AddConstantTensor(node.buffer("constant_scalar", shape))
    return AddConstant(node.number("constant_scalar"))


def write_add_constant(module: Any, writer: Writer) -> dict[str, Any]:
    return {"constant_scalar": writer.tensor(module.constant), "inplace": False}


def read_constant(node: Node) -> nn.Module:
    value = node.buffer("value", node.tensor("value").shape)
    return simple.Constant(value, node.integer("nInputDim", None))


def write_constant(module: Any, writer: Writer) -> dict[str, Any]:
    fields: dict[str, Any] = {"value": writer.tensor(module.value)}
    if module.n_input_dim is not None:
        fields["nInputDim"] = module.n_input_dim
    return fields


def read_one_hot(node: Node) -> nn.Module:
    return simple.OneHot(node.count("outputSize"), node.value_type())


def read_convert(node: Node) -> nn.Module:
    names = node.text("inputShape"), node.text("outputShape")
    return simple.Convert(*names, node.value_type())


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


def write_masked_select(module: Any, writer: Writer) -> dict[str, Any]:
    long = {
        name: torch.empty(0, dtype=torch.int64) for name in ("_maskIndices", "_maskIndexBuffer")
    }
    return {
        **long,
        "_maskIndexBufferCPU": torch.empty(0),
        "_gradBuffer": writer.empty(),
        "_gradMask": torch.empty(0, dtype=torch.uint8),
    }


def write_parallel(module: Any, writer: Writer) -> dict[str, Any]:
    dims = {"inputDimension": module.input_dim, "outputDimension": module.output_dim}
    return {**dims, "modules": writer.children(list(module))}


def read_parallel(node: Node) -> nn.Module:
    dims = node.integer("inputDimension"), node.integer("outputDimension")
    return containers.Parallel(*dims, *node.children())


def read_map_table(node: Node) -> nn.Module:
    """Its ``modules`` are clones with the same weights; ``module`` is what they are of."""
    if node.has("module"):
        return containers.MapTable(node.child("module"))
    return containers.MapTable(node.first_child())


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
    return containers.Bottle(node.first_child(), dims, out_dims)


def write_bottle(module: Any, writer: Writer) -> dict[str, Any]:
    dims = module.n_input_dim, module.n_output_dim
    return {
        "nInputDim": dims[0],
        "nOutputDim": dims[1],
        "dimDelta": dims[0] - dims[1],
        "inShape": torch.zeros(dims[0], dtype=writer.dtype),
        "outShape": torch.zeros(dims[1], dtype=writer.dtype),
        "modules": Table.from_list([writer.obj(module.layer)]),
    }


def read_mixture(node: Node) -> nn.Module:
    return containers.MixtureTable(node.integer("dim", None))


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
    Codec(("AddConstant",), simple.AddConstantTensor, read_add_constant, write_add_constant),
    plain("GatedLinearUnit", simple.GatedLinearUnit, Plain("dim", "dim", int, None)),
    plain(
        "GradientReversal",
        simple.GradientReversal,
        Plain("lambda", "scale", float, 1.0),
        version=2,
    ),
    plain("ZeroGrad", simple.ZeroGrad),
    plain(
        "L1Penalty",
        simple.L1Penalty,
        Plain("l1weight", "weight", float),
        Plain("sizeAverage", "size_average", bool, False),
        Plain("provideOutput", "provide_output", bool, True),
    ),
    Codec(("Constant",), simple.Constant, read_constant, write_constant),
    Codec(
        ("OneHot",),
        simple.OneHot,
        read_one_hot,
        lambda module, writer: {"outputSize": module.size},
    ),
    plain("Index", simple.Index, Plain("dimension", "dimension", int), two_inputs=True),
    Codec(
        ("MaskedSelect",),
        simple.MaskedSelect,
        lambda node: simple.MaskedSelect(),
        write_masked_select,
    ),
    plain("Collapse", simple.Collapse, Plain("nInputDim", "n_input_dim", int)),
    Codec(("Convert",), simple.Convert, read_convert, write_convert),
    plain(
        "ArgMax",
        simple.ArgMax,
        Plain("dim", "dim", int, 1),
        Plain("nInputDim", "n_input_dim", int, 9999),
        Plain("asLong", "as_long", bool, True),
    ),
    plain(
        "Clip",
        simple.Clip,
        Plain("minval", "low", float),
        Plain("maxval", "high", float),
    ),
]

WRAPPERS = [
    Codec(("Parallel",), containers.Parallel, read_parallel, write_parallel),
    Codec(("MapTable",), containers.MapTable, read_map_table, write_map_table),
    Codec(("Bottle",), containers.Bottle, read_bottle, write_bottle),
    plain("ZipTable", containers.ZipTable, tables=("output", "gradInput")),
    plain(
        "ZipTableOneToMany",
        containers.ZipTableOneToMany,
        buffers=("gradInputEl",),
        tables=("output", "gradInput"),
    ),
    plain("CAddTensorTable", containers.CAddTensorTable, tables=("gradInput",)),
    plain("ReverseTable", containers.ReverseTable, tables=("output", "gradInput")),
    Codec(("MixtureTable",), containers.MixtureTable, read_mixture, write_mixture),
    plain(
        "MM",
        containers.MM,
        Plain("transA", "trans_a", bool, False),
        Plain("transB", "trans_b", bool, False),
        two_inputs=True,
    ),
    plain("MV", containers.MV, Plain("trans", "trans", bool, False), two_inputs=True),
    Codec(("CReLU",), None, lambda node: containers.CReLU(node.count("nInputDims", 1))),
]

CODECS = [*SIMPLE, *WRAPPERS]
