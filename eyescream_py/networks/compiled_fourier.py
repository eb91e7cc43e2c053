"""Convolutions through Fourier transforms by loops in C, `library("fourier")`.

What `networks.fft_convolution` computes, with LANES planes in a processor's vector: a few planes
pass both axes while the cache holds them, only frequencies that are not mirrored ones are kept, and
a frequency's planes lie together. Float32 on processors. Measured in benchmarks/results/changes.md.
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eyescream_py.system.compiled import Library, Team, library, usual_numbers
from eyescream_py.system.tape import as_one
from eyescream_py.system.voice import warn

PLANES = 16  # a block of fourier.c
ERROR = 1e-6  # of the norm


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Axis(ctypes.Structure):
    """As all structures here: as in fourier.c."""

    _fields_ = [
        *_fields(ctypes.c_int64, "count circle evens odds frequencies mirrored"),
        *_fields(ctypes.c_void_p, "plus minus cosine sine back_cosine back_sine"),
    ]


_OF_THREADS = [("team", Team), ("memory", ctypes.c_void_p), ("own", ctypes.c_int64)]


class _Transform(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "planes bias spectrum"),
        *_fields(_Axis, "rows columns"),
        *_fields(ctypes.c_int64, "inner held outer by_inner by_outer lanes room"),
        *_OF_THREADS,
    ]


class _Product(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "a b sum"),
        *_fields(ctypes.c_int64, "rows terms columns frequencies a_part a_size by_row by_term"),
        *_fields(ctypes.c_int64, "b_part b_apart turned conjugated sum_part sum_apart"),
        *_OF_THREADS,
    ]


@dataclass(frozen=True)
class _Side:
    """A side of planes as an axis, and the tensors to which that points."""

    axis: _Axis
    held: tuple[Tensor, ...]


@functools.cache
def _side(count: int, first: int, circle: int) -> _Side:
    """`count` samples at places `first`, `first`+1, ... of a circle: those of pixels from 0 on,
    those of taps on both sides of it.
    """
    evens = 1 - first if first else min(circle // 2, count - 1) + 1
    plus = [j - first for j in range(evens)]
    minus = [(circle if not first else -2 * first) - place for place in plus]
    minus = [-1 if j >= count or j == i else j for i, j in zip(plus, minus, strict=True)]
    minus[0] = -1
    odds = evens - 1 - (not first and evens > 1 and 2 * (evens - 1) == circle)
    frequencies, mirrored = circle // 2 + 1, (circle - 1) // 2
    turns = torch.outer(torch.arange(frequencies), torch.arange(evens)) % circle
    angles = 2 * math.pi / circle * turns.double()
    cosine, sine = angles.cos(), -angles.sin()[1 : mirrored + 1, 1 : odds + 1]
    matrices = (cosine, sine, cosine.T / circle, sine.T / circle)
    held = (torch.tensor(plus), torch.tensor(minus), *(m.float().contiguous() for m in matrices))
    numbers = (count, circle, evens, odds, frequencies, mirrored)
    return _Side(_Axis(*numbers, *(t.data_ptr() for t in held)), held)


@dataclass(frozen=True)
class _Grid:
    """The transforms of planes: along their rows, along their columns.

    A spectrum is [frequencies,2,lanes], real parts first. Its lanes are planes [outer,inner], the
    inner ones rounded up to whole vectors: of pictures (inputs or outputs, N), of kernels (outputs,
    inputs).
    """

    code: Library
    rows: _Side
    columns: _Side
    pictures: bool

    @property
    def frequencies(self) -> int:
        """How many are kept: of the columns that are real in between only half."""
        rows, columns = self.rows.axis, self.columns.axis
        real = 2 - columns.circle % 2
        return (columns.frequencies - real) * rows.circle + real * rows.frequencies

    def spectrum(self, planes: Tensor) -> Tensor:
        """Of [a,b,H,W] without gaps."""
        outer, inner = self._order(*planes.shape[:2])[:2]
        spectrum = planes.new_empty(self.frequencies, 2, _lanes(self.code, outer, inner))
        self._run("to_spectra", planes, spectrum, None)
        return spectrum

    def planes(self, spectrum: Tensor, a: int, b: int, bias: Tensor | None = None) -> Tensor:
        """The inverse, of these rows and columns only, plus `bias` [b]. -> [a,b,H,W]"""
        planes = spectrum.new_empty(a, b, self.rows.axis.count, self.columns.axis.count)
        self._run("to_planes", planes, spectrum, bias)
        return planes

    def _order(self, a: int, b: int) -> tuple[int, int, int, int]:
        """How many planes are outer and inner ones, and how far each of them are apart."""
        return (b, a, 1, b) if self.pictures else (a, b, b, 1)

    def _run(self, name: str, planes: Tensor, spectrum: Tensor, bias: Tensor | None) -> None:
        rows, columns = self.rows.axis, self.columns.axis
        outer, inner, by_outer, by_inner = self._order(*planes.shape[:2])
        pixels = rows.count * columns.count
        room = max(rows.evens, rows.frequencies, columns.evens, columns.frequencies)
        lines = 2 * rows.count * columns.frequencies + columns.count + 8 * room
        memory = _memory(lines * PLANES)
        work = _Transform(
            planes.data_ptr(), None if bias is None else bias.data_ptr(), spectrum.data_ptr(),
            rows, columns,
            _vectors(self.code, inner), inner, outer, by_inner * pixels, by_outer * pixels,
            spectrum.shape[2], room, self.code.team(), memory.data_ptr(), memory.shape[1],
        )  # fmt: skip
        self.code.run(name, work)


@functools.cache
def _grids(code: Library, height: int, width: int, kernel: int) -> tuple[_Grid, _Grid]:
    """Those of pictures and of kernels."""
    p = (kernel - 1) // 2
    rows, columns = height + p, width + p
    pixels = _Grid(code, _side(height, 0, rows), _side(width, 0, columns), pictures=True)
    taps = _Grid(code, _side(kernel, -p, rows), _side(kernel, -p, columns), pictures=False)
    return pixels, taps


@functools.cache
def _width(code: Library) -> int:
    """Numbers of a vector."""
    found = ctypes.c_int64()
    code.code.lanes(ctypes.byref(found))
    return found.value


def _vectors(code: Library, numbers: int) -> int:
    """Those of whole vectors that hold as many."""
    return -(-numbers // _width(code)) * _width(code)


def _lanes(code: Library, outer: int, inner: int) -> int:
    """From a part of a spectrum to the next: whole blocks, and one more, as a cache holds few lines
    that are a power of two apart.
    """
    return (-(-outer * _vectors(code, inner) // PLANES) + 1) * PLANES


def _memory(numbers: int) -> Tensor:
    """That of each thread, in whole lines of the cache."""
    return torch.empty(torch.get_num_threads(), -(-numbers // PLANES) * PLANES)


@dataclass(frozen=True)
class _Plan:
    """A product of spectra: what stands in the structure of that name."""

    rows: int
    terms: int
    columns: int
    a_size: int
    by_row: int
    by_term: int
    b_apart: int
    turned: bool
    conjugated: bool
    sum_apart: int
    lanes: int  # of the sum

    def sums(self, code: Library, a: Tensor, b: Tensor) -> Tensor:
        """The spectrum of a times b."""
        made = a.new_empty(len(a), 2, self.lanes)
        terms = _vectors(code, self.terms)
        memory = _memory(3 * (self.a_size + terms * _width(code)))
        work = _Product(
            a.data_ptr(), b.data_ptr(), made.data_ptr(),
            self.rows, self.terms, self.columns, len(a),
            a.shape[2], self.a_size, self.by_row, self.by_term,
            b.shape[2], self.b_apart, self.turned, self.conjugated,
            self.lanes, self.sum_apart, code.team(), memory.data_ptr(), memory.shape[1],
        )  # fmt: skip
        code.run("products", work)
        return made


@functools.cache
def _plans(code: Library, n: int, inputs: int, outputs: int) -> tuple[_Plan, _Plan, _Plan]:
    """Kernels and pictures to values; kernels and values' slopes to pictures'; values' slopes and
    pictures to kernels'.
    """
    N, I = _vectors(code, n), _vectors(code, inputs)  # noqa: E741
    values, pictures = _lanes(code, outputs, n), _lanes(code, inputs, n)
    kernels = _lanes(code, outputs, inputs)
    return (
        # y(r) sums w(q) x(r+q): the kernel's spectrum is conjugated
        _Plan(outputs, inputs, n, outputs * I, I, 1, N, False, True, N, values),
        _Plan(inputs, outputs, n, outputs * I, 1, I, N, False, False, N, pictures),
        _Plan(outputs, n, inputs, outputs * N, N, 1, N, True, True, I, kernels),
    )


class _Convolution(torch.autograd.Function):
    """`F.conv2d(x, weight, bias, padding=(k-1)//2)` in float32."""

    @staticmethod
    def forward(ctx: Any, code: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (n, inputs), outputs = x.shape[:2], len(weight)
        ctx.code, ctx.sizes = code, (n, inputs, outputs)
        ctx.grids = pixels, taps = _grids(code, *x.shape[2:], weight.shape[2])
        X = as_one(pixels.spectrum, x.contiguous())
        W = as_one(taps.spectrum, weight.contiguous())
        ctx.save_for_backward(X, W)
        Y = as_one(_plans(code, *ctx.sizes)[0].sums, code, W, X)
        y: Tensor = as_one(pixels.planes, Y, n, outputs, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (X, W), (pixels, taps), (n, inputs, outputs) = ctx.saved_tensors, ctx.grids, ctx.sizes
        _, to_pictures, to_kernels = _plans(ctx.code, *ctx.sizes)
        to_x = to_weight = to_bias = None
        G = as_one(pixels.spectrum, grads[0].contiguous())
        if ctx.needs_input_grad[1]:
            D = as_one(to_pictures.sums, ctx.code, W, G)
            to_x = as_one(pixels.planes, D, n, inputs)
        if ctx.needs_input_grad[2]:
            D = as_one(to_kernels.sums, ctx.code, G, X)
            to_weight = as_one(taps.planes, D, outputs, inputs)
        if ctx.needs_input_grad[3]:  # frequency 0 is a plane's sum
            N = _vectors(ctx.code, n)
            to_bias = G[0, 0, : outputs * N].view(outputs, N).sum(1)
        return None, to_x, to_weight, to_bias


def convolve(code: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution that keeps a picture's size. [N,inputs,H,W], [outputs,inputs,k,k], [outputs]
    -> [N,outputs,H,W], k odd; all float32 on the CPU. Can be differentiated once.
    """
    y: Tensor = _Convolution.apply(code, x, weight, bias)
    return y


