"""Wide 3x3 convolutions by Winograd's minimal filters: 2.25 multiplications per output pixel and
pair of planes instead of 9.

F(4x4,3x3) of Lavin and Gray 2015, "Fast algorithms for convolutional neural networks": 6x6 pixels
and a kernel become 36 numbers each, whose products over the planes become 4x4 pixels. The points
are 0, 1, -1, 1/2, -2 and infinity, which round less than theirs (Barabasz et al. 2018): the error
is 7 times that of a plain sum. One matrix along an axis transforms all tiles of a line. Measured
in docs/benchmarks.md; CPUs only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.networks.modes import FastForward
from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of, planes_first

OUT, IN = 4, 6  # pixels of a tile's side
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
# where it was measured to be faster: planes of the narrower side at least, pixels of a plane's side
# at most, tiles in all pictures at least
PLANES, SIDE, TILES = 128, 16, 64


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
class _Axis:
    """Of a line of `tiles`*4 pixels: `there` (6*tiles,pixels), `back` (pixels,6*tiles)."""

    tiles: int
    there: Tensor
    back: Tensor


@functools.cache
def _axis(pixels: int, dtype: torch.dtype) -> _Axis:
    each, _, output = _filters()
    tiles = pixels // OUT
    # a pixel of zeros on either side, which no tile reads from
    there = torch.zeros(IN, tiles, pixels + 2, dtype=torch.float64)
    back = torch.zeros(tiles, OUT, IN, tiles, dtype=torch.float64)
    for tile in range(tiles):
        there[:, tile, OUT * tile : OUT * tile + IN] = each
        back[tile, :, :, tile] = output
    kept = there[:, :, 1:-1].reshape(IN * tiles, pixels), back.reshape(pixels, IN * tiles)
    return _Axis(tiles, *(matrix.to(dtype).contiguous() for matrix in kept))


@functools.cache
def _taps(dtype: torch.dtype) -> Tensor:
    """From the 9 taps of a kernel to its 36 numbers. (36,9)"""
    _, taps, _ = _filters()
    return torch.kron(taps, taps).to(dtype)


@dataclass(frozen=True)
class _Tiling:
    """Pixels [H,W,ab] in tiles: [6,rows of tiles,6,columns of tiles * a,b]."""

    rows: _Axis
    columns: _Axis

    def spread(self, pixels: Tensor, b: int, back: bool = False) -> Tensor:
        """Each tile's numbers; with `back` those by which its output pixels' slopes come in."""
        axes = self.columns, self.rows
        across, down = (axis.back.T if back else axis.there for axis in axes)
        lines = torch.matmul(across, pixels)  # [H,6*columns,ab]
        tiles = down @ lines.view(len(pixels), -1)
        return tiles.view(IN, self.rows.tiles, IN, -1, b)

    def collect(self, numbers: Tensor, back: bool = True) -> Tensor:
        """The pixels that such numbers stand for; without `back` the slopes of pixels."""
        axes = self.columns, self.rows
        across, down = (axis.back if back else axis.there.T for axis in axes)
        lines = (down @ numbers.view(down.shape[1], -1)).view(len(down), across.shape[1], -1)
        return torch.matmul(across, lines)


def _times(numbers: Tensor, kernels: Tensor) -> Tensor:
    """[6,r,6,m,k] x [6,6,k,n] -> [6,r,6,m,n]"""
    product = numbers.new_empty(*numbers.shape[:-1], kernels.shape[-1])
    for i, kernel in enumerate(kernels):
        for j in range(numbers.shape[1]):
            torch.bmm(numbers[i, j], kernel, out=product[i, j])
    return product


def _summed(slopes: Tensor, numbers: Tensor) -> Tensor:
    """Over all tiles: [6,r,6,m,k] x [6,r,6,m,n] -> [6,6,k,n]"""
    total = slopes.new_zeros(IN, IN, slopes.shape[-1], numbers.shape[-1])
    for i in range(IN):
        for j in range(slopes.shape[1]):
            total[i].baddbmm_(slopes[i, j].transpose(1, 2), numbers[i, j])
    return total


class _Convolution(torch.autograd.Function):
    """`F.conv2d(x, weight, padding=1)` with its pixels first in memory; backward the transpose of
    each of its steps, in the layout of the input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.tiling = tiling = _Tiling(*(_axis(side, x.dtype) for side in x.shape[2:]))
        ctx.planes_first = not lies_so(x)
        kernels = _taps(x.dtype) @ weight.reshape(-1, 9).T
        kernels = kernels.view(IN, IN, *weight.shape[:2])
        numbers = tiling.spread(pixels_of(x), x.shape[1])
        ctx.save_for_backward(numbers if ctx.needs_input_grad[1] else None, kernels)
        return as_planes(tiling.collect(_times(numbers, kernels.transpose(2, 3))), len(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (numbers, kernels), (n, outputs) = ctx.saved_tensors, grads[0].shape[:2]
        slopes = ctx.tiling.spread(pixels_of(grads[0]), outputs, back=True)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = as_planes(ctx.tiling.collect(_times(slopes, kernels), back=False), n)
            to_x = planes_first(to_x) if ctx.planes_first else to_x
        if ctx.needs_input_grad[1]:
            to_taps = _taps(slopes.dtype).T @ _summed(slopes, numbers).view(IN * IN, -1)
            to_weight = to_taps.T.contiguous().view(*kernels.shape[2:], 3, 3)
        return to_x, to_weight


class TiledForward(FastForward):
    """That of a wide 3x3 convolution, by minimal filters where they pay."""

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not _pays(x):
            return type(layer).forward(layer, x)
        y: Tensor = _Convolution.apply(x, layer.weight)
        return y if layer.bias is None else y + layer.bias.view(-1, 1, 1)


def _pays(x: Tensor) -> bool:
    if x.dim() != 4 or torch.is_autocast_enabled(x.device.type):
        return False
    (n, _, height, width), tiles = x.shape, OUT * OUT
    whole = height % OUT == 0 == width % OUT and max(height, width) <= SIDE
    return whole and n * height * width >= TILES * tiles


def convolve_by_tiles(network: nn.Module) -> None:
    """Let the wide 3x3 convolutions of `network` go by minimal filters; in float32 or 64 only."""
    for layer in network.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (3, 3)
            and layer.padding == layer.stride == layer.dilation == (1, 1)
            and layer.groups == 1
            and min(layer.in_channels, layer.out_channels) >= PLANES
        ):
            TiledForward(layer).install()
