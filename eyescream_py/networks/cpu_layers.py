"""Faster arithmetic on the CPU for layers that torch computes slowly there.

`speed_up` exchanges the `forward` of single layers: a layer keeps its class, parameters and place,
so that checkpoints and printed networks stay what they were. Gains in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from eyescream_py.networks import thin_products
from eyescream_py.networks.doubling import join_doublings
from eyescream_py.networks.fft_convolution import convolve_by_fourier
from eyescream_py.networks.modes import FastForward, full_precision
from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of
from eyescream_py.networks.products import prefers_onednn, product
from eyescream_py.networks.strided import StridedForward
from eyescream_py.networks.winograd import TiledForward, convolve_by_tiles, takes
from eyescream_py.system.tape import as_one

WIDE = 256 * 512  # pairs of planes from where on products with patches are faster
WIDE_PIXELS = 128 * 512  # where pixels come first
FEW = 3  # planes of a picture
MANY = 2**19  # weights of a Linear from where on oneDNN's products are
# rows, and inputs from where on, for which they are with the weights as the left matrix
WEIGHTS_FIRST, INPUTS = range(16, 65), 2048


class _SharedSlope(torch.autograd.Function):
    """PReLU with one slope; torch's backward pass writes a picture-sized gradient for the slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        result: Tensor = as_one(_rectified, x, slope)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, slope = ctx.saved_tensors
        to_x = to_slope = None
        if ctx.needs_input_grad[0]:
            to_x = as_one(_rectified_back, grads[0], x, slope)
        if ctx.needs_input_grad[1]:
            negative = x.clamp(max=0).to(slope.dtype)
            g = grads[0].to(slope.dtype)
            if g.stride() != negative.stride():
                g = torch.empty_like(negative).copy_(g)
            to_slope = torch.dot(_in_memory(negative), _in_memory(g)).view(1)
        return to_x, to_slope


def _rectified(x: Tensor, slope: Tensor) -> Tensor:
    return F.leaky_relu(x, float(slope))


