"""Layers on CUDA whose small kernels are joined: bias, rectifier, 2x2 pooling and dropout in one
pass over memory, and slopes of weights beside what follows them.

As in `cpu_layers` only the `forward` of single layers is exchanged: a network stays what files,
windows and Lua know. What runs where bias, rectifier, pooling and dropout follow a convolution or
Linear: this layer without its bias, then all of them at once in the rectifier's place; the
pooling's and the dropout's pass on what they get.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from eyescream_py.networks import few_planes, strided_products
from eyescream_py.networks.joinable import is_plain, is_rectifier, joined, left_alone
from eyescream_py.networks.modes import FastForward, rounded
from eyescream_py.networks.wide_slopes import own_values, suits, weight_slopes
from eyescream_py.system.kernels_in_torch import AVERAGE, MAXIMUM, NO_POOL
from eyescream_py.system.lanes import FIRST, Lanes
from eyescream_py.torch7.layers.containers import ConcatTable
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout


@dataclass(frozen=True)
class Tools:
    """What every layer of a network computes with: `kernels` offers what `system.gpu_kernels`
    does. Planes of convolutions are filled up to a `multiple`; 0: to what the type's products want.
    """

    kernels: Any
    lanes: Lanes
    multiple: int = 0

    def filled(self, planes: int, dtype: torch.dtype) -> int:
        """Planes with which cuDNN computes at once: it would fill others up itself, each time."""
        multiple = self.multiple or (8 if dtype.itemsize == 2 else 1)
        return -(-planes // multiple) * multiple


@dataclass(frozen=True)
class _Way:
    """How one output is made: `mask` and `scale` of the dropout, pooling, rows or planes, and how
    many of them.
    """

    tools: Tools
    wide: int
    mask: Tensor | None = None
    scale: float = 1.0
    pool: int = NO_POOL
    flat: bool = False


class _Activation(torch.autograd.Function):
    """Of (x, bias [C], slope [1], how)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, slope: Tensor, way: _Way) -> Tensor:
        x = _planes_last(x) if x.dim() == 4 else x.contiguous()
        ctx.save_for_backward(x, bias, slope)
        ctx.way = way
        activate = way.tools.kernels.activate
        return activate(x, bias, slope, way.mask, way.scale, way.pool, way.flat, way.wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, slope = ctx.saved_tensors
        way: _Way = ctx.way
        kernels, learns = way.tools.kernels, ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        dx, parts = kernels.activate_backward(
            grads[0], x, bias, slope, way.mask, way.scale, way.pool, learns
        )
        if parts is None:
            return dx, None, None, None
        with way.tools.lanes.beside(*parts):
            of_bias, of_slope = kernels.add_parts(parts, bias, slope)
        return dx, of_bias, of_slope if ctx.needs_input_grad[2] else None, None


class _Product(torch.autograd.Function):
    """x [N,in] times weight [out,in], with bias or without."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Beside) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how, ctx.biased = how, bias is not None
        return x.mm(weight.t()) if bias is None else torch.addmm(bias, x, weight.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), g, how = ctx.saved_tensors, grads[0], ctx.how
        of_x = of_weight = of_bias = lane = None
        if ctx.needs_input_grad[1]:
            with how.tools.lanes.beside(g, x) as lane:
                of_weight = g.t().mm(x)
                of_bias = g.sum(0) if ctx.biased else None
        if ctx.needs_input_grad[0]:
            of_x = g.mm(weight)
        how.learn(of_weight, lane)
        return of_x, of_weight, of_bias, None


class _Convolution(torch.autograd.Function):
    """x [N,in or more,H,W] convolved as `layer` does, with bias or without: then with all planes
    that are computed, and x may have as many, beyond its own of zeros. Where planes are to be
    filled up, x may be of another type than the weight, too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Beside) -> Tensor:
        layer, tools = how.layer, how.tools
        ctx.how, ctx.biased, ctx.planes = how, bias is not None, x.shape[1]
        out, inputs = (tools.filled(planes, weight.dtype) for planes in weight.shape[:2])
        if x.shape[1] != inputs:
            x = tools.kernels.widen(x, len(x), inputs, weight.dtype)
        if weight.shape[:2] != (out, inputs):
            weight = tools.kernels.widen(weight, out, inputs, weight.dtype)
        x = _planes_last(x)
        ctx.save_for_backward(x, weight)
        if own_values(layer, x, weight):
            y = tools.kernels.convolve(x, weight, False)
        else:
            y = torch.convolution(x, weight, None, *_settings(layer))
        return y if bias is None else y[:, : len(bias)] + bias.view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), g, how, tools = ctx.saved_tensors, grads[0], ctx.how, ctx.how.tools
        of_x = of_weight = of_bias = lane = None
        wide = g if g.shape[1] == len(weight) else tools.kernels.widen(
            g, len(g), len(weight), g.dtype
        )  # fmt: skip
        wide = _planes_last(wide)
        if ctx.needs_input_grad[1]:
            with tools.lanes.beside(g, wide, x, weight) as lane:
                of_weight = _of_weight(wide, x, weight, how.layer, tools.kernels)
                of_bias = g.sum((0, 2, 3)) if ctx.biased else None
        if ctx.needs_input_grad[0]:
            if own_values(how.layer, x, weight):
                of_x = tools.kernels.convolve(wide, weight, True)
            else:
                of_x = _slopes(wide, x, weight, how.layer, True)
            of_x = of_x[:, : ctx.planes]
        how.learn(of_weight, lane)
        return of_x, of_weight, of_bias, None


