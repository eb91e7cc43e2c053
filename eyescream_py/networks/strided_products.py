"""A convolution with strides on CUDA, as matrix products.

What a pixel of the output sees of x is laid out as a row (`patches`), and the rows of all pixels
are multiplied by the weights, which in channels_last lie as such rows do. Backward, the slopes'
product with the weights is added up where rows show the same pixel (`unpatched`). cuDNN computes
slopes of x for the zeros between strides, too: of 512>1024 planes and 16 pictures of 4x4 pixels for
19 us on an H200, whose memory needs 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.networks.rows import planes_of, rows_of

LEAST_PLANES = 64  # of x and of the output: narrower products fill no device
# values in the patches: of many pictures they are more to write and to read than cuDNN computes in
# vain (16 px, H200: 0.442 in place of 0.497 ms at batch 16, 2.41 of 2.27 at 1024)
LARGEST = 1 << 21


def suits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether these products are made for the layer, of one group, and x [N,C,H,W]."""
    side, step = layer.kernel_size[0], layer.stride[0]
    planes = layer.in_channels, layer.out_channels
    pixels = len(x) * math.prod(-(-size // step) for size in x.shape[2:])
    return (
        1 < step <= side
        and side % 2 == 1
        and layer.stride == (step, step)
        and layer.kernel_size == (side, side)
        and layer.padding == (side // 2, side // 2)
        and layer.dilation == (1, 1)
        and min(planes) >= LEAST_PLANES
        and all(number % 8 == 0 for number in planes)
        and x.shape[1] == layer.in_channels
        and pixels * side**2 * layer.in_channels <= LARGEST
    )


class StridedProducts(torch.autograd.Function):
    """Of (x [N,in,H,W], weight [out,in,side,side], bias [out] or None, stride, a
    `fused_layers.Beside`): the convolution [N,out,h,w], in channels_last.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, step: int, how: Any
    ) -> Tensor:
        rows, taps = how.tools.kernels.patches(x, weight.shape[2], step), _taps(weight)
        ctx.save_for_backward(rows, taps)
        ctx.how, ctx.biased, ctx.shape, ctx.step = how, bias is not None, x.shape, step
        ctx.side = weight.shape[2]
        product = rows.mm(taps.t()) if bias is None else torch.addmm(bias, rows, taps.t())
        high, wide = (-(-size // step) for size in x.shape[2:])
        return planes_of(product, len(x), high, wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows, taps), g, how = ctx.saved_tensors, grads[0], ctx.how
        of_x = of_weight = of_bias = lane = None
        slopes = rows_of(g)
        if ctx.needs_input_grad[1]:
            with how.tools.lanes.beside(slopes, rows) as lane:
                of_weight = planes_of(slopes.t().mm(rows), len(taps), ctx.side, ctx.side)
                of_bias = slopes.sum(0) if ctx.biased else None
        if ctx.needs_input_grad[0]:
            found = slopes.mm(taps)
            of_x = how.tools.kernels.unpatched(found, ctx.shape, ctx.side, ctx.step)
        how.learn(of_weight, lane)
        return of_x, of_weight, of_bias, None, None


def _taps(weight: Tensor) -> Tensor:
    """[out,in,side,side] -> [out,side*side*in], which in channels_last is the same memory."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