@functools.cache
def proven() -> Library | None:
    """The compiled loops, where there are some here and they compute what a convolution is."""
    code = library("fourier")
    if code is None:
        return None
    if all(_agrees(code, *case) for case in CASES):
        return code
    warn("fourier.c computes otherwise than torch: torch's operators do its work, slower.")
    return None


# pictures, inputs, outputs, kernel, height, width: whole vectors, and what is left beside them
CASES = [(16, 32, 16, 5, 8, 9), (5, 3, 19, 7, 6, 4), (18, 21, 9, 3, 3, 7)]


@usual_numbers()
def _agrees(code: Library, n: int, inputs: int, outputs: int, k: int, *size: int) -> bool:
    """Whether values and slopes are those in double, but for rounding."""
    numbers = torch.Generator().manual_seed(n)
    shapes = (n, inputs, *size), (outputs, inputs, k, k), (outputs,), (n, outputs, *size)
    given = [torch.randn(shape, generator=numbers) for shape in shapes]
    found, meant = (
        _slopes(functools.partial(convolve, code), *given),
        _slopes(functools.partial(F.conv2d, padding=k // 2), *(t.double() for t in given)),
    )
    return all(float((a - b).norm() / b.norm()) < ERROR for a, b in zip(found, meant, strict=True))


def _slopes(function: Any, *given: Tensor) -> list[Tensor]:
    """The values at x, weight and bias, and the slopes of these for the values' ones."""
    with torch.inference_mode(False), torch.enable_grad():
        *taken, g = (t.clone().requires_grad_() for t in given)
        y = function(*taken)
        return [y.detach(), *torch.autograd.grad(y, taken, g.detach())]
