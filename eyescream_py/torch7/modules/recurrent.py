"""Converters of the package rnn's layers; see `recurrent/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..files.values import Storage, Table
from ..recurrent import fused as recurrent_fused
from ..recurrent import masks
from ..recurrent import sequences as recurrent_sequences
from ..recurrent import steps as recurrent
from .codec import Codec, Node, Plain, Writer, plain
from .fused import (
    kept_fields,
    read_sequence,
    remember,
    remember_fields,
)
from .weights import read_linear, without_memory, write_weights


def field_module(node: Node, *names: str) -> nn.Module:
    """The module of the first of these fields that the object has."""
    name = next((name for name in names if node.has(name)), names[0])
    return node.reader.module(node.obj.fields.get(name), f"{node.place} > {name}")


def step_of(node: Node) -> nn.Module:
    """What is run at each step; since 2017 it is in no field of its own."""
    if node.has("recurrentModule") or node.has("module"):
        return field_module(node, "recurrentModule", "module")
    return only_child(node)


def only_child(node: Node) -> nn.Module:
    """What a decorator wraps."""
    children = node.children()
    if len(children) != 1:
        raise node.fail(f"it wraps {len(children)} modules, not one")
    return children[0]


def read_gated(python: type[Any]) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        step, size = field_module(node, "recurrentModule"), node.count("outputSize")
        return remember_fields(python(step, size, node.count("rho", 9999)), node)

    return read


def read_lstm(node: Node) -> nn.Module:
    """rnn's LSTM is built of modules; torch-rnn's, of the same name, is one weight."""
    if node.has("weight"):
        return read_sequence(recurrent_fused.SequenceLSTM)(node)
    return read_gated(recurrent.LSTM)(node)


def read_grid_lstm(node: Node) -> nn.Module:
    step = field_module(node, "recurrentModule")
    return recurrent.Grid2DLSTM(step, node.count("nb_layers"), node.count("rho", 9999))


def read_rec_lstm(node: Node) -> nn.Module:
    outputs = node.count("outputsize")
    return recurrent.RecLSTM(only_child(node), outputs, node.count("hiddensize", outputs))


def read_rec_gru(node: Node) -> nn.Module:
    return recurrent.RecGRU(only_child(node), node.count("outputsize"))


def write_rec(module: Any, writer: Writer) -> dict[str, Any]:
    fields = _write_step(module, writer)
    step = fields.pop("recurrentModule").fields
    sizes = {name: step[name] for name in ("inputsize", "hiddensize", "outputsize") if name in step}
    empty = {"zeroOutput": writer.empty(), "zeroCell": writer.empty()}
    return {**fields, **sizes, **empty, "cells": Table(), "gradCells": Table()}


def write_gated(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        **kept_fields(module),
        **_write_step(module, writer),
        "outputSize": module.output_size,
        "zeroTensor": writer.empty(),
        "cells": Table(),
        "gradCells": Table(),
    }


def _write_step(module: Any, writer: Writer) -> dict[str, Any]:
    """The fields that Lua's AbstractRecurrent needs, at the start of a sequence."""
    step = writer.obj(module.step)
    return {
        "recurrentModule": step,
        "modules": Table.from_list([step]),
        "sharedClones": Table.from_list([step]),
        "rho": module.rho,
        "step": 1,
        **{name: Table() for name in ("outputs", "gradInputs", "gradOutputs", "_gradOutputs")},
    }


def _sizes(node: Node, value: Any, depth: int = 0) -> Any:
    """Sizes of a tensor, or nested lists of such for tables of tensors."""
    entries: list[Any] = []
    if isinstance(value, Storage):
        entries = value.tolist()
    elif isinstance(value, Table) and depth < 3 and len(value) <= 30:  # a table may hold itself
        entries = value.to_list()
    if entries and all(type(entry) is int and entry > 0 for entry in entries):
        return tuple(entries)
    if not entries:
        raise node.fail("the field outputSize is no list of sizes")
    return [_sizes(node, entry, depth + 1) for entry in entries]


def read_recurrence(node: Node) -> nn.Module:
    sizes = _sizes(node, node.obj.fields.get("outputSize"))
    step = step_of(node)
    dims = node.integer("nInputDim")
    return recurrent.Recurrence(step, sizes, dims, node.count("rho", 9999))


def _lua_sizes(sizes: Any) -> Table:
    return Table.from_list(size if isinstance(size, int) else _lua_sizes(size) for size in sizes)


def write_recurrence(module: Any, writer: Writer) -> dict[str, Any]:
    fields = _write_step(module, writer)
    return {
        **fields,
        "module": fields["recurrentModule"],
        "outputSize": _lua_sizes(module.output_size),
        "nInputDim": module.n_input_dim,
        "typeTensor": writer.empty(),
    }


def read_recursor(node: Node) -> nn.Module:
    return recurrent.Recursor(step_of(node), node.count("rho", 9999999))


