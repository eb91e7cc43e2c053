"""A convolution from many planes to a few on CUDA, as matrix products.

cuDNN computes eight planes at least, and that slowly. Here the rows of planes of all pixels are
multiplied by those of all taps of the kernel at once, [taps,in] x [in,pixels], and a pixel of the
output is the sum of what its taps have found (`fold`). Backward, `unfold` lays the slopes out as
[taps,pixels], whose products with the taps and with the pixels are the slopes of these. In
channels_last each matrix lies in memory as it is, and only `fold` and `unfold` move anything.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.networks.rows import keeps_size, planes_of, rows_of
from eyescream_py.system.lanes import Lanes

MOST_PLANES = 4  # of the output
LEAST_INPUTS = 32  # planes of x; of fewer, what the taps find is much more than x
LARGEST_SIDE = 7  # of a kernel: `fold` is compiled with a load for each tap
MOST_PIXELS = (1 << 31) - 1  # of x: cuBLAS counts columns in 32 bits
SHARES = 64  # at most, of the pixels, so that one product of few rows fills the device


def suits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `FewPlanes` is made for the layer, of one group, and x [N,C,H,W]."""
    side = layer.kernel_size[0]
    return (
        layer.out_channels <= MOST_PLANES
        and layer.in_channels >= LEAST_INPUTS
        and layer.in_channels % 8 == 0
        and x.shape[1] == layer.in_channels
        and x[:, 0].numel() <= MOST_PIXELS
        and 3 <= side <= LARGEST_SIDE
        and keeps_size(layer)
    )


class FewPlanes(torch.autograd.Function):
    """Of (x [N,in,H,W], weight [out,in,side,side], bias [out] or None, `system.gpu_kernels`,
    lanes): the convolution [N,out,H,W], in channels_last. Sums are taken in float32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kernels: Any, lanes: Lanes
    ) -> Tensor:
        (n, _, height, width), (out, _, side, _) = x.shape, weight.shape
        rows, taps = rows_of(x), rows_of(weight)
        ctx.save_for_backward(rows, taps)
        ctx.kernels, ctx.lanes, ctx.biased = kernels, lanes, bias is not None
        ctx.shape, ctx.side = x.shape, side
        found = x.new_empty((1, len(taps), len(rows)), dtype=_full(x))
        kernels.multiply(taps[None], rows.t()[None], found)
        y: Tensor = kernels.fold(found[0], bias, (n, out, height, width), x.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows, taps), g, kernels = ctx.saved_tensors, grads[0], ctx.kernels
        of_x = of_weight = of_bias = None
        slopes = kernels.unfold(g, ctx.side)
        if ctx.needs_input_grad[1]:
            with ctx.lanes.beside(g, slopes, rows):
                of_weight = planes_of(
                    _of_taps(slopes, rows, kernels), g.shape[1], ctx.side, ctx.side
                )
                of_bias = g.sum((0, 2, 3)) if ctx.biased else None
        if ctx.needs_input_grad[0]:
            n, _, height, width = ctx.shape
            of_x = planes_of(slopes.t().mm(taps), n, height, width)
        return of_x, of_weight, of_bias, None, None


def _of_taps(slopes: Tensor, rows: Tensor, kernels: Any) -> Tensor:
    """slopes [taps,pixels] x rows [pixels,in], in their type."""
    taps, pixels = slopes.shape
    # what begins on 16 bytes in a share does so in all
    shares = max(1, math.gcd(pixels, 8 * SHARES) // 8)
    left = slopes.view(taps, shares, pixels // shares).transpose(0, 1)
    found = rows.new_empty((shares, taps, rows.shape[1]), dtype=_full(rows))
    kernels.multiply(left, rows.view(shares, pixels // shares, -1), found)
    return found.sum(0).to(rows.dtype)


def _full(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
