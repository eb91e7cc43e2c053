"""Converters of the layers that keep one weight for a whole sequence; see `recurrent/fused.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..files.values import Table, TorchObject
from ..layers.ties import kind_of
from ..recurrent import fused as fused
from ..recurrent import weight_norm
from . import captions
from .captions import layers_in_time, read_densecap, read_neuraltalk
from .codec import Codec, Node, Writer, long_storage
from .weights import without_memory

_KEPT = (bool, int, float, str)
_NOT_KEPT = {"step", "train", "_type"}


def plain_fields(node: Node) -> dict[str, Any]:
    """The numbers, strings and booleans of an object, so that they can be written again."""
    fields = node.obj.fields.items()
    return {k: v for k, v in fields if isinstance(v, _KEPT) and k not in _NOT_KEPT}


def remember_fields(module: nn.Module, node: Node) -> nn.Module:
    module.lua_fields = plain_fields(node)  # type: ignore[assignment]
    return module


def kept_fields(module: nn.Module) -> dict[str, Any]:
    return dict(getattr(module, "lua_fields", {}))


def remember(node: Node) -> str:
    """Which modes remember; torch-rnn has one switch for both."""
    value = node.obj.fields.get("_remember", "neither")
    if node.obj.fields.get("remember_states") is True:
        return "both"
    return value if value in ("train", "eval", "both") else "neither"


def read_sequence(python: type[Any]) -> Callable[[Node], nn.Module]:
    """The layers of one weight. torch-rnn's, and rnn's first SeqLSTM, have the batch first."""

    def read(node: Node) -> nn.Module:
        size_in = node.count("inputsize", None) or node.count("inputSize", None)
        size_in = size_in or node.count("input_dim")
        rows, columns = _matrix(node)
        hidden, out = columns // python.gates, rows - size_in
        if out < 1 or (out != hidden and not issubclass(python, fused.SeqLSTMP)):
            raise node.fail(f"weight is of {rows} rows, which is not inputs and outputs")
        options = {
            "batch_first": node.boolean("batchfirst", node.has("remember_states")),
            "mask_zero": node.boolean("maskzero", False),
            "remember": remember(node),
            "keeps": node.has("remember_states"),
            "given_mask": node.boolean("maskzero", False) and node.boolean("v2", False),
        }
        module = without_memory(lambda: python(size_in, hidden, out, **options))
        return node.fill(module)

    return read


def read_normed(python: type[Any]) -> Callable[[Node], nn.Module]:
    """The layers whose weight is made of ``v`` and ``g``."""

    def read(node: Node) -> nn.Module:
        weight = Table(node.obj.fields, weight=node.tensor("v"))
        whole = Node(TorchObject(node.obj.typename, weight), node.place, node.reader)
        module = read_sequence(python)(whole)
        node.taken += whole.taken
        return module

    return read


def read_seq_lstm(node: Node) -> nn.Module:
    """Since 2017 the class of the name also has the projection of SeqLSTMP."""
    return read_sequence(fused.SeqLSTMP if node.has("weightO") else fused.SeqLSTM)(node)


def read_step(plain: type[Any], projected: type[Any] | None = None) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        return read_sequence(projected if projected and node.has("weightO") else plain)(node)

    return read


def _matrix(node: Node) -> tuple[int, int]:
    shape = node.tensor("weight").shape
    if len(shape) != 2 or node.tensor("bias").shape != shape[1:]:
        raise node.fail("weight is no matrix with one column for each element of bias")
    return shape[0], shape[1]


_LUA_SIZES: dict[
    type, tuple[str, str, str]
] = {  # how each class names the sizes of input, output and state
    fused.SeqLSTM: ("inputsize", "outputsize", "hiddensize"),
    fused.SeqLSTMP: ("inputsize", "outputsize", "hiddensize"),
    fused.SeqGRU: ("inputSize", "outputSize", ""),
    fused.SequenceLSTM: ("input_dim", "hidden_dim", ""),
    fused.VanillaRNN: ("input_dim", "hidden_dim", ""),
}
_KEPT_BY_GRU = {"seqLength": 1, "miniBatch": 1}
_BUFFERS = ("gates", "buffer1", "buffer2", "buffer3", "grad_a_buffer", "h0", "c0", "cell")
_GRADIENTS = ("grad_c0", "grad_h0", "grad_x")


def write_sequence(module: Any, writer: Writer) -> dict[str, Any]:
    sizes = (module.input_size, module.output_size, module.hidden_size)
    named = {k: v for k, v in zip(_LUA_SIZES[kind_of(module)], sizes, strict=True) if k}
    gradients = {name: writer.empty() for name in _GRADIENTS[2 - module.states :]}
    options: dict[str, Any] = {
        "batchfirst": module.batch_first,
        "maskzero": module.mask_zero,
        "v2": module.given_mask,
        "_remember": module.remember,
    }
    if module.keeps:
        options = {"remember_states": module.remember != "neither"}
    fields = {
        **named,
        **options,
        **writer.weights_of(module),
        **{name: writer.empty() for name in _BUFFERS},
        **gradients,
        "gradInput": Table.from_list(gradients.values()),
    }
    if isinstance(module, fused.SeqLSTMP):
        fields["weightO"], fields["gradWeightO"] = writer.weight(module.weightO)
    return {**fields, **(_KEPT_BY_GRU if isinstance(module, fused.SeqGRU) else {})}


def write_step(module: Any, writer: Writer) -> dict[str, Any]:
    output = Table.from_list(writer.empty() for _ in range(module.states))
    fields = {
        "inputsize": module.input_size,
        "hiddensize": module.hidden_size,
        "outputsize": module.output_size,
        "maskzero": module.mask_zero,
        "v2": module.given_mask,
        "gates": writer.empty(),
        "output": output if module.states > 1 else writer.empty(),
        "gradInput": Table.from_list(writer.empty() for _ in range(module.states + 1)),
        **writer.weights_of(module),
    }
    if isinstance(module, fused.StepLSTMP):
        fields["weightO"], fields["gradWeightO"] = writer.weight(module.weightO)
    return fields


def read_language_model(node: Node) -> nn.Module:
    """torch-rnn's, neuraltalk2's or densecap's.

    The views, whose sizes Lua sets before each run, become layers that know what is meant.
    """
    if node.has("core"):
        return read_neuraltalk(node)
    if node.has("image_encoder"):
        return read_densecap(node)
    folds, unfolds = ["view1", "bn_view_in"], ["view2", "bn_view_out"]
    net = layers_in_time(node, "net", folds, unfolds)
    tokens = _entries(node, "idx_to_token")
    vocabulary = tuple(token for token in tokens if isinstance(token, str))
    return remember_fields(fused.LanguageModel(net, vocabulary), node)


def _entries(node: Node, name: str) -> list[Any]:
    value = node.obj.fields.get(name)
    return value.to_list() if isinstance(value, Table) else []


def write_language_model(module: Any, writer: Writer) -> dict[str, Any]:
    net = writer.obj(module.net)
    layers = list(zip(module.net, net.fields["modules"].to_list(), strict=True))
    folds = [obj for layer, obj in layers if isinstance(layer, fused.FoldTime)]
    unfolds = [obj for layer, obj in layers if isinstance(layer, fused.UnfoldTime)]
    rnns = [obj for layer, obj in layers if isinstance(layer, fused.SequenceLayer)]
    tokens = list(enumerate(module.vocabulary, start=1))
    return {
        **kept_fields(module),
        "net": net,
        "view1": folds[-1] if folds else None,  # those before it belong to batch normalisations
        "view2": unfolds[-1] if unfolds else None,
        "bn_view_in": Table.from_list(folds[:-1]),
        "bn_view_out": Table.from_list(unfolds[:-1]),
        "rnns": Table.from_list(rnns),
        "idx_to_token": Table(tokens),
        "token_to_idx": Table((token, index) for index, token in tokens),
    }


def _write_view(sizes: tuple[int, ...], dims: int) -> Callable[[Any, Writer], dict[str, Any]]:
    def write(module: Any, writer: Writer) -> dict[str, Any]:
        return {"size": long_storage(sizes), "numElements": 1, "numInputDims": dims}

    return write


def _never_read(node: Node) -> nn.Module:
    """Of classes that are written under a name whose objects other converters read."""
    raise node.fail("is read by another converter")


CODECS = [
    Codec(("SeqLSTM",), fused.SeqLSTM, read_seq_lstm, write_sequence),
    *(
        Codec((python.__name__,), python, read_sequence(python), write_sequence)
        for python in (fused.SeqLSTMP, fused.SeqGRU, fused.VanillaRNN)
    ),
    Codec(("SeqLSTM_WN",), None, read_normed(weight_norm.SeqLSTMWN)),
    Codec(("SeqLSTMP_WN",), None, read_normed(weight_norm.SeqLSTMPWN)),
    Codec(("SeqGRU_WN",), None, read_normed(weight_norm.SeqGRUWN)),
    Codec(("StepLSTM",), fused.StepLSTM, read_step(fused.StepLSTM, fused.StepLSTMP), write_step),
    Codec((), fused.StepLSTMP, _never_read, write_step, written="nn.StepLSTM"),
    Codec(("StepGRU",), fused.StepGRU, read_step(fused.StepGRU), write_step),
    Codec((), fused.SequenceLSTM, _never_read, write_sequence, written="nn.LSTM"),
    Codec(("LanguageModel",), fused.LanguageModel, read_language_model, write_language_model),
    *captions.CODECS,
    Codec((), fused.FoldTime, _never_read, _write_view((1, -1), 3), written="nn.View"),
    Codec((), fused.UnfoldTime, _never_read, _write_view((1, 1, -1), 2), written="nn.View"),
]
