"""Convolutions of many planes that step over pixels, as products with the patches of a batch.

oneDNN takes half as long again for many planes with few pixels each, three times as long for the
weights' slopes. Planes lie last in memory, those of the weights too: patches are then put together,
and their slopes summed, by runs of whole pixels. Measured in docs/benchmarks.md; CPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from eyescream_py.networks.modes import FastForward, full_precision
from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of, planes_first
from eyescream_py.networks.products import product


def _patches(pixels: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Of [H,W,N,C] what each output pixel's taps meet: [rows,columns,N,k,k,C]."""
    p = padding
    padded = F.pad(pixels, (0, 0, 0, 0, p, p, p, p))
    down, across, picture, plane = padded.stride()
    rows, columns = ((side - kernel) // stride + 1 for side in padded.shape[:2])
    size = (rows, columns, pixels.shape[2], kernel, kernel, pixels.shape[3])
    steps = (stride * down, stride * across, picture, down, across, plane)
    return padded.as_strided(size, steps).contiguous()


def _summed(patches: Tensor, height: int, width: int, stride: int, padding: int) -> Tensor:
    """Slopes of pixels from those of their patches: the transpose. -> [H,W,N,C]"""
    rows, columns, n, kernel, _, planes = patches.shape
    p, met = padding, -(-kernel // stride)  # blocks of `stride` pixels that a patch meets
    down, across = (-(-(side + 2 * p) // stride) for side in (height, width))
    dtype = full_precision(patches.new_empty(0)).dtype
    sums = patches.new_zeros(down, stride, across, stride, n, planes, dtype=dtype)
    taps = patches.permute(0, 3, 1, 4, 2, 5)
    for i in range(met):
        for j in range(met):
            # all taps of a block at once: of neighbouring patches they meet different pixels
            part = taps[:, stride * i : stride * (i + 1), :, stride * j : stride * (j + 1)]
            sums[i : i + rows, : part.shape[1], j : j + columns, : part.shape[3]] += part
    whole = sums.view(stride * down, stride * across, n, planes)
    return whole[p : p + height, p : p + width].contiguous()


class _Convolution(torch.autograd.Function):
    """`F.conv2d`, in the layout of its input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        n, planes, height, width = x.shape
        pixels = pixels_of(x).view(height, width, n, planes)
        patches = _patches(pixels, weight.shape[2], stride, padding)
        rows, columns = patches.shape[:2]
        ctx.geometry, ctx.pixels_first = (height, width, stride, padding), lies_so(x)
        kernels = weight.permute(0, 2, 3, 1).flatten(1)  # [outputs,k*k*inputs]
        patches = patches.view(rows * columns * n, -1)
        ctx.save_for_backward(patches, weight)
        if bias is None or x.dtype == torch.bfloat16:  # which would be rounded before the sum, too
            y = product(patches, kernels, bias)
        else:  # a sixth faster
            y = product(kernels, patches).add_(bias.unsqueeze(1)).T
        if ctx.pixels_first:
            return as_planes(y.contiguous().view(rows, columns, -1), n)
        return y.view(rows, columns, n, -1).permute(2, 3, 0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        patches, weight = ctx.saved_tensors
        n, outputs, rows, columns = grads[0].shape
        g = pixels_of(grads[0]).view(-1, outputs)  # [pixels*N,outputs]
        kernels = weight.permute(0, 2, 3, 1)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            slopes = product(g, kernels.flatten(1).T).view(rows, columns, n, *kernels.shape[1:])
            sums = _summed(slopes, *ctx.geometry).to(g.dtype)
            to_x = as_planes(sums.flatten(2), n)
            to_x = to_x if ctx.pixels_first else planes_first(to_x)
        if ctx.needs_input_grad[1]:
            # torch turns the narrower matrix round sooner than oneDNN would
            to_weight = product(g.T.contiguous(), patches.T).view(kernels.shape).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            to_bias = g.sum(0)
        return to_x, to_weight, to_bias, None, None


class StridedForward(FastForward):
    """That of a wide convolution that steps over pixels."""

    def install(self) -> None:
        """Also lays a tap's weights next to each other in memory, the numbers as they are."""
        weight = self.layer.weight
        weight.data = weight.detach().contiguous(memory_format=torch.channels_last)
        super().install()

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        y: Tensor = _Convolution.apply(*self.operands(x), layer.stride[0], layer.padding[0])
        return y
