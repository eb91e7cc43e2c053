"""Slopes of the weights of a wide convolution on CUDA, by a kernel of ours or as matrix products.

cuDNN's only algorithms that repeat to the bit are slow for it. Microseconds on an H200 (28 November
2026), 32x32 pixels, at batch 32 and 1024:

                                kernel of ours    products (cuBLAS)    cuDNN
    7x7 64>128, 16 bits          53, 1308           143, 3664        220, 30947
    5x5 64>256, 16 bits          56, 1527           125, 2586        111, 2111
    5x5 128>256, 16 bits         94, 2606           205, 3798         91, 5823
    7x7 64>128, float32         592                 299              298

So values of 16 bits take the kernel; float32 keeps the products for 7x7, which tie with cuDNN. Of
narrower layers, likewise (batch 16 and 1024; 3 planes and 54 are filled up to 8 and 56):

                                kernel of ours        cuDNN
    3x3 8>64, 32x32 pixels       10, 78               15, 386
    3x3 8>128, 16x16              7, 37               15, 152
    5x5 8>32, 32x32              10, 143              17, 180
    5x5 32>32, 32x32             11, 301              30, 456
    5x5 32>56, 16x16              9, 84               16, 204
    5x5 56>56, 16x16             12, 164              18, 338
    3x3 64>64, 32x32             15, 233              19, 167
    3x3 128>128, 16x16           16, 138              13, 122

The values of the 7x7 layer by `gpu_kernels.convolve` and cuDNN: 38, 1225 and 59, 1741; the slopes
of its x 44, 1297 and 101, 1905. Of 5x5 64>256 at batch 32 40 and 41, 48 and 82.

The products: sum over samples and pixels of g[n,y,x,o] * p[n,y+dy,x+dx,i], p the picture with its
border of zeros. With pictures and slopes both laid out with the border, in rows of planes, a shift
by (dy,dx) is one by dy*width+dx rows, and what runs over a row's end meets a slope of 0. The zeros
at the end of a row of pixels are the next one's border, too, and those below a picture that of the
next picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.networks.rows import keeps_size

ANY = range(8, 1 << 20, 8)
# (sides of a kernel, planes of x, of the output): of 3x3 and 5x5 what is measured, and between
WORTH_OF_16_BITS = (
    (range(7, 1 << 10, 2), ANY, ANY),
    (range(5, 6), range(64, 1 << 20, 8), range(256, 1 << 20, 8)),
    (range(5, 6), range(8, 57, 8), range(32, 57, 8)),
    (range(3, 4), range(8, 9), range(64, 129, 8)),
)
WORTH = WORTH_OF_16_BITS[:1]
LEAST_SIDE = 7  # of a kernel whose values and slopes of x `gpu_kernels.convolve` makes, not cuDNN
LEAST_PIXELS = 8192  # of x for that: of fewer, most of the device would be idle
SHARES = 32  # into which the rows are cut, so that one product of few planes fills the device


def suits(layer: nn.Conv2d, x: Tensor, g: Tensor) -> bool:
    """Whether `weight_slopes` is made for the layer, its output as large as x [N,C,H,W], and
    quicker; g [N,out,H,W] are the output's slopes.
    """
    side, worth = layer.kernel_size[0], WORTH_OF_16_BITS if _is_of_16_bits(x) else WORTH
    return keeps_size(layer) and any(
        side in a and x.shape[1] in b and g.shape[1] in c for a, b, c in worth
    )


def own_values(layer: nn.Conv2d, x: Tensor, weight: Tensor) -> bool:
    """Whether `gpu_kernels.convolve` is the quicker way with x [N,in,H,W] and the layer's weight
    [out,in,side,side], as they are computed with.
    """
    return (
        _is_of_16_bits(x)
        and keeps_size(layer)
        and layer.kernel_size[0] >= LEAST_SIDE
        and weight.shape[0] % 32 == weight.shape[1] % 32 == 0
        and x[:, 0].numel() >= LEAST_PIXELS
    )


def _is_of_16_bits(x: Tensor) -> bool:
    return x.element_size() == 2


def weight_slopes(x: Tensor, g: Tensor, side: int, kernels: Any) -> Tensor:
    """x [N,in,H,W], g [N,out,H,W] -> [out,in,side,side], in their type; sums are taken in
    float32, by `system.gpu_kernels`.
    """
    if _is_of_16_bits(x):
        slopes: Tensor = kernels.weight_slopes(x, g, side)
        return slopes
    (n, planes, height, width), half = x.shape, side // 2
    high, wide = height + half, width + half
    # what begins on 16 bytes in a share does so in all
    share = -(-n * high * wide // SHARES // 8) * 8
    rows, out = SHARES * share, g.shape[1]
    # all pictures under one row of the kernel, next to each other: side * planes long
    length = rows + (side - 1) * wide
    windows = kernels.place(x, length, high, wide, half * wide + half, side)
    # the slope of a pixel stands where the upper left corner of its window is
    left = kernels.place(g, rows, high, wide, 0, 1).view(SHARES, share, out).transpose(1, 2)
    # sums are taken in float32 at least
    full = torch.promote_types(x.dtype, torch.float32)
    found = x.new_empty((side, SHARES, out, side * planes), dtype=full)
    for dy, made in enumerate(found):
        kernels.multiply(left, windows[dy * wide : dy * wide + rows].view(SHARES, share, -1), made)
    whole = found.sum(1).view(side, out, side, planes).permute(1, 3, 0, 2)
    return whole.to(x.dtype, memory_format=torch.channels_last)
