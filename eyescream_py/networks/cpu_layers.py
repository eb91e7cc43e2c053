"""Faster arithmetic on the CPU for layers that torch computes slowly there.

`speed_up` exchanges the `forward` of single layers: a layer keeps its class, parameters and place,
so that checkpoints and printed networks stay what they were. Gains in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyescream_py.networks.fft_convolution import convolve_by_fourier
from eyescream_py.networks.modes import FastForward

FEW_PIXELS = 256  # of a convolution's output, over the batch: below, one matrix product is faster
WIDE = 256 * 512  # pairs of planes of which that was measured


class _SharedSlope(torch.autograd.Function):
    """PReLU with one slope; torch's backward pass writes a picture-sized gradient for the slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, float(slope))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, slope = ctx.saved_tensors
        to_x = to_slope = None
        if ctx.needs_input_grad[0]:
            to_x = torch.ops.aten.leaky_relu_backward(grads[0], x, float(slope), False)
        if ctx.needs_input_grad[1]:
            negative = x.clamp(max=0).reshape(-1).to(slope.dtype)
            to_slope = torch.dot(negative, grads[0].reshape(-1).to(slope.dtype)).view(1)
        return to_x, to_slope


class _PReLU(FastForward):
    def __call__(self, x: Tensor) -> Tensor:
        return _SharedSlope.apply(x, self.layer.weight)


class _OnePlane(FastForward):
    """A convolution to one plane: a product with all taps at every pixel, then shifted sums."""

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        n, planes, height, width = x.shape
        k = layer.kernel_size[0]
        taps = layer.weight.view(planes, k * k).T @ x.reshape(n, planes, height * width)
        # tap (a,b) at pixel (r,c) belongs to output (r-a+p, c-b+p): a fold of the flipped taps
        size = (height + k - 1, width + k - 1)
        whole = F.fold(taps.flip(1), size, kernel_size=k)
        p = (k - 1) // 2
        return whole[:, :, p : p + height, p : p + width] + layer.bias.view(-1, 1, 1)


class _FewPixels(FastForward):
    """A convolution whose output has few pixels, as one product with all patches of the batch."""

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        (s, p, k), n = (v[0] for v in (layer.stride, layer.padding, layer.kernel_size)), len(x)
        height, width = ((side + 2 * p - k) // s + 1 for side in x.shape[2:])
        if n * height * width > FEW_PIXELS:
            return type(layer).forward(layer, x)
        patches = F.unfold(x, k, stride=s, padding=p).transpose(0, 1)  # [C*k*k,N,pixels]
        y = layer.weight.flatten(1) @ patches.reshape(len(patches), -1)
        return y.view(-1, n, height, width).transpose(0, 1) + layer.bias.view(-1, 1, 1)


def speed_up(network: nn.Module, convolutions: bool = True) -> None:
    """Change what pays in `network`, which runs on the CPU; `convolutions` for fp32 and fp64."""
    for layer in network.modules():
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            _PReLU(layer).install()
        elif isinstance(layer, nn.Conv2d) and convolutions and _is_square(layer):
            if layer.out_channels == 1 and layer.stride == (1, 1) and layer.in_channels >= 64:
                _OnePlane(layer).install()
            elif layer.in_channels * layer.out_channels >= WIDE and layer.stride == (2, 2):
                _FewPixels(layer).install()
    if convolutions:
        convolve_by_fourier(network)


def _is_square(layer: nn.Conv2d) -> bool:
    k = layer.kernel_size[0]
    kept = layer.padding == ((k - 1) // 2,) * 2 and layer.dilation == (1, 1)
    return layer.kernel_size == (k, k) and kept and layer.groups == 1 and layer.bias is not None
