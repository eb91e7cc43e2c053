"""Slopes of the weights of a wide convolution on CUDA, as matrix products.

For a 7x7 convolution cuDNN's only algorithm that repeats to the bit is slow in bfloat16. Sum over
samples and pixels of g[n,y,x,o] * p[n,y+dy,x+dx,i], p the picture with its border of zeros: with
pictures and slopes both laid out with the border, in rows of planes, a shift by (dy,dx) is one by
dy*width+dx rows, and what runs over a row's end meets a slope of 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_SIDE = 7  # of a kernel: for smaller ones cuDNN is quick enough
SHARES = 32  # into which the rows are cut, so that one product of few planes fills the device


def suits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `weight_slopes` is made for the layer: wide, of stride 1, its output as large as x
    [N,C,H,W].
    """
    side = layer.kernel_size[0]
    return (
        side >= SMALLEST_SIDE
        and layer.kernel_size == (side, side)
        and layer.padding == (side // 2, side // 2)
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and side % 2 == 1
        and x.shape[1] % 8 == 0
        and layer.out_channels % 8 == 0
    )


def weight_slopes(x: Tensor, g: Tensor, side: int) -> Tensor:
    """x [N,in,H,W], g [N,out,H,W] -> [out,in,side,side], in their type; sums are taken in
    float32.
    """
    planes, wide = x.shape[1], x.shape[3] + side - 1
    half = side // 2
    border = (0, 0, half, half, half, half)
    pictures = F.pad(x.permute(0, 2, 3, 1), border).reshape(-1, planes)
    # the slope of a pixel stands where the upper left corner of its window is
    slopes = F.pad(g.permute(0, 2, 3, 1), (0, 0, 0, side - 1, 0, side - 1)).reshape(-1, len(g[0]))
    share = -(-len(slopes) // SHARES)
    rows = SHARES * share
    slopes = F.pad(slopes, (0, 0, 0, rows - len(slopes)))
    pictures = F.pad(pictures, (0, 0, 0, rows + side * wide - len(pictures)))
    # a row of all pictures under one row of the kernel: side * planes long
    windows = pictures.as_strided((rows + (side - 1) * wide, side * planes), (planes, 1)).clone()
    left = slopes.view(SHARES, share, -1).transpose(1, 2)
    found = [
        _summed(left, windows[dy * wide : dy * wide + rows].view(SHARES, share, -1))
        for dy in range(side)
    ]
    made = torch.stack(found, 1).view(-1, side, side, planes).permute(0, 3, 1, 2)
    return made.to(x.dtype)


def _summed(left: Tensor, right: Tensor) -> Tensor:
    """Sum of the products of all shares, in float32 at least."""
    if left.is_cuda and left.dtype == torch.bfloat16:
        return torch.bmm(left, right, out_dtype=torch.float32).sum(0)
    return torch.bmm(left, right).sum(0)
