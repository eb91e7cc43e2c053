"""Convolutions of 3x3 taps by minimal filters, as loops in C (`system/winograd.c`): all steps for a
few tiles at a time, in the cache of one core. What `winograd` does by torch's operators.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of, planes_first
from eyescream_py.system import compiled
from eyescream_py.system.compiled import Library, Team
from eyescream_py.system.tape import as_one

LINES, TAPS = 6, 9  # of a tile, of a kernel
# where it was measured to be faster: pixels of a plane's side are whole tiles, of which there are
# as many in all pictures at least
OUT, TILES = 4, 64


class _Tiles(ctypes.Structure):
    """Of one pass over all tiles: as in winograd.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "g", "kernels", "bias", "y")),
        *((name, ctypes.c_int64) for name in ("height", "width", "pictures", "inputs", "outputs")),
        ("team", Team), ("memory", ctypes.c_void_p), ("own", ctypes.c_int64),
        ("parts", ctypes.c_int64),
    ]  # fmt: skip


class _Taps(ctypes.Structure):
    _fields_ = [
        ("taps", ctypes.c_void_p), ("numbers", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        *((name, ctypes.c_int64) for name in ("by_output", "by_input", "by_tap")), ("team", Team),
    ]  # fmt: skip


def suits(x: Tensor, planes: Sequence[int]) -> bool:
    """Whether pictures like `x`, of any planes, are to go from and to so many `planes` here."""
    if x.dim() != 4 or not _is_plain(x) or torch.is_autocast_enabled("cpu"):
        return False
    (n, _, height, width), code = x.shape, proven()
    whole = height % OUT == 0 == width % OUT and n * height * width >= TILES * OUT * OUT
    return whole and code is not None and not any(p % _block(code) for p in planes)


def pays(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `Convolution` is to take pixels and weights of these sizes here. What does not fit
    together it is not: loops in C would read on beyond it, where torch says what is wrong.
    """
    if not suits(x, weight.shape[:2]) or x.shape[1] != weight.shape[1]:
        return False
    return _is_plain(weight) and (bias is None or _is_plain(bias))


def _is_plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


class Convolution(torch.autograd.Function):
    """`F.conv2d(x, weight, bias, padding=1)` in float32, in the layout of its input; planes on
    both sides are whole blocks of winograd.c.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.pixels_first = lies_so(x)
        pixels = pixels_of(x).view(*x.shape[2:], *x.shape[:2])
        ctx.save_for_backward(pixels, weight)
        return _laid(as_one(_convolved, _code(), pixels, weight, bias, False), ctx.pixels_first)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pixels, weight = ctx.saved_tensors
        n, outputs, height, width = grads[0].shape
        g = pixels_of(grads[0]).view(height, width, n, outputs)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = _laid(as_one(_convolved, _code(), g, weight, None, True), ctx.pixels_first)
        if ctx.needs_input_grad[1]:
            to_weight = as_one(_slopes, _code(), pixels, g)
        return to_x, to_weight, g.view(-1, outputs).sum(0) if ctx.needs_input_grad[2] else None


def _laid(pixels: Tensor, first: bool) -> Tensor:
    """[H,W,N,C] -> [N,C,H,W], its pixels first in memory or its planes."""
    x = as_planes(pixels.flatten(2), pixels.shape[2])
    return x if first else planes_first(x)


def _convolved(
    code: Library, pixels: Tensor, weight: Tensor, bias: Tensor | None, back: bool
) -> Tensor:
    """[H,W,N,inputs] -> [H,W,N,outputs]; `back`: the transpose, from outputs to inputs."""
    outputs, inputs = weight.shape[:2]
    if back:
        inputs, outputs = outputs, inputs
    numbers, bias = _numbers(code, weight, back), None if bias is None else bias.contiguous()
    made = pixels.new_empty(*pixels.shape[:3], outputs)
    own = code.code.own_of_convolve(ctypes.c_int64(inputs))
    _run(code, "convolve", own, pixels, None, numbers, bias, made, (inputs, outputs))
    return made


def _numbers(code: Library, weight: Tensor, back: bool) -> Tensor:
    """The 36 of each kernel; `back`: of those turned round, from outputs to inputs."""
    if weight.stride(2) != 3 * weight.stride(3):
        weight = weight.contiguous()
    outputs, inputs, step = (weight.stride(i) for i in (0, 1, 3))
    numbers = weight.new_empty(LINES * LINES * weight.shape[0] * weight.shape[1])
    planes, strides = (weight.shape[1], weight.shape[0]), (outputs, inputs, step)
    first = weight.data_ptr()
    if back:
        planes, strides = (weight.shape[0], weight.shape[1]), (inputs, outputs, -step)
        first += (TAPS - 1) * step * weight.element_size()
    code.run("numbers_of_taps", _Taps(first, numbers.data_ptr(), *planes, *strides, code.team()))
    return numbers


def _slopes(code: Library, pixels: Tensor, g: Tensor) -> Tensor:
    """Of kernels' taps: [outputs,inputs,3,3]."""
    inputs, outputs = pixels.shape[3], g.shape[3]
    numbers = g.new_empty(LINES * LINES, outputs, inputs)
    own = code.code.own_of_slopes(ctypes.c_int64(inputs), ctypes.c_int64(outputs))
    _run(code, "slopes_of_kernels", own, pixels, g, None, None, numbers, (inputs, outputs))
    taps = g.new_empty(outputs, inputs, 3, 3)
    work = _Taps(numbers.data_ptr(), taps.data_ptr(), inputs, outputs, 0, 0, 0, code.team())
    code.run("slopes_of_taps", work)
    return taps


def _run(
    code: Library, name: str, own: int, pixels: Tensor, g: Tensor | None, numbers: Tensor | None,
    bias: Tensor | None, made: Tensor, planes: tuple[int, int],
) -> None:  # fmt: skip
    threads = torch.get_num_threads()
    memory = made.new_empty(threads, own)
    # six lines for all threads; where those are no multiple, smaller parts of them
    parts = 1 if LINES % threads == 0 else min(planes[1] // _block(code), -(-threads // 3))
    tensors = (None if t is None else t.data_ptr() for t in (pixels, g, numbers, bias, made))
    work = _Tiles(*tensors, *pixels.shape[:3], *planes, code.team(), memory.data_ptr(), own, parts)
    code.run(name, work)


def _code() -> Library:
    """Of a pass for which `pays` has found it."""
    return cast(Library, proven())


def _block(code: Library) -> int:
    return int(code.code.block_of_planes())


@functools.cache
def proven() -> Library | None:
    """The compiled loops, where there are some here and they compute what torch does."""
    return compiled.proven("winograd", _computes)


def _computes(code: Library) -> bool:
    for name in ("block_of_planes", "own_of_convolve", "own_of_slopes"):
        getattr(code.code, name).restype = ctypes.c_int64
    return all(_agrees(code, *sizes) for sizes in CASES)


# pictures, inputs and outputs in blocks, height, width: with tiles at all edges, and without
CASES = [(3, 1, 2, 12, 8), (5, 2, 1, 4, 16)]
ERROR = 5e-6  # of the norm


def _agrees(code: Library, n: int, inputs: int, outputs: int, height: int, width: int) -> bool:
    """Whether a convolution and its slopes are torch's in float64, but for what rounding costs."""
    numbers, block = torch.Generator().manual_seed(n), _block(code)
    inputs, outputs = inputs * block, outputs * block
    x, g = (torch.randn(height, width, n, p, generator=numbers) for p in (inputs, outputs))
    weight = torch.randn(outputs, inputs, 3, 3, generator=numbers)
    bias = torch.randn(outputs, generator=numbers)
    found = (
        _convolved(code, x, weight, bias, False), _convolved(code, g, weight, None, True),
        _slopes(code, x, g),
    )  # fmt: skip
    planes, slopes = (t.permute(2, 3, 0, 1).double() for t in (x, g))
    y = F.conv2d(planes, weight.double(), bias.double(), padding=1)
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(
        slopes, planes, weight.double(), None, *([1, 1],) * 3, False, [0, 0], 1, [True, True, False]
    )
    meant = (y.permute(2, 3, 0, 1), to_x.permute(2, 3, 0, 1), to_weight)
    return all((a - b).norm() <= ERROR * b.norm() for a, b in zip(found, meant, strict=True))