def write_recursor(module: Any, writer: Writer) -> dict[str, Any]:
    fields = _write_step(module, writer)
    return {**fields, "module": fields["recurrentModule"]}


_PARTS = ("startModule", "inputModule", "feedbackModule", "transferModule", "mergeModule")


def read_simple(node: Node) -> nn.Module:
    parts = [field_module(node, name) for name in _PARTS]
    initial, step = field_module(node, "initialModule"), field_module(node, "recurrentModule")
    return recurrent.SimpleRecurrent(parts, initial, step, node.count("rho", 5))


def write_simple(module: Any, writer: Writer) -> dict[str, Any]:
    fields = _write_step(module, writer)
    parts = writer.children(list(module.parts))
    return {
        **fields,
        **dict(zip(_PARTS, parts.to_list(), strict=True)),
        "initialModule": writer.obj(module.initial),
        "modules": parts,
        "sharedClones": Table({2: fields["recurrentModule"]}),
    }


def read_stabilizer(node: Node) -> nn.Module:
    return recurrent.NormStabilizer(node.number("beta"), node.count("rho", 9999))


def write_stabilizer(module: Any, writer: Writer) -> dict[str, Any]:
    step = writer.obj(recurrent_sequences.CopyGrad())
    return {
        "beta": module.beta,
        "rmInSharedClones": True,
        "rho": module.rho,
        "step": 1,
        "recurrentModule": step,
        "modules": Table.from_list([step]),
        "sharedClones": Table.from_list([step]),
        **{name: Table() for name in ("outputs", "gradInputs", "gradOutputs", "_gradOutputs")},
    }


def read_sequencer(node: Node) -> nn.Module:
    """Before 2015-11 a Sequencer held layers without a memory as they were, without a Recursor."""
    name = "module" if node.has("module") else "modules"
    module = field_module(node, "module") if name == "module" else only_child(node)
    return recurrent_sequences.Sequencer(module, remember(node), lua_gradients=True)


def write_sequencer(module: Any, writer: Writer) -> dict[str, Any]:
    inner = module.module
    if not isinstance(inner, recurrent.Recurrent | recurrent_fused.SequenceLayer):
        inner = recurrent.Recursor(inner)
    child = writer.obj(inner)
    return {
        "module": child,
        "modules": Table.from_list([child]),
        "_remember": module.remember,
        **{name: Table() for name in ("output", "_output", "tableoutput", "tablegradInput")},
    }


def read_repeater(node: Node) -> nn.Module:
    module = field_module(node, "module", "rnn")
    steps = node.count("rho", None) or node.count("nStep")
    return recurrent_sequences.Repeater(module, steps, lua_gradients=True)


def write_repeater(module: Any, writer: Writer) -> dict[str, Any]:
    child = writer.obj(module.module)
    return {
        "module": child,
        "modules": Table.from_list([child]),
        "rho": module.steps,
        "output": Table(),
    }


def read_attention(node: Node) -> nn.Module:
    return recurrent_sequences.RecurrentAttention(
        field_module(node, "rnn"),
        field_module(node, "action"),
        node.count("nStep"),
        node.sizes("hiddenSize"),
        node.boolean("forwardActions", False),
    )


def write_attention(module: Any, writer: Writer) -> dict[str, Any]:
    rnn, action = writer.obj(module.rnn), writer.obj(module.action)
    return {
        "rnn": rnn,
        "action": action,
        "modules": Table.from_list([rnn, action]),
        "sharedClones": Table.from_list([action]),
        "nStep": module.steps,
        "hiddenSize": Table.from_list(module.hidden_size),
        "forwardActions": module.with_actions,
        **{name: Table() for name in ("output", "actions", "gradHidden")},
    }


def write_decorator(module: Any, writer: Writer) -> dict[str, Any]:
    child = writer.obj(module.module)
    return {**kept_fields(module), "module": child, "modules": Table.from_list([child])}


def write_bi_sequencer(module: Any, writer: Writer) -> dict[str, Any]:
    return {**write_decorator(module, writer), "output": Table(), "gradInput": Table()}


def read_decorator(python: type[Any]) -> Callable[[Node], nn.Module]:
    return lambda node: remember_fields(python(only_child(node)), node)


def read_mask(python: type[Any]) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        child = only_child(node)
        if not node.boolean("v2", False):
            return python(child, node.integer("nInputDim"))
        sides = node.boolean("maskinput", False), node.boolean("maskoutput", True)
        return masks.GivenMask(child, *sides)

    return read


def write_given_mask(module: Any, writer: Writer) -> dict[str, Any]:
    sides = {"maskinput": module.mask_input, "maskoutput": module.mask_output}
    return {**sides, "v2": True, "modules": Table.from_list([writer.obj(module.module)])}


def read_variable_length(node: Node) -> nn.Module:
    return masks.VariableLength(only_child(node), node.boolean("lastOnly", False))


