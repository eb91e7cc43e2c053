"""Wide convolutions with large kernels through a discrete Fourier transform of whole planes.

A 7x7 convolution multiplies 49 times per output pixel and pair of planes; between spectra it is a
complex product per frequency, 2.5 multiplications per pixel of a 32x32 plane. A plane of H x W
pixels is padded to (H+p) x (W+p), p = (k-1)/2: what is cyclically shifted over an edge meets zeros
only. The transforms are matrix products along one axis after the other. After Mathieu et al. 2013,
"Fast training of convolutional networks through FFTs". Measured in docs/benchmarks.md; CPUs only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eyescream_py.networks.compiled_fourier import convolve, proven
from eyescream_py.networks.modes import FastForward, full_precision
from eyescream_py.networks.products import has_tiles, product

# kernel, planes of the narrower side: from where on it was measured to be faster
WORTH = (5, 32)
WORTH_ROUNDED = (7, 64)  # than torch's own in bfloat16, without loops in C or where it has AMX


@dataclass(frozen=True)
class _Waves:
    """Matrices between `count` samples at places `first`, `first`+1, ... of a circle and its
    frequencies, and back.

    `half` (2f,count) takes real samples to the f frequencies that are not mirrored ones, real parts
    first; `full` (2L,2*count) complex samples, (sample, part) to (part, frequency).
    """

    half: Tensor
    full: Tensor
    from_half: Tensor  # (count,2f)
    from_full: Tensor  # (2*count,2L)


@functools.cache
def _waves(count: int, first: int, circle: int, dtype: torch.dtype) -> _Waves:
    samples = torch.arange(first, first + count, dtype=torch.float64)
    frequencies = torch.arange(circle, dtype=torch.float64)
    angles = 2 * math.pi / circle * torch.outer(frequencies, samples)  # [L,count]
    c, s = angles.cos(), angles.sin()
    full = torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)]).flatten(2).flatten(0, 1)
    f = circle // 2 + 1
    half = torch.cat([c[:f], -s[:f]])
    weight = torch.full((f, 1), 2.0, dtype=torch.float64)  # mirrored frequencies count as well
    weight[0] = 1
    if circle % 2 == 0:
        weight[-1] = 1
    from_half = torch.cat([c[:f] * weight, -s[:f] * weight]).T / circle
    matrices = (half, full, from_half, full.T / circle)
    return _Waves(*(m.to(dtype).contiguous() for m in matrices))


@dataclass(frozen=True)
class _Grid:
    """The transforms of planes of `height` x `width`: along their rows, along their columns."""

    height: int
    width: int
    rows: _Waves
    columns: _Waves

    def spectrum(self, planes: Tensor) -> Tensor:
        """[a,b,H,W] -> [2,frequencies,a,b], real parts first."""
        a, b = planes.shape[:2]
        pixels = planes.reshape(a * b, -1).T.contiguous().view(self.height, self.width, a * b)
        lines = torch.matmul(self.columns.half, pixels)  # [H,2f,ab]
        return product(self.rows.full, lines.view(2 * self.height, -1).T).view(2, -1, a, b)

    def planes(self, spectrum: Tensor) -> Tensor:
        """The inverse, of these rows and columns only. [2,frequencies,a,b] -> [a,b,H,W]"""
        a, b = spectrum.shape[2:]
        lines = product(self.rows.from_full, spectrum.view(self.rows.from_full.shape[1], -1).T)
        pixels = torch.matmul(self.columns.from_half, lines.view(self.height, -1, a * b))
        return pixels.view(-1, a * b).T.contiguous().view(a, b, self.height, self.width)


@functools.cache
def _grids(height: int, width: int, kernel: int, dtype: torch.dtype) -> tuple[_Grid, _Grid]:
    """Those of a plane's pixels and of a kernel's taps."""
    p = (kernel - 1) // 2
    plane = (_waves(side, 0, side + p, dtype) for side in (height, width))
    taps = (_waves(kernel, -p, side + p, dtype) for side in (height, width))
    return _Grid(height, width, *plane), _Grid(kernel, kernel, *taps)


def _times(a: Tensor, b: Tensor, conjugate: bool = False) -> Tensor:
    """a times b, or the conjugate of b, by frequencies. [2,f,m,k] x [2,f,k,n] -> [2,f,m,n]"""
    sign = 1 if conjugate else -1
    product = a.new_empty(2, a.shape[1], a.shape[2], b.shape[3])
    torch.bmm(a[0], b[0], out=product[0])
    torch.bmm(a[1], b[0], out=product[1])
    product[0].baddbmm_(a[1], b[1], alpha=sign)
    product[1].baddbmm_(a[0], b[1], alpha=-sign)
    return product


class _Convolution(torch.autograd.Function):
    """`F.conv2d(x, weight, padding=(k-1)//2)`; of bfloat16 in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.kinds = x.dtype, weight.dtype
        x, weight = full_precision(x), full_precision(weight)
        ctx.grids = pixels, taps = _grids(*x.shape[2:], weight.shape[2], x.dtype)
        with torch.autocast("cpu", enabled=False):
            X, W = pixels.spectrum(x), taps.spectrum(weight)
            ctx.save_for_backward(X, W)
            # y(r) sums w(q) x(r+q): the kernel's spectrum is conjugated
            return pixels.planes(_times(X, W.transpose(2, 3), conjugate=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (X, W), (pixels, taps) = ctx.saved_tensors, ctx.grids
        to_x = to_weight = None
        with torch.autocast("cpu", enabled=False):
            G = pixels.spectrum(grads[0])
            if ctx.needs_input_grad[0]:
                to_x = pixels.planes(_times(G, W)).to(ctx.kinds[0])
            if ctx.needs_input_grad[1]:
                D = _times(X.transpose(2, 3), G, conjugate=True)  # [2,f,inputs,outputs]
                to_weight = taps.planes(D).transpose(0, 1).contiguous().to(ctx.kinds[1])
        return to_x, to_weight


class FourierForward(FastForward):
    """That of a convolution that goes through Fourier transforms, by loops in C where `compiled`
    and `takes_loops`; of bfloat16 in float32.
    """

    compiled = False

    def takes_loops(self, x: Tensor) -> bool:
        """Whether loops in C compute it for `x`: they would read beyond what does not fit."""
        weight, bias = self.layer.weight, self.layer.bias
        kinds = {full_precision(t).dtype for t in (x, weight, *([] if bias is None else [bias]))}
        fits = x.dim() == 4 and x.shape[1] == weight.shape[1]
        full = fits and kinds == {torch.float32} and x.device.type == "cpu"
        return self.compiled and full and proven() is not None

    def __call__(self, x: Tensor) -> Tensor:
        x, weight, bias = self.operands(x)
        if self.takes_loops(x) and (code := proven()):
            added = None if bias is None else full_precision(bias)
            return convolve(code, full_precision(x), full_precision(weight), added).to(x.dtype)
        y: Tensor = _Convolution.apply(x, weight)
        return (y if bias is None else y + bias.view(-1, 1, 1)).to(x.dtype)


def convolve_by_fourier(network: nn.Module, rounded: bool = False, compiled: bool = True) -> None:
    """Let the wide convolutions of `network` with large kernels go through Fourier transforms.

    `rounded`: the network computes in bfloat16, where torch's own often are faster; `compiled`: by
    loops in C, where they can be had.
    """
    late = rounded and (has_tiles() or not (compiled and proven()))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and _keeps_size(layer):
            k, planes = layer.kernel_size[0], min(layer.in_channels, layer.out_channels)
            kernel, least = WORTH_ROUNDED if late else WORTH
            if k >= kernel and planes >= least:
                forward = FourierForward(layer)
                forward.compiled = compiled
                forward.install()


def _keeps_size(layer: nn.Conv2d) -> bool:
    k = layer.kernel_size[0]
    same = layer.padding == ((k - 1) // 2,) * 2 and layer.stride == (1, 1) == layer.dilation
    same = same and layer.padding_mode == "zeros"
    return same and layer.kernel_size == (k, k) and k % 2 == 1 and layer.groups == 1
