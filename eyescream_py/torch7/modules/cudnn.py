"""Converters of `layers/cudnn.py`, under their full names: nn has others, as LSTM and SoftMax."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers.cudnn import GATES, CudnnLogSoftMax, CudnnRNN, CudnnSoftMax, VolumetricSoftMax
from ..layers.inplace import InPlace
from .codec import Node, Writer
from .registry import register
from .weights import without_memory

NAMES = ("RNN", "RNNReLU", "RNNTanh", "LSTM", "GRU", "BLSTM", "BGRU")
MAX_LAYERS = 1000
_INPUTS = ("CUDNN_LINEAR_INPUT", "CUDNN_SKIP_INPUT")
_BUFFERS = ("reserve", "hiddenOutput", "cellOutput", "gradHiddenInput", "gradCellInput")


def build_rnn(node: Node) -> nn.Module:
    mode, inputs = node.text("mode"), node.text("inputMode", "CUDNN_LINEAR_INPUT")
    if mode not in GATES:
        raise node.fail(f"the mode {mode} is none of {', '.join(GATES)}")
    if inputs not in _INPUTS:
        raise node.fail(f"the inputMode {inputs} is none of {', '.join(_INPUTS)}")
    sizes = node.count("inputSize"), node.count("hiddenSize"), node.count("numLayers")
    if sizes[2] > MAX_LAYERS:
        raise node.fail(f"{sizes[2]} layers are more than {MAX_LAYERS}")
    skips = inputs == _INPUTS[1]
    if skips and sizes[0] != sizes[1]:
        raise node.fail(f"{inputs} takes as many inputs as outputs, not {sizes[0]} for {sizes[1]}")
    directions = node.count("numDirections", 1)
    if directions > 2:
        raise node.fail(f"there are two directions, not {directions}")
    options = {
        "batch_first": node.boolean("batchFirst", False),
        "dropout": node.number("dropout", 0),
        "remembers": node.boolean("rememberStates", False),
        "skips": skips,
    }
    module: Any = without_memory(lambda: CudnnRNN(mode, *sizes, directions, **options))
    return node.fill(_with_state(module, node))


def _with_state(module: Any, node: Node) -> nn.Module:
    """Where the next call begins in Lua: at what a program set, or where the last one ended."""
    lead, size = module.layers * module.directions, module.hidden_size
    state: list[Any] = [None, None]
    for number, name in enumerate(_state_names(module)):
        shape = node.tensor(name).shape if node.has(name) else ()
        if len(shape) == 3 and (shape[0], shape[2]) == (lead, size):
            state[number] = node.buffer(name, shape)
        elif not module.remembers and 0 not in (*shape, len(shape)):
            expected = f"({lead}, batch, {size})"
            raise node.fail(f"{name} has shape {tuple(shape)}, expected {expected}")
    if not module.remembers:
        module.hidden, module.cell = state
    elif state[0] is not None:  # Lua takes a cell of another size for zeros
        alike = state[1] is not None and state[1].shape == state[0].shape
        module._past = [state[0], state[1] if alike else torch.zeros_like(state[0])]
    return module


def _state_names(module: Any) -> tuple[str, str]:
    """RNN.lua replaces the inputs by the outputs of the last call where it remembers."""
    kind = "Output" if module.remembers else "Input"
    return f"hidden{kind}", f"cell{kind}"


def write_rnn(module: Any, writer: Writer) -> dict[str, Any]:
    both = module.directions == 2
    return {
        "mode": module.mode,
        "inputMode": _INPUTS[module.skips],
        "datatype": "CUDNN_DATA_FLOAT",
        "inputSize": module.input_size,
        "hiddenSize": module.hidden_size,
        "numLayers": module.layers,
        "numDirections": module.directions,
        "bidirectional": "CUDNN_BIDIRECTIONAL" if both else "CUDNN_UNIDIRECTIONAL",
        "batchFirst": module.batch_first,
        "dropout": module.dropout,
        "rememberStates": module.remembers,
        "seqLength": 1,
        "miniBatch": 1,
        "seed": 0x01234567,
        **writer.weights_of(module),
        **{name: writer.empty() for name in _BUFFERS},
        **_state(module, writer),
    }


def _state(module: Any, writer: Writer) -> dict[str, Any]:
    parts = module._past if module.remembers else [module.hidden, module.cell]
    named = zip(_state_names(module), parts or [], strict=False)
    return {name: writer.tensor(part) for name, part in named if part is not None}


def register_cudnn() -> None:
    """Of the recurrent ones cudnn.RNN is written, which has all of the others as its modes."""
    register("cudnn.RNN", build_rnn, CudnnRNN, write_rnn)
    for name in NAMES[1:]:
        register(f"cudnn.{name}", build_rnn)
    register("cudnn.ReLUInPlace", lambda node: InPlace(nn.ReLU()))  # the first cudnn.torch's
    # written as nn's, which run on a CPU and are the same for (F) and (N,F)
    register("cudnn.SoftMax", lambda node: CudnnSoftMax())
    register("cudnn.LogSoftMax", lambda node: CudnnLogSoftMax())
    register("cudnn.VolumetricSoftMax", lambda node: VolumetricSoftMax())
    register("cudnn.VolumetricLogSoftMax", lambda node: VolumetricSoftMax(log=True))
