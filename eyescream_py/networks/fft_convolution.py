"""Wide convolutions with large kernels through a discrete Fourier transform of small tiles.

A 7x7 convolution multiplies 49 times per output pixel and pair of planes. On a tile of t = 8+7-1
pixels a side it is one complex product per frequency, 7 multiplications per output pixel, and the
transforms are matrix products too. Overlap-save after Mathieu et al. 2013, "Fast training of
convolutional networks through FFTs". Measured in docs/benchmarks.md; used on CPUs only.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyescream_py.networks.modes import FastForward

TILE = 8  # output pixels of a tile's side
WORTH_KERNEL = 7  # smaller kernels and fewer pairs of planes are faster as they are
WORTH_PAIRS = 64 * 128


@functools.cache
def _transforms(
    kernel: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matrices between pixels and frequencies: of a tile, a kernel and an output tile, and back.

    t = TILE + kernel - 1 pixels have f = t*(t//2+1) frequencies of which real parts stand first.
    Returns tile (2f, t^2), kernel (2f, k^2), output (2f, TILE^2), and inverse (t^2, 2f).
    """
    t = TILE + kernel - 1
    pixels = torch.eye(t * t, dtype=torch.float64).view(t * t, t, t)
    spectra = torch.fft.rfft2(pixels).flatten(1).T  # [f,t^2]
    forward = torch.cat([spectra.real, spectra.imag])
    f = len(spectra)
    halves = torch.eye(2 * f, dtype=torch.float64)
    frequencies = torch.complex(halves[:, :f], halves[:, f:]).view(2 * f, t, t // 2 + 1)
    inverse = torch.fft.irfft2(frequencies, s=(t, t)).flatten(1).T  # [t^2,2f]
    square = forward.view(2 * f, t, t)
    corner = square[:, :kernel, :kernel].flatten(1)
    output = square[:, :TILE, :TILE].flatten(1)
    return tuple(m.to(device, dtype).contiguous() for m in (forward, corner, output, inverse))  # type: ignore[return-value]


def _times(a: Tensor, b: Tensor, conjugate: bool = False) -> Tensor:
    """Complex matrix products, frequency by frequency. [2,f,m,k] x [2,f,k,n] -> [2,f,m,n]"""
    sign = -1 if conjugate else 1
    product = a.new_empty(2, a.shape[1], a.shape[2], b.shape[3])
    torch.bmm(a[0], b[0], out=product[0])
    torch.bmm(a[1], b[0], out=product[1])
    product[0].baddbmm_(a[1], b[1], alpha=-sign)
    product[1].baddbmm_(a[0], b[1], alpha=sign)
    return product


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        n, planes, height, width = x.shape
        outputs, _, k, _ = weight.shape
        tile, corner, _, inverse = _transforms(k, x.dtype, x.device)
        rows, columns = -(-height // TILE), -(-width // TILE)
        X = (tile @ _tiles(x, k, rows, columns)).view(2, -1, n * rows * columns, planes)
        W = (corner @ weight.permute(2, 3, 0, 1).reshape(k * k, -1)).view(2, -1, outputs, planes)
        Y = _times(X, W.transpose(2, 3), conjugate=True)
        t = TILE + k - 1
        kept = inverse.view(t, t, -1)[:TILE, :TILE].reshape(TILE * TILE, -1)
        y = (kept @ Y.flatten(2).flatten(0, 1)).view(TILE, TILE, n, rows, columns, outputs)
        ctx.save_for_backward(X, W)
        ctx.shape, ctx.kernel = x.shape, k
        y = y.permute(2, 5, 3, 0, 4, 1).reshape(n, outputs, rows * TILE, columns * TILE)
        return y[:, :, :height, :width]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        X, W = ctx.saved_tensors
        n, _, height, width = ctx.shape
        outputs, k = W.shape[2], ctx.kernel
        rows, columns = -(-height // TILE), -(-width // TILE)
        _, _, output, inverse = _transforms(k, X.dtype, X.device)
        g = F.pad(grads[0], (0, columns * TILE - width, 0, rows * TILE - height))
        g = g.view(n, outputs, rows, TILE, columns, TILE).permute(3, 5, 0, 2, 4, 1)
        G = (output @ g.reshape(TILE * TILE, -1)).view(2, -1, n * rows * columns, outputs)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            DX = _times(G, W)  # [2,f,tiles,planes]
            to_x = _untile(inverse @ DX.flatten(2).flatten(0, 1), ctx.shape, k, rows, columns)
        if ctx.needs_input_grad[1]:
            D = _times(G.transpose(2, 3), X, conjugate=True)  # G^T conj(X) = conj(G conj X^T)
            t = TILE + k - 1
            kept = inverse.view(t, t, -1)[:k, :k].reshape(k * k, -1)
            D[1].neg_()
            d = (kept @ D.flatten(2).flatten(0, 1)).view(k, k, outputs, -1)
            to_weight = d.permute(2, 3, 0, 1).contiguous()
        return to_x, to_weight


def _tiles(x: Tensor, k: int, rows: int, columns: int) -> Tensor:
    """Overlapping tiles of the padded pictures, pixel by pixel. [N,C,H,W] -> [t*t, N*tiles*C]"""
    t, p = TILE + k - 1, (k - 1) // 2
    below, right = rows * TILE - x.shape[2] + p, columns * TILE - x.shape[3] + p
    padded = F.pad(x, (p, right, p, below))
    cut = padded.unfold(2, t, TILE).unfold(3, t, TILE)  # [N,C,rows,columns,t,t]
    return cut.permute(4, 5, 0, 2, 3, 1).reshape(t * t, -1)


def _untile(tiles: Tensor, shape: torch.Size, k: int, rows: int, columns: int) -> Tensor:
    """The transpose of `_tiles`: overlapping pixels are added."""
    n, planes, height, width = shape
    t, p = TILE + k - 1, (k - 1) // 2
    cut = tiles.view(t, t, n, rows, columns, planes).permute(2, 5, 0, 1, 3, 4)
    size = (rows * TILE + k - 1, columns * TILE + k - 1)
    flat = cut.reshape(n, planes * t * t, rows * columns)
    whole = F.fold(flat, size, kernel_size=t, stride=TILE)
    return whole[:, :, p : p + height, p : p + width]


class _FourierForward(FastForward):
    def __call__(self, x: Tensor) -> Tensor:
        y = _Convolution.apply(x, self.layer.weight)
        return y if self.layer.bias is None else y + self.layer.bias.view(-1, 1, 1)


def convolve_by_fourier(network: nn.Module) -> None:
    """Let the wide convolutions of `network` with large kernels go through Fourier transforms."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and _is_worth_it(layer):
            _FourierForward(layer).install()


def _is_worth_it(layer: nn.Conv2d) -> bool:
    k = layer.kernel_size[0]
    same = layer.padding == ((k - 1) // 2,) * 2 and layer.stride == (1, 1) == layer.dilation
    wide = k >= WORTH_KERNEL and layer.in_channels * layer.out_channels >= WORTH_PAIRS
    return same and wide and layer.kernel_size == (k, k) and k % 2 == 1 and layer.groups == 1