def write_mask(module: Any, writer: Writer) -> dict[str, Any]:
    child = writer.obj(module.module)
    return {
        "modules": Table.from_list([child]),
        "nInputDim": module.n_input_dim,
        "temp": writer.empty(),
        "gradTemp": writer.empty(),
    }


def read_bi_sequencer_lm(node: Node) -> nn.Module:
    children = node.children()
    if len(children) != 3:
        raise node.fail(f"it has {len(children)} modules, not three")
    return recurrent_sequences.BiSequencerLM(*children)


def write_bi_sequencer_lm(module: Any, writer: Writer) -> dict[str, Any]:
    parts = writer.children([module.ahead, module.back, module.merge])
    named = dict(zip(("_fwd", "_bwd", "_merge"), parts.to_list(), strict=True))
    return {**named, "modules": parts, "output": Table(), "gradInput": Table()}


def read_mask_lookup(node: Node) -> nn.Module:
    rows, columns = _weight_shape(node)
    if rows < 2:
        raise node.fail("weight has no row beside that of zeros")
    make = recurrent_sequences.LookupTableMaskZero
    return node.fill(without_memory(lambda: make(rows - 1, columns)))


def _weight_shape(node: Node) -> tuple[int, int]:
    shape = node.tensor("weight").shape
    if len(shape) != 2:
        raise node.fail(f"weight has shape {tuple(shape)}, expected (indices, outputs)")
    return shape[0], shape[1]


def write_mask_lookup(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "paddingValue": 0,
        "shouldScaleGradByFreq": False,
        "_count": torch.empty(0, dtype=torch.int32),
        "_input": torch.empty(0, dtype=torch.int64),
        **writer.weights_of(module),
    }


def read_linear_no_bias(node: Node) -> nn.Module:
    module: Any = read_linear(node)
    module.bias = None
    return module


STEPS = [
    Codec(("LSTM",), recurrent.LSTM, read_lstm, write_gated),
    *(
        Codec((python.__name__,), python, read_gated(python), write_gated)
        for python in (recurrent.FastLSTM, recurrent.GRU, recurrent.MuFuRu)
    ),
    Codec(("Grid2DLSTM",), None, read_grid_lstm),
    Codec(("RecLSTM",), recurrent.RecLSTM, read_rec_lstm, write_rec),
    Codec(("RecGRU",), recurrent.RecGRU, read_rec_gru, write_rec),
    Codec(
        ("Recurrence", "LinearRNN", "LookupRNN"),
        recurrent.Recurrence,
        read_recurrence,
        write_recurrence,
    ),
    Codec(("Recursor",), recurrent.Recursor, read_recursor, write_recursor),
    Codec(("Recurrent",), recurrent.SimpleRecurrent, read_simple, write_simple),
    Codec(("NormStabilizer",), recurrent.NormStabilizer, read_stabilizer, write_stabilizer),
]
_Seq = recurrent_sequences
SEQUENCES = [
    Codec(("Sequencer",), _Seq.Sequencer, read_sequencer, write_sequencer),
    Codec(("Repeater",), _Seq.Repeater, read_repeater, write_repeater),
    Codec(("RecurrentAttention",), _Seq.RecurrentAttention, read_attention, write_attention),
    Codec(
        ("BiSequencer", "SeqBLSTM", "SeqBGRU"),
        _Seq.BiSequencer,
        read_decorator(_Seq.BiSequencer),
        write_bi_sequencer,
    ),
    plain("ReverseSequence", _Seq.ReverseSequence),
    Codec(("SeqBRNN",), _Seq.SeqBRNN, read_decorator(_Seq.SeqBRNN), write_decorator),
    Codec(("BiSequencerLM",), _Seq.BiSequencerLM, read_bi_sequencer_lm, write_bi_sequencer_lm),
    Codec(("MaskZero",), _Seq.MaskZero, read_mask(_Seq.MaskZero), write_mask),
    Codec(("MaskZero",), masks.GivenMask, read_mask(_Seq.MaskZero), write_given_mask),
    Codec(("VariableLength",), None, read_variable_length),
    Codec(("TrimZero",), _Seq.TrimZero, read_mask(_Seq.TrimZero), write_mask),
    plain("SeqReverseSequence", _Seq.SeqReverseSequence, Plain("dim", "dim", int)),
    Codec(("LookupTableMaskZero",), _Seq.LookupTableMaskZero, read_mask_lookup, write_mask_lookup),
    Codec(("LinearNoBias", "LinearNB"), None, read_linear_no_bias, write_weights),
    plain(
        "SAdd", _Seq.SAdd, Plain("addend", "addend", float), Plain("negate", "negate", bool, False)
    ),
    plain("ExpandAs", _Seq.ExpandAs, buffers=("sum1", "sum2"), tables=("output", "gradInput")),
    plain("CopyGrad", _Seq.CopyGrad),
]
CODECS = [*STEPS, *SEQUENCES]
