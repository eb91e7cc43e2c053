"""A Linear of few rows and many weights by loops in C, which pass once through the memory of its
weights, or of their slopes: `system/thin.c` in float32, `system/thin_bf16.c` in bfloat16.
"""

from __future__ import annotations

import ctypes
import functools
from typing import cast

import torch
from torch import Tensor

from eyescream_py.networks.products import has_tiles
from eyescream_py.system import compiled
from eyescream_py.system.compiled import Library, Team
from eyescream_py.system.tape import as_one

ROWS = range(16, 49)  # for which it was measured to be faster
WIDTH, NUMBERS = 2048, 2**16  # columns that a thread takes at once, and sums, at most
LINE = 32  # columns that are not parted
STRIP = 512  # bytes of x that a thread keeps in its cache for slopes of weights, of each row
DEEP = 8192  # columns of x that a thread keeps in its cache for values
ERRORS = {torch.float32: 2e-6, torch.bfloat16: 2.5e-3}  # of the norm


class _Thin(ctypes.Structure):
    """As in thin_bf16.c; thin.c knows no bias."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("g", "with_", "made")),
        *((name, ctypes.c_int64) for name in ("rows", "outputs", "inputs")),
        ("team", Team), ("memory", ctypes.c_void_p),
        ("width", ctypes.c_int64), ("tasks", ctypes.c_int64), ("bias", ctypes.c_void_p),
    ]  # fmt: skip


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a Linear of these sizes, in the type that autocast would take, is to be computed by
    the functions below: in float32 its slopes only. [N,inputs], [outputs,inputs]
    """
    if x.dim() != 2 or len(x) not in ROWS or x.device.type != "cpu":
        return False
    autocast = torch.is_autocast_enabled("cpu")
    kind = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    kinds = {kind, torch.float32} if autocast else {kind}
    if not {x.dtype, weight.dtype} <= kinds or not weight.is_contiguous():
        return False
    code = proven(kind)
    if code is None:
        return False
    tall, line = code.code.rows_at_once(), code.code.columns_at_once()
    return len(x) % tall == 0 == len(weight) % tall and weight.shape[1] % line == 0


def values(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear(x, weight, bias)` in bfloat16, where it `pays`.
    [N,inputs], [outputs,inputs], [outputs] -> [N,outputs]
    """
    made: Tensor = as_one(_values, _code(x), x, weight, bias)
    return made


def slopes_of_rows(g: Tensor, weight: Tensor) -> Tensor:
    """g @ weight, likewise, in float32 or bfloat16. [N,outputs], [outputs,inputs] -> [N,inputs]"""
    made: Tensor = as_one(_of_rows, _code(g), g, weight)
    return made


def slopes_of_weights(g: Tensor, x: Tensor) -> Tensor:
    """g.T @ x, likewise. [N,outputs], [N,inputs] -> [outputs,inputs]"""
    made: Tensor = as_one(_of_weights, _code(g), g, x)
    return made


def _values(code: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs, inputs = weight.shape
    made = x.new_empty(len(x), outputs)
    # x by pairs, and sums
    width, tasks = min(inputs, DEEP) // 2 + outputs, torch.get_num_threads()
    if bias is not None:
        bias = bias.contiguous()
    _run(code, "values", x.contiguous(), weight, made, width, tasks, bias)
    return made


def _of_rows(code: Library, g: Tensor, weight: Tensor) -> Tensor:
    rows, inputs, threads = len(g), weight.shape[1], torch.get_num_threads()
    made = g.new_empty(rows, inputs)
    # as many for each thread, that all end at once
    width = min(WIDTH, NUMBERS // rows // LINE * LINE)
    tasks = threads * -(-inputs // (threads * width))
    _run(code, "slopes_of_rows", g.contiguous(), weight, made, width, tasks)
    return made


def _of_weights(code: Library, g: Tensor, x: Tensor) -> Tensor:
    made = g.new_empty(g.shape[1], x.shape[1])
    width, tasks = STRIP // x.element_size(), torch.get_num_threads()
    _run(code, "slopes_of_weights", g.contiguous(), x.contiguous(), made, width, tasks)
    return made


def _run(
    code: Library, name: str, given: Tensor, by: Tensor, made: Tensor, width: int, tasks: int,
    bias: Tensor | None = None,
) -> None:  # fmt: skip
    """`given` and `made` or `by` have as many rows as there are in all."""
    rows, outputs = len(given), made.shape[1] if name == "values" else given.shape[1]
    memory = given.new_empty(torch.get_num_threads(), rows * width, dtype=torch.float32)
    work = _Thin(
        given.data_ptr(), by.data_ptr(), made.data_ptr(), rows, outputs, by.shape[1], code.team(),
        memory.data_ptr(), width, tasks, None if bias is None else bias.data_ptr(),
    )  # fmt: skip
    code.run(name, work)


def _code(x: Tensor) -> Library:
    """Of a Linear for which `pays` has found it."""
    return cast(Library, proven(x.dtype))


@functools.cache
def proven(kind: torch.dtype) -> Library | None:
    """The compiled loops for numbers of this type, where there are some here and they compute what
    torch does.
    """
    name = _source(kind)
    return compiled.proven(name, functools.partial(_computes, kind)) if name else None


def _source(kind: torch.dtype) -> str | None:
    """In bfloat16 not beside AMX, for which oneDNN has products of its own."""
    if kind == torch.float32:
        return "thin"
    pairs = torch.cpu._is_avx512_bf16_supported() and not has_tiles()
    return "thin_bf16" if kind == torch.bfloat16 and pairs else None


def _computes(kind: torch.dtype, code: Library) -> bool:
    for known in ("rows_at_once", "columns_at_once"):
        getattr(code.code, known).restype = ctypes.c_int64
    return all(_agrees(code, kind, *sizes) for sizes in CASES)


# rows, outputs, inputs: of one block and of several, blocks of terms that are not whole
CASES = [(16, 16, 256), (32, 96, 544), (48, 80, DEEP + 256)]


def _agrees(code: Library, kind: torch.dtype, n: int, outputs: int, inputs: int) -> bool:
    """Whether all is what torch computes in float64, but for what rounding costs."""
    numbers = torch.Generator().manual_seed(n)
    sizes = (n, outputs), (outputs, inputs), (n, inputs), (outputs,)
    g, weight, x, bias = (torch.randn(*size, generator=numbers).to(kind) for size in sizes)
    found = [_of_rows(code, g, weight), _of_weights(code, g, x)]
    if kind == torch.bfloat16:
        found += [_values(code, x, weight, bias), _values(code, x, weight, None)]
    g, weight, x, bias = (t.double() for t in (g, weight, x, bias))
    y = x @ weight.T
    meant = (g @ weight, g.T @ x, y + bias, y)
    error = ERRORS[kind]
    return all((a - b).norm() <= error * b.norm() for a, b in zip(found, meant, strict=False))
