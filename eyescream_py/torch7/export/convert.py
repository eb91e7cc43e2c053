"""One network of a Torch 7 file as a file for today's torch: weights, source, .pt2, .onnx."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ..describe import is_network
from ..describe_layer import printable
from ..errors import T7Error
from ..files.values import Table, TorchObject
from ..graph import GraphModule
from ..layers.inplace import overwrites
from ..recurrent.steps import forget
from .functional import without_memory
from .source_code import network_source, network_weights

_INTEGER = ("long", "int")
# no size is 0: torch's exporter for ONNX dies of it
_SHAPE = re.compile(r"([1-9]\d{0,8}(?:x[1-9]\d{0,8})*)(?::(half|float|double|long|int))?", re.ASCII)
_DTYPES = {
    "half": torch.float16,
    "float": torch.float32,
    "double": torch.float64,
    "long": torch.int64,
    "int": torch.int32,
}
MAX_ELEMENTS = 2**28  # of an example input
_TABLES_DEEP = 6  # OpenNMT has models.encoder.modules.1


def network_of(value: Any, keys: str) -> TorchObject:
    """The network at ``keys`` ("G", "protos.rnn", "1"), or the only one that ``value`` holds.

    Raises T7Error, which lists the networks there are, where that is not one.
    """
    if keys:
        for key in keys.split("."):
            fields = value.fields if isinstance(value, TorchObject) else value
            name = int(key) if key.isdigit() else key
            value = fields.get(name) if isinstance(fields, Table) else None
        if not _is_network(value):
            raise T7Error(f"there is no network under {keys!r}")
        return value
    found = dict(_networks(value))
    if not found:
        raise T7Error("there is no network in it; --source, .pt2 and .onnx need one")
    if len(found) != 1:
        names = ", ".join(sorted(found)[:20])
        raise T7Error(f"choose one of its networks with --network: {names}")
    return next(iter(found.values()))


def _is_network(value: Any) -> bool:
    return is_network(value) and not value.typename.endswith("Criterion")


def _networks(value: Any) -> Iterator[tuple[str, TorchObject]]:
    """The networks in tables within tables, by their keys; what is met again is left out."""
    level, met = [("", value)], set()
    for _ in range(_TABLES_DEEP):
        inner: list[tuple[str, Any]] = []
        for name, part in level:
            if id(part) in met or not isinstance(part, Table | TorchObject):
                continue
            met.add(id(part))
            if isinstance(part, TorchObject) and _is_network(part):
                yield name.rstrip("."), part
            elif isinstance(part, Table):
                named = ((k, p) for k, p in part.items() if isinstance(k, str | int))
                inner += [(f"{name}{key}.", entry) for key, entry in named]
        level = inner


def example_input(text: str, real: torch.dtype = torch.float32) -> Tensor:
    """A tensor of a shape written as 1x3x64x64, or 2x10:long for indices (which are all 1).

    Without a type it is of ``real``.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise T7Error(f"--input {text}: write a shape such as 1x3x64x64, or 2x10:long for indices")
    shape = [int(size) for size in match[1].split("x")]
    if torch.Size(shape).numel() > MAX_ELEMENTS:
        raise T7Error(f"--input {text}: more than {MAX_ELEMENTS} elements")
    if match[2] in _INTEGER:
        return torch.ones(shape, dtype=_DTYPES[match[2]])
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, dtype=_DTYPES.get(match[2], real), generator=generator)


def weights_and_source(module: nn.Module, weights: str, title: str) -> tuple[bytes, str]:
    """The safetensors file of the name ``weights``, and the Python file that loads it."""
    source = network_source(module, weights, title)
    return save_safetensors(network_weights(module), {"network": printable(title)}), source


class _Arguments(nn.Module):
    """A network that takes its inputs as arguments and leaves them as they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        own = [x.clone() for x in inputs]
        return self.network(own[0] if len(own) == 1 else own)


def exported(module: nn.Module, inputs: list[Tensor], kind: str) -> bytes:
    """The network for inputs of just these shapes, as the bytes of a .pt2 or .onnx file.

    Several inputs are one list in Lua; they are arguments here. Layers with a memory begin anew
    with each call of what is exported. Raises T7Error where torch cannot export the network.
    """
    if not inputs:
        raise T7Error("say with --input which shape goes in, such as --input 1x3x64x64")
    network = module
    if overwrites(module) or (len(inputs) > 1 and not isinstance(module, GraphModule)):
        network = _Arguments(module)
    write: dict[str, Callable[[nn.Module, tuple[Tensor, ...]], bytes]] = {
        ".pt2": _pt2,
        ".onnx": _onnx,
    }
    try:
        with _silence(), torch.no_grad():
            forget(network)
            network.eval()(
                *inputs
            )  # what does not even run has a better message than an exporter's
            forget(network)  # or what was remembered would become part of the program
            return write[kind](network, tuple(inputs))
    except Exception as error:  # torch's exporters raise errors of many classes
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        hint = " (indices are :long, as in --input 2x10:long)" * _lacks_indices(network, inputs)
        message = f"torch cannot export this network for that input: {reason[:300]}{hint}"
        raise T7Error(message) from error
    finally:
        forget(network)  # exporters leave tensors without values there


def _lacks_indices(network: nn.Module, inputs: list[Tensor]) -> bool:
    """Whether a layer takes indices, and no input has any."""
    kinds = {type(layer).__name__ for layer in network.modules()}
    takes = any(kind.startswith(("LookupTable", "OneHot")) for kind in kinds)
    return takes and all(x.is_floating_point() for x in inputs)


@contextmanager
def _silence() -> Iterator[None]:
    """torch's exporters print notes and graphs of their own, some of them past Python's streams."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        for stream in (1, 2):
            with suppress(OSError):  # one that is closed needs no silence
                stack.callback(_put_back, os.dup(stream), stream)
                os.dup2(nowhere.fileno(), stream)
        yield


def _put_back(kept: int, stream: int) -> None:
    os.dup2(kept, stream)
    os.close(kept)


def _pt2(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    program = torch.export.export(network, inputs)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    # torch.export refuses choices by value, which a trace for ONNX would freeze
    if overwrites(network):
        network = without_memory(network, inputs)
    else:
        torch.export.export(network, inputs)
        forget(network)
    buffer = io.BytesIO()
    # the older exporter, as the newer one needs one more package; it writes to buffers too
    torch.onnx.export(network, inputs, buffer, dynamo=False, opset_version=17)  # type: ignore[arg-type]
    return buffer.getvalue()
