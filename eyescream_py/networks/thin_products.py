"""Slopes of a Linear of few rows and many weights, as loops in C (`system/thin.c`) that pass once
through the memory of its weights, or of their slopes.
"""

from __future__ import annotations

import ctypes
import functools
from typing import cast

import torch
from torch import Tensor

from eyescream_py.system.compiled import Library, Team, library
from eyescream_py.system.tape import as_one
from eyescream_py.system.voice import warn

ROWS = range(16, 49)  # for which it was measured to be faster
WIDTH, NUMBERS = 2048, 2**16  # columns that a thread takes at once, and sums, at most
LINE = 16  # columns that are not parted


class _Thin(ctypes.Structure):
    """As in thin.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("g", "with_", "made")),
        *((name, ctypes.c_int64) for name in ("rows", "outputs", "inputs")),
        ("team", Team), ("memory", ctypes.c_void_p),
        ("width", ctypes.c_int64), ("tasks", ctypes.c_int64),
    ]  # fmt: skip


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `slopes_of_rows` and `slopes_of_weights` are to take a Linear of these sizes here.
    [N,inputs], [outputs,inputs]
    """
    if len(x) not in ROWS or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    code = proven()
    if code is None or not weight.is_contiguous():
        return False
    tall, strip = code.code.rows_at_once(), code.code.columns_at_once()
    return len(x) % tall == 0 == len(weight) % tall and weight.shape[1] % strip == 0


def slopes_of_rows(g: Tensor, weight: Tensor) -> Tensor:
    """g @ weight, of sizes that `pays` names. [N,outputs], [outputs,inputs] -> [N,inputs]"""
    made: Tensor = as_one(_of_rows, _code(), g, weight)
    return made


def slopes_of_weights(g: Tensor, x: Tensor) -> Tensor:
    """g.T @ x, likewise. [N,outputs], [N,inputs] -> [outputs,inputs]"""
    made: Tensor = as_one(_of_weights, _code(), g, x)
    return made


def _of_rows(code: Library, g: Tensor, weight: Tensor) -> Tensor:
    g, (rows, inputs), threads = g.contiguous(), (len(g), weight.shape[1]), torch.get_num_threads()
    made = g.new_empty(rows, inputs)
    # as many for each thread, that all end at once
    width = min(WIDTH, NUMBERS // rows // LINE * LINE)
    tasks = threads * -(-inputs // (threads * width))
    memory = g.new_empty(threads, rows * width)
    work = _Thin(
        g.data_ptr(), weight.data_ptr(), made.data_ptr(), rows, len(weight), inputs, code.team(),
        memory.data_ptr(), width, tasks,
    )  # fmt: skip
    code.run("slopes_of_rows", work)
    return made


def _of_weights(code: Library, g: Tensor, x: Tensor) -> Tensor:
    g, x = g.contiguous(), x.contiguous()
    (rows, outputs), inputs = g.shape, x.shape[1]
    made = g.new_empty(outputs, inputs)
    threads, strip = torch.get_num_threads(), code.code.columns_at_once()
    memory = g.new_empty(threads, rows * strip)
    work = _Thin(
        g.data_ptr(), x.data_ptr(), made.data_ptr(), rows, outputs, inputs, code.team(),
        memory.data_ptr(), strip, threads,
    )  # fmt: skip
    code.run("slopes_of_weights", work)
    return made


def _code() -> Library:
    """Of a Linear for which `pays` has found it."""
    return cast(Library, proven())


@functools.cache
def proven() -> Library | None:
    """The compiled loops, where there are some here and they compute what torch does."""
    code = library("thin")
    if code is None:
        return None
    for name in ("rows_at_once", "columns_at_once"):
        getattr(code.code, name).restype = ctypes.c_int64
    if all(_agrees(code, *sizes) for sizes in CASES):
        return code
    warn("thin.c computes otherwise than torch: torch's operators do its work, slower.")
    return None


# rows, outputs, inputs: of one block and of several, blocks of terms that are not whole
CASES = [(16, 16, 128), (48, 80, 384)]
ERROR = 2e-6  # of the norm


def _agrees(code: Library, n: int, outputs: int, inputs: int) -> bool:
    """Whether the slopes are torch's in float64, but for what rounding costs."""
    numbers = torch.Generator().manual_seed(n)
    sizes = (n, outputs), (outputs, inputs), (n, inputs)
    g, weight, x = (torch.randn(*size, generator=numbers) for size in sizes)
    found = _of_rows(code, g, weight), _of_weights(code, g, x)
    meant = g.double() @ weight.double(), g.double().T @ x.double()
    return all((a - b).norm() <= ERROR * b.norm() for a, b in zip(found, meant, strict=True))
