"""The networks of tests/golden/classes: opened, run, and compared with what Lua made of them."""

import json
import lzma
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.torch7 import Table, TorchObject, load, to_module

FOLDER = Path(__file__).parents[1] / "golden" / "classes"


@dataclass(frozen=True)
class Entry:
    """A line of the index. ``case``: the project's file of input and output, besides its network's.

    ``path``: the keys that lead to the network within ``file``. ``tolerance`` None: the usual one.
    """

    name: str
    kind: str
    file: str
    case: str = ""
    path: tuple[Any, ...] = ()
    project: str = ""
    tolerance: float | None = None


def entries() -> list[Entry]:
    lines = json.loads((FOLDER / "index.json").read_text())
    return [Entry(**{**line, "path": tuple(line.get("path", ()))}) for line in lines]


def differences() -> dict[str, str]:
    """The cases that differ from Lua's, each with what does and why."""
    lines = (Path(__file__).parent / "golden_differs.txt").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


@cache
def raw(file: str) -> bytes:
    return lzma.decompress((FOLDER / f"{file}.xz").read_bytes())


@cache
def opened(file: str) -> Any:
    return load(raw(file))


def case_of(entry: Entry) -> Table:
    """The case with its ``net`` and ``input``; projects' cases have no ``parameters``."""
    if not entry.case:
        return opened(entry.file)[entry.name]
    case, net = Table(opened(entry.case)), opened(entry.file)
    for key in entry.path:
        net = (net.fields if isinstance(net, TorchObject) else net)[key]
    case["net"] = net
    if "input" not in case:
        case["input"] = formula(case["inputFormula"])
    return case


def formula(numbers: Table) -> Tensor:
    sizes = numbers["size"].tolist()
    index = torch.arange(math.prod(sizes), dtype=torch.float64)
    values = numbers["scale"] * torch.sin(index + numbers["phase"]) + numbers["add"]
    return values.float().reshape(sizes)


def python_value(value: Any, dtype: torch.dtype | None = None) -> Any:
    """A tensor's copy, or the list of a Lua list; gradients can flow to floats (as ``dtype``)."""
    if isinstance(value, Table):
        return [python_value(entry, dtype) for entry in value.to_list()]
    if isinstance(value, Tensor):
        floats = value.is_floating_point()
        return value.to(dtype if floats else None, copy=True).requires_grad_(floats)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of nested lists or tables, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Table | list | tuple):
        for part in value.to_list() if isinstance(value, Table) else value:
            yield from tensors(part)


@dataclass
class Run:
    """What a module made of a case's input."""

    module: nn.Module
    inputs: list[Tensor]
    outputs: Any


def run(case: Table) -> Run:
    """In double what Lua ran in float32.

    Float32 rounds some sums to the other side of a kink; which ones depends on the processor.
    """
    single = any(output.dtype == torch.float32 for output in tensors(case["output"]))
    dtype = torch.float64 if single else None
    module = to_module(case["net"], dtype=dtype).eval()
    x = python_value(case["input"], dtype)
    return Run(module, list(tensors(x)), module(x))


def difference(got: Tensor | None, expected: Tensor, tolerance: float | None) -> str:
    """What is wrong with a tensor, or nothing."""
    got = torch.zeros_like(expected) if got is None else got.detach()
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)}, Lua {tuple(expected.shape)}"
    if not expected.numel():
        return ""
    tol = tolerance or (1e-10 if expected.dtype == torch.float64 else 1e-5)
    a, b = got.double(), expected.double()
    off = (a - b).abs() / b.abs().clamp(min=1)
    off = torch.where((a == b) | (a.isnan() & b.isnan()), 0, off)
    worst = off.nan_to_num(math.inf, math.inf).max().item()
    return f"difference {worst:.3g}" if worst > tol else ""


def compare_output(case: Table, ran: Run, tolerance: float | None) -> str:
    got, expected = list(tensors(ran.outputs)), list(tensors(case["output"]))
    if len(got) != len(expected):
        return f"{len(got)} outputs, Lua {len(expected)}"
    faults = [difference(a, b, tolerance) for a, b in zip(got, expected, strict=True)]
    return next(filter(None, faults), "")


def expected_gradients(case: Table) -> list[Tensor]:
    """One a parameter, in Lua's order; of shared memory the sum, unless that is shared too."""
    if "parameters" not in case:  # a project's: none are shared there
        return list(tensors(case["gradParameters"]))
    grads: dict[Any, Tensor] = {}
    met: dict[Any, set[int]] = {}
    pairs = zip(tensors(case["parameters"]), tensors(case["gradParameters"]), strict=True)
    for weight, grad in pairs:
        key = (weight.data_ptr(), weight.numel())  # transposed ones too
        if key not in grads:
            row = weight.new_zeros(weight.untyped_storage().nbytes() // weight.itemsize)
            lies = weight.shape, weight.stride(), weight.storage_offset()
            grads[key], met[key] = row.as_strided(*lies), set()
        if grad.data_ptr() not in met[key]:
            seen = grads[key].as_strided(weight.shape, weight.stride())
            seen += grad.reshape(weight.shape)
            met[key].add(grad.data_ptr())
    return list(grads.values())


def compare_gradients(case: Table, ran: Run, tolerance: float | None) -> str:
    """Run backward and compare the gradients of input and parameters, where the case has them."""
    outputs = list(tensors(ran.outputs))
    pairs = zip(outputs, tensors(case["gradOutput"]), strict=True)
    live = [(y, g.to(y.dtype)) for y, g in pairs if y.requires_grad]
    if live:
        torch.autograd.backward([y for y, _ in live], [g for _, g in live])
    given = list(tensors(case.get("gradInput")))
    if len(given) == len(ran.inputs):
        for x, expected in zip(ran.inputs, given, strict=True):
            if x.is_floating_point() and (fault := difference(x.grad, expected, tolerance)):
                return f"gradInput: {fault}"
    if "gradParameters" not in case:
        return ""
    parameters, grads = list(ran.module.parameters()), expected_gradients(case)
    if len(parameters) != len(grads):
        return f"{len(parameters)} parameters, Lua {len(grads)}"
    for i, (parameter, expected) in enumerate(zip(parameters, grads, strict=True), start=1):
        got = None if parameter.grad is None else parameter.grad.reshape(expected.shape)
        if fault := difference(got, expected, tolerance):
            return f"gradient of parameter {i}: {fault}"
    return ""


def objects(value: Any) -> Iterator[TorchObject]:
    """Every class instance within a value, once."""
    stack, met = [value], set()
    while stack:
        value = stack.pop()
        if id(value) in met or not isinstance(value, Table | TorchObject):
            continue
        met.add(id(value))
        if isinstance(value, TorchObject):
            yield value
            stack.append(value.fields)
        else:
            stack += value.values()


@cache
def golden_classes() -> set[str]:
    """The names, without package, of all classes in the golden networks."""
    nets = (case_of(entry)["net"] for entry in entries())
    return {obj.typename.rpartition(".")[2] for net in nets for obj in objects(net)}


def has_gradients(case: Table) -> bool:
    return "noBackward" not in case and ("gradInput" in case or "gradParameters" in case)


def fault(entry: Entry) -> str:
    """What is wrong with a case's output or gradients; "" where all agree. Errors pass."""
    case = case_of(entry)
    ran = run(case)
    wrong = compare_output(case, ran, entry.tolerance)
    if wrong or not has_gradients(case):
        return wrong
    return compare_gradients(case, ran, entry.tolerance)
