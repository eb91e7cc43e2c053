"""Converters of the layers without weights: activations, arithmetic, reductions, dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import layers, layers_more, layers_tables
from . import layers_activations as activations
from .layers_inplace import CAddTableInPlace
from .modules_codec import Codec, Node, Plain, Writer, plain
from .modules_simple import read_add_constant
from .values import Table

IN_PLACE = {"inplace": False}


def read_leaky_relu(node: Node) -> nn.Module:
    """nn's class has negval; the face generator's own older one had negative_scale."""
    old = node.real("negative_scale", 0.333)
    return layers.LeakyReLU(node.real("negval", old))


def write_leaky_relu(module: Any, writer: Writer) -> dict[str, Any]:
    return {"negval": module.negative_slope, **IN_PLACE}


def write_add_number(module: Any, writer: Writer) -> dict[str, Any]:
    return {"constant_scalar": module.constant, **IN_PLACE}


def read_copy(node: Node) -> nn.Module:
    """The type to which it copies is that of its output, if types are kept at all."""
    output = node.obj.fields.get("output")
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return layers.Copy()
    kept = node.reader.dtype
    return layers.Copy(output.dtype) if kept is None else layers.Copy(None, kept)


def read_clipped_relu(node: Node) -> nn.Module:
    return activations.HardTanh(0.0, node.real("ceiling"))


def read_dropout(node: Node) -> nn.Module:
    """Files without v2 are of the time when training did not scale."""
    return layers.Dropout(
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
    return write_dropout(layers.Dropout(module.p), writer)


def write_tanh_shrink(module: Any, writer: Writer) -> dict[str, Any]:
    return {"tanh": writer.obj(nn.Tanh())}


def write_two_gradients(module: Any, writer: Writer) -> dict[str, Any]:
    return {"gradInput": Table.from_list([writer.empty(), writer.empty()])}


def read_add_table(node: Node) -> nn.Module:
    return CAddTableInPlace() if node.boolean("inplace", False) else layers.CAddTable()


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
    plain(("Identity", "Contiguous", "PrintSize"), layers.Identity),
    plain("Identity", nn.Identity),
    Codec(("Copy",), layers.Copy, read_copy),
    Codec(("LeakyReLU",), layers.LeakyReLU, read_leaky_relu, write_leaky_relu),
    Codec(("LeakyReLU",), nn.LeakyReLU, read_leaky_relu, write_leaky_relu),
    *(
        plain(
            "Threshold",
            python,
            Plain("threshold", "threshold", float, 1e-6),
            Plain("val", "value", float, 0.0),
            constants=IN_PLACE,
        )
        for python in (layers_more.Threshold, nn.Threshold)
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
    plain(("SoftMax", "SpatialSoftMax"), layers_more.SoftMax),
    plain("SoftMin", layers_more.SoftMin),
    plain(("LogSoftMax", "SpatialLogSoftMax"), layers_more.LogSoftMax),
]

ARITHMETIC = [
    plain("Abs", layers_more.Abs),
    plain("Square", layers_more.Square),
    plain("Sqrt", layers_more.Sqrt, Plain("eps", "eps", float, 0.0)),
    plain("Power", layers_more.Power, Plain("pow", "pow", float)),
    plain("Exp", layers_more.Exp),
    plain("Log", layers_more.Log),
    plain(
        "MulConstant",
        layers.MulConstant,
        Plain("constant_scalar", "constant", float),
        constants=IN_PLACE,
    ),
    Codec(("AddConstant",), layers.AddConstant, read_add_constant, write_add_number),
    plain(
        "Normalize",
        layers_more.Normalize,
        Plain("p", "p", float),
        Plain("eps", "eps", float, 1e-10),
    ),
    plain(
        "Mean",
        layers_more.Mean,
        DIMENSION,
        N_INPUT_DIMS,
        Plain("squeeze", "squeeze", bool, True),
        constants={"sizeAverage": True},
        buffers=("_gradInput",),
    ),
    plain("Max", layers_more.Max, DIMENSION, N_INPUT_DIMS),
    plain("Min", layers_more.Min, DIMENSION, N_INPUT_DIMS),
    plain(
        "Sum",
        layers_more.Sum,
        DIMENSION,
        N_INPUT_DIMS,
        Plain("sizeAverage", "size_average", bool, False),
        Plain("squeeze", "squeeze", bool, True),
    ),
]

TABLES = [
    Codec(("CAddTable",), layers.CAddTable, read_add_table, write_add_table),
    Codec(("CAddTable",), CAddTableInPlace, read_add_table, write_add_table),
    plain("CMulTable", layers.CMulTable, tables=("gradInput",)),
    plain("CSubTable", layers_tables.CSubTable, tables=("gradInput",)),
    plain("CDivTable", layers_tables.CDivTable, tables=("gradInput",)),
    plain(
        "CMaxTable",
        layers_tables.CMaxTable,
        buffers=("maxIdx", "mask", "maxVals", "gradMaxVals"),
        tables=("gradInput",),
    ),
    plain(
        "CMinTable",
        layers_tables.CMinTable,
        buffers=("minIdx", "mask", "minVals", "gradMaxVals"),
        tables=("gradInput",),
    ),
    Codec(
        ("DotProduct",),
        layers_tables.DotProduct,
        lambda node: layers_tables.DotProduct(),
        write_two_gradients,
    ),
    Codec(
        ("CosineDistance",),
        layers_tables.CosineDistance,
        lambda node: layers_tables.CosineDistance(),
        write_two_gradients,
    ),
    plain(
        "PairwiseDistance",
        layers_tables.PairwiseDistance,
        Plain("norm", "norm", float, 2.0),
        buffers=("diff",),
        tables=("gradInput",),
    ),
    plain(
        "SplitTable",
        layers_tables.SplitTable,
        Plain("dimension", "dimension", int),
        N_INPUT_DIMS,
    ),
    plain(
        "SelectTable",
        layers_tables.SelectTable,
        Plain("index", "index", int),
        tables=("gradInput",),
    ),
    plain(
        "NarrowTable",
        layers_tables.NarrowTable,
        Plain("offset", "offset", int),
        Plain("length", "length", int, 1),
        tables=("output", "gradInput"),
    ),
    plain(
        "FlattenTable",
        layers_tables.FlattenTable,
        tables=("output", "gradInput", "input_map"),
    ),
]

STOCHASTIC = [
    Codec(("Dropout",), layers.Dropout, read_dropout, write_dropout),
    Codec(("Dropout",), nn.Dropout, read_dropout, write_torch_dropout),
    plain(
        "SpatialDropout",
        layers.SpatialDropout,
        Plain("p", "p", float, 0.5),
        Plain("stochastic_inference", "stochastic_inference", bool, False),
        buffers=("noise",),
    ),
    plain(
        "WhiteNoise",
        layers.WhiteNoise,
        Plain("mean", "mean", float, 0.0),
        Plain("std", "std", float, 0.1),
        buffers=("noise",),
    ),
]

CODECS = [*ACTIVATIONS, *ARITHMETIC, *TABLES, *STOCHASTIC]