def _rectified_back(g: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    to_x: Tensor = torch.ops.aten.leaky_relu_backward(g, x, float(slope), False)
    return to_x


def _in_memory(x: Tensor) -> Tensor:
    """The elements of a tensor without gaps, as they follow each other in memory."""
    return x.as_strided((x.numel(),), (1,))


class _PReLU(FastForward):
    def __call__(self, x: Tensor) -> Tensor:
        return _SharedSlope.apply(x, self.layer.weight)


class _OnePlane(FastForward):
    """A convolution to one plane: a product with all taps at every pixel, then shifted sums; in
    float32 at least, as the sums would add up what rounding each tap loses.
    """

    def __call__(self, x: Tensor) -> Tensor:
        kept, weight, bias = self.operands(x)
        n, planes, height, width = x.shape
        k = weight.shape[2]
        with torch.autocast("cpu", enabled=False):
            pixels = full_precision(kept).reshape(n, planes, height * width)
            taps = full_precision(weight).reshape(planes, k * k).T @ pixels
            # tap (a,b) at pixel (r,c) belongs to output (r-a+p, c-b+p): a fold of the flipped taps
            size = (height + k - 1, width + k - 1)
            whole = F.fold(taps.flip(1), size, kernel_size=k)
            p = (k - 1) // 2
            y = whole[:, :, p : p + height, p : p + width]
            return (y if bias is None else y + bias.view(-1, 1, 1)).to(kept.dtype)


class _FromFewPlanes(torch.autograd.Function):
    """`F.conv2d` of a picture, whose slope of the input is a product with all taps at every pixel,
    then shifted sums: oneDNN takes two to four times as long for so few planes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.biases = padding, None if bias is None else [len(bias)]
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), g, p = ctx.saved_tensors, grads[0], ctx.padding
        to_x = None
        if ctx.needs_input_grad[0]:
            taps = full_precision(weight.flatten(1).T @ g.flatten(2))  # [N,inputs*k*k,pixels]
            to_x = F.fold(taps, x.shape[2:], weight.shape[2:], padding=p).to(x.dtype)
        needed = [False, *ctx.needs_input_grad[1:3]]
        _, to_weight, to_bias = torch.ops.aten.convolution_backward(
            g, x, weight, ctx.biases, [1, 1], [p, p], [1, 1], False, [0, 0], 1, needed
        )
        return to_x, to_weight, to_bias, None


class _FromFewToPixels(torch.autograd.Function):
    """The same with the result's pixels first in memory, as products with all patches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        (n, _, height, width), k = x.shape, weight.shape[2]
        ctx.geometry = {"output_size": (height, width), "kernel_size": k, "padding": padding}
        patches = F.unfold(x, k, padding=padding).permute(2, 0, 1)  # [pixels,N,inputs*k*k]
        patches = patches.reshape(len(patches) * n, -1)
        ctx.save_for_backward(patches, weight)
        y = F.linear(patches, weight.flatten(1), bias)
        return as_planes(y.view(height, width, -1), n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (patches, weight), (n, outputs) = ctx.saved_tensors, grads[0].shape[:2]
        g = pixels_of(grads[0]).view(-1, outputs)  # [pixels*N,outputs]
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            taps = product(g, weight.flatten(1).T).view(-1, n, patches.shape[1])
            to_x = F.fold(taps.permute(1, 2, 0), **ctx.geometry)
        if ctx.needs_input_grad[1]:
            # the left matrix is copied where it does not lie row by row: the narrower one
            to_weight = product(patches.T, g.T).T.contiguous().view_as(weight)
        if ctx.needs_input_grad[2]:
            to_bias = g.sum(0)
        return to_x, to_weight, to_bias, None


class _FewPlanes(FastForward):
    # planes of the layer behind, if it may go by tiles, and whether in C: pixels are first for it
    tiled: tuple[Sequence[int], bool] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        kind = _FromFewToPixels if self.tiled and takes(x, *self.tiled) else _FromFewPlanes
        y: Tensor = kind.apply(*self.operands(x), self.layer.padding[0])
        return y


class _ManyWeights(torch.autograd.Function):
    """A Linear of rows in float32 by oneDNN's products; `thin`: by loops in C what they do, in
    bfloat16, too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, thin: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.thin = thin
        if x.dtype == torch.bfloat16:
            return thin_products.values(x, weight, bias)
        if len(x) not in WEIGHTS_FIRST or weight.shape[1] < INPUTS:
            return product(x, weight, bias)
        y = product(weight, x).T.contiguous()
        return y if bias is None else y.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), g = ctx.saved_tensors, grads[0].contiguous()
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = thin_products.slopes_of_rows(g, weight) if ctx.thin else product(g, weight.T)
        if ctx.needs_input_grad[1]:
            to_weight = thin_products.slopes_of_weights(g, x) if ctx.thin else product(g.T, x.T)
        return to_x, to_weight, g.sum(0) if ctx.needs_input_grad[2] else None, None


class _WideLinear(FastForward):
    def __init__(self, layer: nn.Linear, compiled: bool) -> None:
        super().__init__(layer)
        self.compiled = compiled

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        thin = self.compiled and thin_products.pays(x, layer.weight)
        plain = x.dim() != 2 or x.dtype != torch.float32
        if not thin and (plain or torch.is_autocast_enabled(x.device.type)):
            return type(layer).forward(layer, x)
        y: Tensor = _ManyWeights.apply(*self.operands(x), thin)
        return y


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower row of each pair of rows. [N,C,2H,W] -> 2 of [N*C*H,W], or where pixels come
    first in memory of [H,W,N*C]
    """
    if lies_so(x):
        pairs = pixels_of(x).view(x.shape[2] // 2, 2, x.shape[3], -1)
    else:
        pairs = x.reshape(-1, 2, x.shape[-1])
    return pairs[:, 0], pairs[:, 1]


def _sides(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right pixel of each pair, of rows as `_pairs` returns them."""
    return rows[:, ::2], rows[:, 1::2]


class _MaxOfBlocks(torch.autograd.Function):
    """Max pooling of 2x2 blocks, whole rows at once, as torch's goes pixel by pixel; in the layout
    of its input. Of equal pixels the upper one has the slope, of a row's the left one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        upper, lower = _pairs(x)
        rows = torch.maximum(upper, lower)
        left, right = _sides(rows)
        ctx.save_for_backward(lower > upper, right > left)
        ctx.like = x.shape, lies_so(x)
        n, planes, height, width = x.shape
        made = torch.maximum(left, right)
        return as_planes(made, n) if lies_so(x) else made.view(n, planes, height // 2, width // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        is_lower, is_right = ctx.saved_tensors
        (n, planes, height, width), pixels_first = ctx.like
        g = pixels_of(grads[0]) if pixels_first else grads[0].reshape(is_right.shape)
        rows = g.new_empty(is_lower.shape)
        left, right = _sides(rows)
        torch.mul(g, is_right, out=right)
        torch.sub(g, right, out=left)
        if pixels_first:
            to_x = as_planes(g.new_empty(height, width, n * planes), n)
        else:
            to_x = g.new_empty(n, planes, height, width)
        upper, lower = _pairs(to_x)
        torch.mul(rows, is_lower, out=lower)
        torch.sub(rows, lower, out=upper)
        return to_x


class _AverageOfBlocks(torch.autograd.Function):
    """Average pooling of 2x2 blocks, likewise; in the layout of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, planes, height, width = x.shape
        ctx.pixels_first = lies_so(x)
        if ctx.pixels_first:
            blocks = pixels_of(full_precision(x)).view(height // 2, 2, width // 2, 2, -1)
            rows = blocks[:, 0] + blocks[:, 1]
            return as_planes((rows[:, :, 0] + rows[:, :, 1]).mul_(0.25).to(x.dtype), n)
        upper, lower = _pairs(full_precision(x))
        rows = upper + lower
        y = (rows[:, ::2] + rows[:, 1::2]).mul_(0.25).to(x.dtype)
        return y.view(n, planes, height // 2, width // 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        n, planes, height, width = grads[0].shape
        if ctx.pixels_first:
            pixels = pixels_of(grads[0]) * 0.25
            blocks = pixels.new_empty(height, 2, width, 2, n * planes)
            blocks.copy_(pixels.view(height, 1, width, 1, -1))
            return as_planes(blocks.view(2 * height, 2 * width, -1), n)
        share = (grads[0] * 0.25).reshape(-1, width)
        rows = share.new_empty(len(share), 2, 2 * width)
        rows[:, 0, ::2] = rows[:, 0, 1::2] = share
        rows[:, 1] = rows[:, 0]
        return rows.view(n, planes, 2 * height, 2 * width)


class _Blocks(FastForward):
    def __call__(self, x: Tensor) -> Tensor:
        kind = _MaxOfBlocks if isinstance(self.layer, nn.MaxPool2d) else _AverageOfBlocks
        whole = x.dim() == 4 and not x.shape[-1] % 2 and not x.shape[-2] % 2
        if whole and (x.is_contiguous() or lies_so(x)):  # torch has its own way in channels_last
            y: Tensor = kind.apply(x)
            return y
        return type(self.layer).forward(self.layer, x)


def speed_up(network: nn.Module, rounded: bool = False, compiled: bool = True) -> None:
    """Change what pays in `network`, which runs on the CPU; `rounded`: in bfloat16; `compiled`:
    loops in C may do the work of torch's operators.
    """
    kind = torch.bfloat16 if rounded else torch.float32
    for layer in network.modules():
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            _PReLU(layer).install()
        elif isinstance(layer, nn.Linear) and layer.weight.numel() >= MANY and prefers_onednn():
            _WideLinear(layer, compiled and thin_products.proven(kind) is not None).install()
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and _halves(layer):
            _Blocks(layer).install()
        elif isinstance(layer, nn.Conv2d) and _is_square(layer):
            if layer.out_channels == 1 and layer.stride == (1, 1) and layer.in_channels >= 64:
                _OnePlane(layer).install()
            elif layer.in_channels <= FEW and layer.stride == (1, 1) and not rounded:
                _FewPlanes(layer).install()
            elif _steps(layer, WIDE):
                StridedForward(layer).install()
    convolve_by_fourier(network, rounded, compiled)
    join_doublings(network)
    if not rounded:  # torch's own are faster in bfloat16
        convolve_by_tiles(network, compiled)
        _keep_pixels_first(network)


def _keep_pixels_first(network: nn.Module) -> None:
    """Beside tiles, let layers compute in their layout at no cost."""
    none = nn.Identity()
    for chain in network.modules():
        if not isinstance(chain, nn.Sequential):
            continue
        layers = [none, none, *chain, none, none, none]
        runs = zip(*(layers[i:] for i in range(6)), strict=False)
        for few, between, tiled, after, pool, then in runs:
            by_tiles = tiled.__dict__.get("forward")
            if not isinstance(by_tiles, TiledForward):
                continue
            forward = few.__dict__.get("forward")
            if isinstance(forward, _FewPlanes) and isinstance(between, nn.PReLU):
                forward.tiled = (tiled.in_channels, tiled.out_channels), by_tiles.compiled
            pooled = isinstance(after, nn.PReLU) and isinstance(pool, nn.AvgPool2d)
            if pooled and isinstance(then, nn.Conv2d) and _steps(then, WIDE_PIXELS):
                StridedForward(then).install()


def _steps(layer: nn.Conv2d, planes: int) -> bool:
    """Whether it halves a picture, and has as many pairs of planes."""
    wide = layer.in_channels * layer.out_channels >= planes
    return wide and layer.stride == (2, 2) and _is_square(layer)


def _halves(layer: nn.MaxPool2d | nn.AvgPool2d) -> bool:
    pairs = [v if isinstance(v, tuple) else (v, v) for v in (layer.kernel_size, layer.stride)]
    plain = not getattr(layer, "return_indices", False) and getattr(layer, "dilation", 1) == 1
    return pairs == [(2, 2), (2, 2)] and layer.padding == 0 and plain


def _is_square(layer: nn.Conv2d) -> bool:
    k = layer.kernel_size[0]
    kept = layer.padding == ((k - 1) // 2,) * 2 and layer.dilation == (1, 1)
    kept = kept and layer.padding_mode == "zeros"
    return layer.kernel_size == (k, k) and kept and layer.groups == 1
