"""Converters of the layers without weights: activations, arithmetic, reductions, dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..files.values import Table
from ..layers import activations as activations
from ..layers import tables
from ..layers.activations import LeakyReLU, LogSoftMax, SoftMax, SoftMin, Threshold
from ..layers.arithmetic import (
    Abs,
    AddConstant,
    Exp,
    Log,
    Max,
    Mean,
    Min,
    MulConstant,
    Normalize,
    Power,
    Sqrt,
    Square,
    Sum,
)
from ..layers.inplace import CAddTableInPlace
from ..layers.shapes import Copy, Identity
from ..layers.stochastic import Dropout, SpatialDropout, WhiteNoise
from ..layers.tables import CAddTable, CMulTable
from .codec import Codec, Node, Plain, Writer, plain
from .simple import read_add_constant

IN_PLACE = {"inplace": False}


def read_leaky_relu(node: Node) -> nn.Module:
    """nn's class has negval; the face generator's own older one had negative_scale."""
    old = node.real("negative_scale", 0.333)
    return LeakyReLU(node.real("negval", old))


def write_leaky_relu(module: Any, writer: Writer) -> dict[str, Any]:
    return {"negval": module.negative_slope, **IN_PLACE}


def write_add_number(module: Any, writer: Writer) -> dict[str, Any]:
    return {"constant_scalar": module.constant, **IN_PLACE}


def read_copy(node: Node) -> nn.Module:
    """The type to which it copies is that of its output, if types are kept at all."""
    output = node.obj.fields.get("output")
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return Copy()
    kept = node.reader.dtype
    return Copy(output.dtype) if kept is None else Copy(None, kept)


def read_clipped_relu(node: Node) -> nn.Module:
    return activations.HardTanh(0.0, node.real("ceiling"))


def read_dropout(node: Node) -> nn.Module:
    """Files without v2 are of the time when training did not scale."""
    return Dropout(
        node.number("p", 0.5),
        scaled=node.boolean("v2", False),
        stochastic_inference=node.boolean("stochastic_inference", False),
    )


def write_dropout(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "p": module.p,
        "v2": module.scaled,
        "stochastic_inference": module.stochastic_inference,
        "noise": writer.empty(),
    }


def write_torch_dropout(module: Any, writer: Writer) -> dict[str, Any]:
    return write_dropout(Dropout(module.p), writer)


def write_tanh_shrink(module: Any, writer: Writer) -> dict[str, Any]:
    return {"tanh": writer.obj(nn.Tanh())}


def read_add_table(node: Node) -> nn.Module:
    return CAddTableInPlace() if node.boolean("inplace", False) else CAddTable()


def write_add_table(module: Any, writer: Writer) -> dict[str, Any]:
    return {"inplace": isinstance(module, CAddTableInPlace), "gradInput": Table()}


DIMENSION = Plain("dimension", "dimension", int, 1)
N_INPUT_DIMS = Plain("nInputDims", "n_input_dims", int, None)

ACTIVATIONS = [
    *(
        plain("ReLU", python, constants={"threshold": 0, "val": 0, **IN_PLACE})
        for python in (activations.ReLU, nn.ReLU)
    ),
    *(plain("ReLU6", python, constants=IN_PLACE) for python in (activations.ReLU6, nn.ReLU6)),
    plain("Sigmoid", nn.Sigmoid),
    plain("Tanh", nn.Tanh),
    plain(("Identity", "Contiguous", "PrintSize"), Identity),
    plain("Identity", nn.Identity),
    Codec(("Copy",), Copy, read_copy),
    Codec(("LeakyReLU",), LeakyReLU, read_leaky_relu, write_leaky_relu),
    Codec(("LeakyReLU",), nn.LeakyReLU, read_leaky_relu, write_leaky_relu),
    *(
        plain(
            "Threshold",
            python,
            Plain("threshold", "threshold", float, 1e-6),
            Plain("val", "value", float, 0.0),
            constants=IN_PLACE,
        )
        for python in (Threshold, nn.Threshold)
    ),
    *(
        plain("ELU", python, Plain("alpha", "alpha", float, 1.0), constants=IN_PLACE)
        for python in (activations.ELU, nn.ELU)
    ),
    *(
        plain(
            "SoftPlus",
            python,
            Plain("beta", "beta", float, 1.0),
            Plain("threshold", "threshold", float, 20.0),
        )
        for python in (activations.SoftPlus, nn.Softplus)
    ),
    plain("SoftSign", nn.Softsign),
    *(
        plain(
            ("HardTanh", "Clamp"),
            python,
            Plain("min_val", "min_val", float, -1.0),
            Plain("max_val", "max_val", float, 1.0),
            constants=IN_PLACE,
        )
        for python in (activations.HardTanh, nn.Hardtanh)
    ),
    Codec(("ClippedReLU",), None, read_clipped_relu),
    plain("LogSigmoid", nn.LogSigmoid, buffers=("buffer",)),
    *(
        plain(name, python, Plain("lambda", "lambd", float, 0.5))
        for name, python in (
            ("SoftShrink", activations.SoftShrink),
            ("SoftShrink", nn.Softshrink),
            ("HardShrink", activations.HardShrink),
            ("HardShrink", nn.Hardshrink),
        )
    ),
    Codec(("TanhShrink",), nn.Tanhshrink, lambda node: nn.Tanhshrink(), write_tanh_shrink),
    plain(
        "RReLU",
        nn.RReLU,
        Plain("lower", "lower", float, 1 / 8),
        Plain("upper", "upper", float, 1 / 3),
        constants=IN_PLACE,
        buffers=("noise",),
    ),
    plain(("SoftMax", "SpatialSoftMax"), SoftMax),
    plain("SoftMin", SoftMin),
    plain(("LogSoftMax", "SpatialLogSoftMax"), LogSoftMax),
]

ARITHMETIC = [
    plain("Abs", Abs),
    plain("Square", Square),
    plain("Sqrt", Sqrt, Plain("eps", "eps", float, 0.0)),
    plain("Power", Power, Plain("pow", "pow", float)),
    plain("Exp", Exp),
    plain("Log", Log),
    plain(
        "MulConstant",
        MulConstant,
        Plain("constant_scalar", "constant", float),
        constants=IN_PLACE,
    ),
    Codec(("AddConstant",), AddConstant, read_add_constant, write_add_number),
    plain(
        "Normalize",
        Normalize,
        Plain("p", "p", float),
        Plain("eps", "eps", float, 1e-10),
    ),
    plain(
        "Mean",
        Mean,
        DIMENSION,
        N_INPUT_DIMS,
        Plain("squeeze", "squeeze", bool, True),
        constants={"sizeAverage": True},
        buffers=("_gradInput",),
    ),
    plain("Max", Max, DIMENSION, N_INPUT_DIMS),
    plain("Min", Min, DIMENSION, N_INPUT_DIMS),
    plain(
        "Sum",
        Sum,
        DIMENSION,
        N_INPUT_DIMS,
        Plain("sizeAverage", "size_average", bool, False),
        Plain("squeeze", "squeeze", bool, True),
    ),
]

TABLES = [
    Codec(("CAddTable",), CAddTable, read_add_table, write_add_table),
    Codec(("CAddTable",), CAddTableInPlace, read_add_table, write_add_table),
    plain("CMulTable", CMulTable, tables=("gradInput",)),
    plain("CSubTable", tables.CSubTable, tables=("gradInput",)),
    plain("CDivTable", tables.CDivTable, tables=("gradInput",)),
    plain(
        "CMaxTable",
        tables.CMaxTable,
        buffers=("maxIdx", "mask", "maxVals", "gradMaxVals"),
        tables=("gradInput",),
    ),
    plain(
        "CMinTable",
        tables.CMinTable,
        buffers=("minIdx", "mask", "minVals", "gradMaxVals"),
        tables=("gradInput",),
    ),
    plain("DotProduct", tables.DotProduct, two_inputs=True),
    plain("CosineDistance", tables.CosineDistance, two_inputs=True),
    plain(
        "PairwiseDistance",
        tables.PairwiseDistance,
        Plain("norm", "norm", float, 2.0),
        buffers=("diff",),
        tables=("gradInput",),
    ),
    plain(
        "SplitTable",
        tables.SplitTable,
        Plain("dimension", "dimension", int),
        N_INPUT_DIMS,
    ),
    plain(
        "SelectTable",
        tables.SelectTable,
        Plain("index", "index", int),
        tables=("gradInput",),
    ),
    plain(
        "NarrowTable",
        tables.NarrowTable,
        Plain("offset", "offset", int),
        Plain("length", "length", int, 1),
        tables=("output", "gradInput"),
    ),
    plain(
        "FlattenTable",
        tables.FlattenTable,
        tables=("output", "gradInput", "input_map"),
    ),
]

STOCHASTIC = [
    Codec(("Dropout",), Dropout, read_dropout, write_dropout),
    Codec(("Dropout",), nn.Dropout, read_dropout, write_torch_dropout),
    plain(
        "SpatialDropout",
        SpatialDropout,
        Plain("p", "p", float, 0.5),
        Plain("stochastic_inference", "stochastic_inference", bool, False),
        buffers=("noise",),
    ),
    plain(
        "WhiteNoise",
        WhiteNoise,
        Plain("mean", "mean", float, 0.0),
        Plain("std", "std", float, 0.1),
        buffers=("noise",),
    ),
]

CODECS = [*ACTIVATIONS, *ARITHMETIC, *TABLES, *STOCHASTIC]
