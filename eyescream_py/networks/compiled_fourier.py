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
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from eyescream_py.system import compiled
from eyescream_py.system.compiled import Library, Team, usual_numbers
from eyescream_py.system.tape import as_one

PLANES = 16  # a block of fourier.c
ERROR = 1e-6  # of the norm
LIMIT = 2**26  # bytes of kernels' spectra at once; less is slower


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
@usual_numbers()
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
        """Of [a,b,H,W], where each plane lies without gaps."""
        a, b = planes.shape[:2]
        outer, inner = (b, a) if self.pictures else (a, b)
        spectrum = planes.new_empty(self.frequencies, 2, _lanes(self.code, outer, inner))
        self._run("to_spectra", planes, spectrum, None)
        return spectrum

    def fill(self, planes: Tensor, spectrum: Tensor, bias: Tensor | None = None) -> None:
        """The inverse, of these rows and columns only, plus `bias` [b], into [a,b,H,W]."""
        self._run("to_planes", planes, spectrum, bias)

    def _run(self, name: str, planes: Tensor, spectrum: Tensor, bias: Tensor | None) -> None:
        rows, columns = self.rows.axis, self.columns.axis
        inner, outer = (0, 1) if self.pictures else (1, 0)
        held = planes.shape[inner]
        room = max(rows.evens, rows.frequencies, columns.evens, columns.frequencies)
        lines = 2 * rows.count * columns.frequencies + columns.count + 8 * room
        memory = _memory(lines * PLANES)
        work = _Transform(
            planes.data_ptr(), None if bias is None else bias.data_ptr(), spectrum.data_ptr(),
            rows, columns,
            _vectors(self.code, held), held, planes.shape[outer],
            planes.stride(inner), planes.stride(outer),
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
    size = (torch.get_num_threads(), -(-numbers // PLANES) * PLANES)
    return torch.empty(size, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class _Plan:
    """Of a product of spectra, how its operands lie: what stands in the structure of that name."""

    rows: int
    terms: int
    columns: int
    by_row: int
    by_term: int
    b_apart: int
    turned: bool
    conjugated: bool
    sum_apart: int

    def sums(self, code: Library, a: Tensor, b: Tensor, first: int = 0) -> Tensor:
        """The spectrum of a, from row `first` on, times b."""
        lanes = _lanes(code, self.rows, self.sum_apart)
        made = a.new_empty(len(a), 2, lanes)
        size = max(self.rows * self.by_row, self.terms * self.by_term)
        memory = _memory(3 * (size + _vectors(code, self.terms) * _width(code)))
        work = _Product(
            a.data_ptr() + first * self.by_row * a.element_size(), b.data_ptr(), made.data_ptr(),
            self.rows, self.terms, self.columns, len(a),
            a.shape[2], size, self.by_row, self.by_term,
            b.shape[2], self.b_apart, self.turned, self.conjugated,
            lanes, self.sum_apart, code.team(), memory.data_ptr(), memory.shape[1],
        )  # fmt: skip
        code.run("products", work)
        return made


def _parts(taps: _Grid, planes: int, others: int) -> list[slice]:
    """`planes`, with a kernel for each of as many `others`, in parts of which spectra have room."""
    most = max(1, LIMIT // (8 * taps.frequencies * max(1, others) * PLANES)) * PLANES
    return [slice(i, min(i + most, planes)) for i in range(0, planes, most)]


def _values(
    code: Library, X: Tensor, weight: Tensor, bias: Tensor | None, n: int, *sides: int
) -> Tensor:
    """[N,outputs,H,W], from the pictures' spectrum."""
    (outputs, inputs, k, _), N = weight.shape, _vectors(code, n)
    pixels, taps = _grids(code, *sides, k)
    y = X.new_empty(n, outputs, *sides)
    for part in _parts(taps, outputs, inputs):
        W, own = weight[part], None if bias is None else bias[part]
        # y(r) sums w(q) x(r+q): the kernel's spectrum is conjugated
        plan = _Plan(len(W), inputs, n, _vectors(code, inputs), 1, N, False, True, N)
        pixels.fill(y[:, part], plan.sums(code, taps.spectrum(W), X), own)
    return y


def _to_pictures(code: Library, G: Tensor, weight: Tensor, n: int, *sides: int) -> Tensor:
    """[N,inputs,H,W], from the spectrum of the values' slopes."""
    (outputs, inputs, k, _), N = weight.shape, _vectors(code, n)
    pixels, taps = _grids(code, *sides, k)
    x = G.new_empty(n, inputs, *sides)
    for part in _parts(taps, inputs, outputs):
        W = weight[:, part]
        count = W.shape[1]
        plan = _Plan(count, outputs, n, 1, _vectors(code, count), N, False, False, N)
        pixels.fill(x[:, part], plan.sums(code, taps.spectrum(W), G))
    return x


def _to_kernels(code: Library, G: Tensor, X: Tensor, weight: Tensor, n: int, *sides: int) -> Tensor:
    """[outputs,inputs,k,k], from the spectra of the values' slopes and the pictures."""
    (outputs, inputs, k, _), N = weight.shape, _vectors(code, n)
    _, taps = _grids(code, *sides, k)
    made = torch.empty_like(weight)
    for part in _parts(taps, outputs, inputs):
        own = made[part]
        plan = _Plan(len(own), n, inputs, N, 1, N, True, True, _vectors(code, inputs))
        taps.fill(own, plan.sums(code, G, X, part.start))
    return made


class _Convolution(torch.autograd.Function):
    """`F.conv2d(x, weight, bias, padding=(k-1)//2)` in float32."""

    @staticmethod
    def forward(ctx: Any, code: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        ctx.code, ctx.sizes = code, (len(x), *x.shape[2:])
        pixels, _ = _grids(code, *x.shape[2:], weight.shape[2])
        X = as_one(pixels.spectrum, x.contiguous())
        ctx.save_for_backward(X, weight)
        y: Tensor = as_one(_values, code, X, weight, bias, *ctx.sizes)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (X, weight), (n, *sides) = ctx.saved_tensors, ctx.sizes
        pixels, _ = _grids(ctx.code, *sides, weight.shape[2])
        to_x = to_weight = to_bias = None
        G = as_one(pixels.spectrum, grads[0].contiguous())
        if ctx.needs_input_grad[1]:
            to_x = as_one(_to_pictures, ctx.code, G, weight, *ctx.sizes)
        if ctx.needs_input_grad[2]:
            to_weight = as_one(_to_kernels, ctx.code, G, X, weight, *ctx.sizes)
        if ctx.needs_input_grad[3]:  # frequency 0 is a plane's sum
            N, outputs = _vectors(ctx.code, n), len(weight)
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
    return compiled.proven("fourier", lambda code: all(_agrees(code, *case) for case in CASES))


# pictures, inputs, outputs, kernel, height, width: whole vectors, and what is left beside them
CASES = [(16, 32, 16, 5, 8, 9), (5, 3, 19, 7, 6, 4), (18, 21, 9, 3, 3, 7)]


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
