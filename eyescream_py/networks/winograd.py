"""Wide 3x3 convolutions by Winograd's minimal filters: 2.25 multiplications per output pixel and
pair of planes instead of 9.

F(4x4,3x3) of Lavin and Gray 2015, "Fast algorithms for convolutional neural networks": 6x6 pixels
and a kernel become 36 numbers each, whose products over the planes become 4x4 pixels. The points
are 0, 1, -1, 1/2, -2 and infinity, which round less than theirs (Barabasz et al. 2018): the error
is 7 times that of a plain sum. A row of tiles is taken through all steps before the next one, while
the processor's cache holds it; `compiled_winograd` does the same in C. Measured in
docs/benchmarks.md; CPUs only.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eyescream_py.networks import compiled_winograd
from eyescream_py.networks.modes import FastForward
from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of, planes_first
from eyescream_py.networks.products import product

OUT, IN = 4, 6  # pixels of a tile's side
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
# where it was measured to be faster: planes of the narrower side at least, pixels of a plane's side
# at most, tiles in all pictures at least
PLANES, SIDE, TILES = 128, 16, 64
COMPILED_PLANES = 32


def _filters() -> tuple[Tensor, Tensor, Tensor]:
    """Of one dimension: pixels (6,6), taps (6,3) and output (4,6), such that the convolution is
    output @ ((pixels @ x) * (taps @ w)). In float64.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    powers = points.unsqueeze(1) ** torch.arange(IN, dtype=torch.float64)  # [5,6]
    pixels, taps = torch.zeros(IN, IN).double(), torch.zeros(IN, 3).double()
    for i in range(len(points)):
        others = torch.cat([points[:i], points[i + 1 :]])
        pixels[i, : IN - 1] = _polynomial(others)
        taps[i] = powers[i, :3] / (points[i] - others).prod()
    pixels[-1], taps[-1, -1] = _polynomial(points), 1  # the point at infinity
    output = torch.zeros(OUT, IN, dtype=torch.float64)
    output[:, :-1] = powers[:, :OUT].T
    output[-1, -1] = 1
    return pixels, taps, output


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the product of all (x - root), the lowest first. [n] -> [n+1]"""
    zero, product = roots.new_zeros(1), roots.new_ones(1)
    for root in roots:
        product = torch.cat([zero, product]) - root * torch.cat([product, zero])
    return product


@dataclass(frozen=True)
class _Lines:
    """Which pixels of a line a tile's six numbers come from, and how: `matrix` (6,pixels)."""

    pixels: slice
    matrix: Tensor


def _tiles(side: int, slopes: bool) -> list[_Lines]:
    """Those of each tile along a line of `side` pixels, or of the slopes of its outputs."""
    each, _, output = _filters()
    starts = range(0, side, OUT)
    if slopes:
        return [_Lines(slice(start, start + OUT), output.T) for start in starts]
    found = []
    for start in starts:  # a pixel of zeros on either side, which no tile reads from
        first, end = max(0, start - 1), min(side, start + OUT + 1)
        found.append(_Lines(slice(first, end), each[:, first - start + 1 : end - start + 1]))
    return found


class _Map:
    """From pixels [H,W,ab] to the numbers of their tiles, a row of tiles at a time such that both
    stay in the processor's cache: [6*6,columns of tiles * a,b].
    """

    def __init__(self, height: int, width: int, slopes: bool, dtype: torch.dtype) -> None:
        columns = _tiles(width, slopes)
        across = torch.zeros(IN, len(columns), width, dtype=torch.float64)
        for i, tile in enumerate(columns):
            across[:, i, tile.pixels] = tile.matrix
        # as often as bmm takes them, which MKL shares out among threads, but not narrow products
        self.across = across.flatten(0, 1).to(dtype).expand(IN, -1, -1)
        self.back = self.across.transpose(1, 2)  # [6,W,6*columns]
        self.rows = [
            _Lines(tile.pixels, tile.matrix.to(dtype).contiguous().expand(width, -1, -1))
            for tile in _tiles(height, slopes)
        ]
        self.size = height, width
        self.overlap = not slopes

    def spread(self, row: _Lines, pixels: Tensor, b: int) -> Tensor:
        """The numbers of a row of tiles."""
        lines = pixels[row.pixels].transpose(0, 1)  # [W,lines,ab]
        down = torch.bmm(row.matrix, lines)
        numbers = torch.bmm(self.across, down.transpose(0, 1))
        return numbers.view(IN * IN, -1, b)

    def collect(self, row: _Lines, numbers: Tensor, pixels: Tensor) -> None:
        """The transpose of `spread`, added to `pixels` where tiles overlap."""
        lines = torch.bmm(self.back, numbers.view(IN, self.back.shape[2], -1))
        pixels[row.pixels].flatten(1).addmm_(
            row.matrix[0].T, lines.view(IN, -1), beta=float(self.overlap)
        )

    def none(self, like: Tensor, planes: int) -> Tensor:
        """Pixels [H,W,planes] to `collect` in."""
        return (like.new_zeros if self.overlap else like.new_empty)(*self.size, planes)