def _of_weight(g: Tensor, x: Tensor, weight: Tensor, layer: nn.Conv2d, kernels: Any) -> Tensor:
    """The slope of the layer's weight, without the planes that were filled in."""
    if suits(layer, x, g):
        found = weight_slopes(x, g, layer.kernel_size[0], kernels)
    else:
        found = _slopes(g, x, weight, layer, False)
    if found.shape == layer.weight.shape:
        return found
    own = found[: layer.out_channels, : layer.in_channels]
    return own.contiguous(memory_format=torch.channels_last)


def _slopes(g: Tensor, x: Tensor, weight: Tensor, layer: nn.Conv2d, of_x: bool) -> Tensor:
    """Of x, or of the weight."""
    found = torch.ops.aten.convolution_backward(
        g, x, weight, None, *_settings(layer), (of_x, not of_x, False)
    )
    slope: Tensor = found[0 if of_x else 1]
    return slope


def _settings(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.stride, layer.padding, layer.dilation, False, (0, 0), 1


def _planes_last(x: Tensor) -> Tensor:
    """[N,C,H,W] in channels_last, and so that torch sees it: of a single plane, or a single pixel,
    strides alone do not tell, and it would compute in the other layout.
    """
    _, planes, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    return x.as_strided(x.shape, (planes * height * width, 1, width * planes, planes))


class EarlyStep(Protocol):
    """A step of an optimizer that weights may take one by one: `game.fused_adam.FusedAdam`."""

    def takes(self, weight: Tensor) -> bool:
        """Whether this parameter may take its step now."""
        ...

    def take(self, weight: Tensor, slope: Tensor) -> None:
        """Change it by its slope."""
        ...


class Beside(FastForward):
    """A convolution or Linear whose weights' slopes are computed beside what follows; `bare`:
    without its bias. `step` may have its weight's slope before the others' are found.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, tools: Tools, bare: bool) -> None:
        super().__init__(layer)
        self.tools, self.bare = tools, bare
        self.step: EarlyStep | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = super().__deepcopy__(memo)
        twin.step = None  # which is the original's
        return twin

    def learn(self, slope: Tensor | None, lane: Any) -> None:
        """Let the weight take its step with the `slope` found on `lane`, if it may: nothing that
        the current stream is given from here on reads the weight of before.
        """
        if slope is not None and self.step and self.step.takes(self.layer.weight):
            with self.tools.lanes.behind(slope, lane=lane):
                self.step.take(self.layer.weight, slope)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same; x stays as it is where its planes are to be filled up, which rounds it, too."""
        weight, bias = rounded(self.layer.weight), None if self.bare else self.layer.bias
        wanted = self.tools.filled(weight.shape[1], weight.dtype)
        fills = isinstance(self.layer, nn.Conv2d) and x.shape[1] != wanted
        return x if fills else rounded(x), weight, None if bias is None else rounded(bias)

    def __call__(self, x: Tensor) -> Tensor:
        if lacks_batch(x, self.layer):
            return self(x[None])[0]
        x, weight, bias = self.operands(x)
        if isinstance(self.layer, nn.Linear):
            y: Tensor = _Product.apply(x, weight, bias, self)
        elif few_planes.suits(self.layer, x):
            y = few_planes.FewPlanes.apply(x, weight, bias, self.tools.kernels, self.tools.lanes)
        elif strided_products.suits(self.layer, x):
            step = self.layer.stride[0]
            y = strided_products.StridedProducts.apply(x, weight, bias, step, self)
        else:
            y = _Convolution.apply(x, weight, bias, self)
            if bias is None and not self.bare:
                y = y[:, : self.layer.out_channels]
        return y


def lacks_batch(x: Tensor, layer: nn.Module) -> bool:
    """Whether x, which goes into or comes out of a layer with weights, is one sample alone."""
    return x.dim() == (1 if isinstance(layer, nn.Linear) else 3)


class Passed(FastForward):
    """A layer whose work is done by a rectifier before it."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


class Rectifier(FastForward):
    """A rectifier that also adds the bias of the layer before it, pools and drops out.

    `follows` is the layer behind all that, if there is one in the same sequence.
    """

    def __init__(
        self, layer: nn.Module, before: nn.Conv2d | nn.Linear, after: Sequence[nn.Module],
        follows: nn.Module | None, tools: Tools,
    ) -> None:  # fmt: skip
        super().__init__(layer)
        self.before, self.tools, self.after = before, tools, list(after)
        self.flat = isinstance(follows, View)
        # the planes that a convolution wants are filled in on the way
        self.fills = isinstance(before, nn.Conv2d) and _is_wide(follows)
        leak = getattr(layer, "negative_slope", None)
        # of the masters' type: rounded to 16 bits it would be another
        self.leak = None if leak is None else before.weight.new_full((1,), leak)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = super().__deepcopy__(memo)
        twin.before = memo[id(self.before)]
        # those behind it are copied after it: `memo` may not know them yet
        twin.after = copy.deepcopy(self.after, memo)
        return twin

    def __call__(self, x: Tensor) -> Tensor:
        if lacks_batch(x, self.before):
            return self(x[None])[0]
        pools = [layer for layer in self.after if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d)]
        planes = len(self.before.weight)
        wide = self.tools.filled(planes, x.dtype) if self.fills else planes
        if pools and (x.shape[2] % 2 or x.shape[3] % 2):
            # a border that pooling leaves out: by torch's own layers
            y = self._activated(x, _Way(self.tools, wide))
            for layer in self.after:
                y = type(layer).forward(layer, y)
            return y
        kind = NO_POOL
        if pools:
            kind = AVERAGE if isinstance(pools[0], nn.AvgPool2d) else MAXIMUM
        mask, scale = self._dropped(x, planes, 2 if pools else 1)
        return self._activated(x, _Way(self.tools, wide, mask, scale, kind, self.flat))

    def _activated(self, x: Tensor, way: _Way) -> Tensor:
        slope = self.layer.weight if self.leak is None else self.leak
        y: Tensor = _Activation.apply(x, self.before.bias, slope, way)
        return y

    def _dropped(self, x: Tensor, planes: int, shrink: int) -> tuple[Tensor | None, float]:
        """What the dropout of an output of x [N,.,H,W] or [N,.] multiplies by."""
        layer = next((a for a in self.after if isinstance(a, Dropout | SpatialDropout)), None)
        whole = isinstance(layer, SpatialDropout)
        # numbers are drawn where the layers themselves would draw them
        if layer is None or (layer.p == 0 and not whole):
            return None, 1.0
        scaled = not whole and layer.scaled
        if not (layer.training or layer.stochastic_inference):
            return None, 1.0 if scaled else 1 - layer.p
        shape = torch.Size((len(x), planes))
        if not whole and x.dim() == 4:
            shape = torch.Size((len(x), x.shape[2] // shrink, x.shape[3] // shrink, planes))
        mask = layer._bernoulli(x, shape, 1 - layer.p)
        return mask, 1 / (1 - layer.p) if scaled else 1.0


def _is_wide(layer: nn.Module | None) -> bool:
    """Whether a layer takes more planes than its own: a convolution of ours, or soon to be one."""
    return isinstance(layer, nn.Conv2d) and is_plain(layer)


class Branches(FastForward):
    """The children of a ConcatTable at the same time, each on a stream of its own."""

    def __init__(self, layer: ConcatTable, device: torch.device) -> None:
        super().__init__(layer)
        self.device = device
        self.streams = [torch.cuda.Stream(device, FIRST) for _ in layer][1:]

    def __call__(self, x: Any) -> list[Any]:
        main = torch.cuda.current_stream(self.device)
        made = []
        for branch, stream in zip(self.layer, [main, *self.streams], strict=True):
            if stream is not main:
                stream.wait_stream(main)
            with torch.cuda.stream(stream):
                made.append(branch(x))
        for stream in self.streams:
            main.wait_stream(stream)
        return made


def fuse(network: nn.Module, tools: Tools) -> None:
    """Exchange the `forward` of all layers of `network` that run faster so; what has another one
    already keeps it.
    """
    device = next(network.parameters()).device
    alone = left_alone(network)
    for layer in network.modules():
        if layer in alone:
            continue
        if isinstance(layer, nn.Sequential):
            # what is left alone is joined to nothing
            chain = [nn.Identity() if child in alone else child for child in layer]
            for number, child in enumerate(chain):
                if is_plain(child):
                    _fuse_from(child, chain[number + 1 :], tools)
        elif type(layer) is ConcatTable and device.type == "cuda":
            Branches(layer, device).install()


def learn_early(network: nn.Module, step: EarlyStep) -> None:
    """Let fused layers give `step`, which is that of all of the network's parameters, the slopes of
    their weights as soon as it takes them.
    """
    for layer in network.modules():
        forward = layer.__dict__.get("forward")
        if isinstance(forward, Beside):
            forward.step = step


def _fuse_from(first: nn.Module, follows: Sequence[nn.Module], tools: Tools) -> None:
    """Exchange a layer with weights and what can be joined to it."""
    bare = bool(follows) and is_rectifier(follows[0]) and first.bias is not None
    Beside(first, tools, bare).install()  # type: ignore[arg-type]
    if bare:
        after = joined(follows[1:])
        behind = next(iter(follows[1 + len(after) :]), None)
        Rectifier(follows[0], first, after, behind, tools).install()  # type: ignore[arg-type]
        for layer in after:
            Passed(layer).install()
