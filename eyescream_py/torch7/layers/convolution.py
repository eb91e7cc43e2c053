"""Lua nn's convolutions beyond torch.nn's own, on (N,C,H,W) or (C,H,W). Source: the package nn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad as grad_of

Pair = tuple[int, int]


class SpatialConvolutionMap(nn.Module):
    """Convolution by a table of connections (nn.SpatialConvolutionMap).

    ``table`` is (n, 2): planes of input and output, from 1; the weight (n, kH, kW) is a kernel for
    each. ``full``: the transposed convolution (nn.SpatialFullConvolutionMap).
    """

    table: Tensor

    def __init__(
        self,
        table: Tensor,
        planes: Pair,
        kernel_size: Pair,
        stride: Pair = (1, 1),
        full: bool = False,
    ) -> None:
        super().__init__()
        self.planes, self.kernel_size, self.stride, self.full = planes, kernel_size, stride, full
        self.register_buffer("table", table)
        self.weight = nn.Parameter(torch.zeros(len(table), *kernel_size))
        self.bias = nn.Parameter(torch.zeros(planes[1]))

    def forward(self, x: Tensor) -> Tensor:
        source, target = (self.table.long() - 1).unbind(1)
        whole = self.weight.new_zeros(*self.planes, *self.kernel_size)
        whole = whole.index_put((source, target), self.weight, accumulate=True)
        if self.full:
            return F.conv_transpose2d(x, whole, self.bias, self.stride)
        return F.conv2d(x, whole.transpose(0, 1), self.bias, self.stride)


class SpatialConvolutionLocal(nn.Module):
    """Convolution with a kernel for each place (nn.SpatialConvolutionLocal).

    Weight (oH, oW, out, in, kH, kW), bias (out, oH, oW).
    """

    def __init__(
        self,
        planes: Pair,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        input_size: Pair,
    ) -> None:
        super().__init__()
        self.planes, self.kernel_size, self.stride = planes, kernel_size, stride
        self.padding, self.input_size = padding, input_size
        sizes = zip(input_size, padding, kernel_size, stride, strict=True)
        self.output_size = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in sizes)
        self.weight = nn.Parameter(
            torch.zeros(*self.output_size, planes[1], planes[0], *kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(planes[1], *self.output_size))

    def forward(self, x: Tensor) -> Tensor:
        batch = x if x.dim() == 4 else x[None]
        windows = F.unfold(batch, self.kernel_size, 1, self.padding, self.stride)  # [N,in*k,L]
        kernels = self.weight.reshape(windows.shape[2], self.planes[1], windows.shape[1])
        y = torch.einsum("nkl,lok->nol", windows, kernels)
        y = y.reshape(len(batch), self.planes[1], *self.output_size) + self.bias
        return y if x.dim() == 4 else y[0]


class SpatialDepthWiseConvolution(nn.Module):
    """``multiplier`` convolutions of each plane by itself (nn.SpatialDepthWiseConvolution).

    Weight (multiplier, in, kH, kW) in any shape, bias (multiplier, in). Outputs of one input plane
    are neighbours.
    """

    def __init__(
        self,
        planes: int,
        multiplier: int,
        kernel_size: Pair,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.planes, self.multiplier, self.kernel_size = planes, multiplier, kernel_size
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.zeros(multiplier, planes, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(multiplier, planes)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.transpose(0, 1).reshape(-1, 1, *self.kernel_size)
        bias = None if self.bias is None else self.bias.t().reshape(-1)
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.planes)


class _Binary(torch.autograd.Function):
    """A convolution with signs, scaled by means of |weight|; backward with the weight itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        alphas = weight.abs().mean((1, 2, 3))
        return F.conv2d(x, signs(weight), None, stride, padding) * alphas[:, None, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        batch, grad = (x, grads[0]) if x.dim() == 4 else (x[None], grads[0][None])
        grad_x = grad_of.conv2d_input(batch.shape, weight, grad, stride, padding)
        grad_weight = grad_of.conv2d_weight(batch, weight.shape, grad, stride, padding)
        grad_x = grad_x * weight.abs().mean((0, 2, 3))[:, None, None]
        return grad_x.reshape(x.shape), grad_weight, None, None


def signs(weight: Tensor) -> Tensor:
    """1 where a weight is at least 0, else -1."""
    return torch.where(weight >= 0, 1, -1).to(weight.dtype)


class SpatialBinaryConvolution(nn.Module):
    """Convolution with the signs of its weights, scaled (dpnn's nn.SpatialBinaryConvolution).

    Source: arXiv 1603.05279.
    """

    def __init__(
        self, planes: Pair, kernel_size: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0)
    ) -> None:
        super().__init__()
        self.planes, self.kernel_size, self.stride = planes, kernel_size, stride
        self.padding = padding
        self.weight = nn.Parameter(torch.zeros(planes[1], planes[0], *kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return _Binary.apply(x, self.weight, self.stride, self.padding)


class SpatialConvolutionUpsample(nn.Conv2d):
    """Convolution to ``out_planes`` * factor^2 planes, read as larger planes (eyescream).

    (N,in,H,W) -> (N,out,factor*H,factor*W). Lua views the planes' memory as the larger image; it
    does not interleave pixels as PixelShuffle does. Kernel sizes are odd, the padding keeps H, W.
    """

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        k_w: int,
        k_h: int,
        factor: int = 2,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if not (k_w % 2 and k_h % 2):
            raise ValueError(f"kernel {k_w}x{k_h}: both sizes have to be odd")
        super().__init__(
            in_planes,
            out_planes * factor**2,
            (k_h, k_w),
            padding=((k_h - 1) // 2, (k_w - 1) // 2),
            groups=groups,
            bias=bias,
        )
        self.out_planes = out_planes
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        planes = super().forward(x)
        if self.factor == 1:
            return planes
        height, width = x.shape[-2] * self.factor, x.shape[-1] * self.factor
        return planes.reshape(*x.shape[:-3], self.out_planes, height, width)