_map = functools.cache(_Map)


@functools.cache
def _taps(dtype: torch.dtype) -> Tensor:
    """From the 9 taps of a kernel to its 36 numbers. (36,9)"""
    _, taps, _ = _filters()
    return torch.kron(taps, taps).to(dtype)


class _Convolution(torch.autograd.Function):
    """`F.conv2d(x, weight, bias, padding=1)` with its pixels first in memory; backward the
    transpose of each of its steps, in the layout of the input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        there, back = (_map(*x.shape[2:], slopes, x.dtype) for slopes in (False, True))
        ctx.maps, ctx.planes_first = (there, back), not lies_so(x)
        kernels = product(_taps(x.dtype), weight.reshape(-1, 9))
        kernels = kernels.view(IN * IN, *weight.shape[:2])
        to_outputs = kernels.transpose(1, 2)
        pixels, n = pixels_of(x), len(x)
        y, kept = back.none(x, n * len(weight)), []
        for tiles, outputs in zip(there.rows, back.rows, strict=True):
            numbers = there.spread(tiles, pixels, x.shape[1])
            back.collect(outputs, torch.bmm(numbers, to_outputs), y)
            if ctx.needs_input_grad[1]:
                kept.append(numbers)
        ctx.save_for_backward(kernels, *kept)
        return as_planes(y if bias is None else y.view(-1, len(bias)).add_(bias).view(y.shape), n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (there, back), (kernels, *numbers) = ctx.maps, ctx.saved_tensors
        n, outputs = grads[0].shape[:2]
        pixels, (to_x, to_weight, to_bias) = pixels_of(grads[0]), ctx.needs_input_grad
        sums = there.none(pixels, n * kernels.shape[2]) if to_x else None
        total = torch.empty_like(kernels) if to_weight else None
        for i, (tiles, places) in enumerate(zip(there.rows, back.rows, strict=True)):
            slopes = back.spread(places, pixels, outputs)
            if sums is not None:
                there.collect(tiles, torch.bmm(slopes, kernels), sums)
            if total is not None:
                # with 0 the first row writes over what memory held, NaN or not
                total.baddbmm_(slopes.transpose(1, 2), numbers[i], beta=float(i > 0))
        return (
            None if sums is None else _laid(as_planes(sums, n), ctx.planes_first),
            None if total is None else _of_taps(total),
            pixels.view(-1, outputs).sum(0) if to_bias else None,
        )


def _laid(x: Tensor, first: bool) -> Tensor:
    """[N,C,H,W], its planes first in memory or its pixels."""
    return planes_first(x) if first else x


def _of_taps(slopes: Tensor) -> Tensor:
    """Slopes of kernels from those of their numbers. [36,outputs,inputs] -> [outputs,inputs,3,3]"""
    taps = product(_taps(slopes.dtype).T.contiguous(), slopes.view(IN * IN, -1).T)
    return taps.T.contiguous().view(*slopes.shape[1:], 3, 3)


class TiledForward(FastForward):
    """That of a wide 3x3 convolution, by minimal filters where they pay."""

    def __init__(self, layer: Any, compiled: bool) -> None:
        super().__init__(layer)
        self.compiled = compiled

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if self.compiled and compiled_winograd.pays(x, layer.weight, layer.bias):
            y: Tensor = compiled_winograd.Convolution.apply(x, layer.weight, layer.bias)
        elif _suits(x, layer.weight.shape[:2]):
            y = _Convolution.apply(x, layer.weight, layer.bias)
        else:
            y = type(layer).forward(layer, x)
        return y


def takes(x: Tensor, planes: Sequence[int], compiled: bool) -> bool:
    """Whether pictures like `x`, of any planes, go by minimal filters from and to so many `planes`;
    `compiled`: by loops in C, too.
    """
    return (compiled and compiled_winograd.suits(x, planes)) or _suits(x, planes)


def _suits(x: Tensor, planes: Sequence[int]) -> bool:
    if x.dim() != 4 or torch.is_autocast_enabled(x.device.type) or min(planes) < PLANES:
        return False
    (n, _, height, width), tiles = x.shape, OUT * OUT
    whole = height % OUT == 0 == width % OUT and max(height, width) <= SIDE
    return whole and n * height * width >= TILES * tiles


def convolve_by_tiles(network: nn.Module, compiled: bool = True) -> None:
    """Let the wide 3x3 convolutions of `network` go by minimal filters; in float32 or 64 only.
    `compiled`: by loops in C where there are some.
    """
    compiled = compiled and compiled_winograd.proven() is not None
    least = COMPILED_PLANES if compiled else PLANES
    for layer in network.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (3, 3)
            and layer.padding == layer.stride == layer.dilation == (1, 1)
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and min(layer.in_channels, layer.out_channels) >= least
        ):
            TiledForward(layer, compiled).install()
