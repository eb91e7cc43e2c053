"""Layers with the semantics of Lua Torch 7's nn that torch.nn lacks.

Classes carry their Lua names and Lua's argument conventions: dimensions and indices count from 1.
Layers that torch.nn already has (Linear, Conv2d, BatchNorm, pooling, Sigmoid, ...) are used as
they are; a PReLU with one shared slope is ``torch.nn.PReLU(1)``. ``parameters()`` of every
container runs in the order of Lua's ``getParameters``: children in order, weight before bias.

Sources: the Lua packages nn, dpnn (WhiteNoise) and eyescream's SpatialConvolutionUpsample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyescream_py.torch7.random import RandomSource


class StochasticLayer(nn.Module):
    """A layer that draws random numbers: from ``source``, or torch's default generator if None."""

    source: RandomSource | None = None

    def _bernoulli(self, x: Tensor, shape: torch.Size, p: float) -> Tensor:
        mask = torch.empty(shape, dtype=x.dtype, device=x.device)
        return mask.bernoulli_(p) if self.source is None else self.source.bernoulli_(mask, p)

    def _normal(self, x: Tensor, mean: float, std: float) -> Tensor:
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if self.source is None:
            return noise.normal_(mean, std)
        return self.source.normal_(noise, mean, std)

    def _uniform(self, x: Tensor) -> Tensor:
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return noise.uniform_() if self.source is None else self.source.uniform_(noise, 0, 1)


def set_random_source(module: nn.Module, source: RandomSource | None) -> None:
    """Make every stochastic layer inside ``module`` draw from ``source`` (None: torch's own)."""
    for layer in module.modules():
        if isinstance(layer, StochasticLayer):
            layer.source = source


class Dropout(StochasticLayer):
    """Zero each element with probability ``p`` while training (nn.Dropout).

    ``scaled`` (Lua's v2): training divides by 1-p and evaluation is the identity. Unscaled (files
    of before 2014): training does not scale, evaluation multiplies by 1-p.
    ``stochastic_inference`` drops in evaluation too.
    """

    def __init__(
        self, p: float = 0.5, scaled: bool = True, stochastic_inference: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability {p} is outside 0 <= p < 1")
        self.p = p
        self.scaled = scaled
        self.stochastic_inference = stochastic_inference

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0:
            return x
        if not (self.training or self.stochastic_inference):
            return x if self.scaled else x * (1 - self.p)
        if self.scaled and self.source is None:
            return F.dropout(x, self.p, training=True)
        mask = self._bernoulli(x, x.shape, 1 - self.p)
        return x * (mask.div_(1 - self.p) if self.scaled else mask)

    def extra_repr(self) -> str:
        return f"{self.p:g}" + ("" if self.scaled else ", scaled=False")


class SpatialDropout(StochasticLayer):
    """Zero whole channels of (N,C,H,W) or (C,H,W) with probability ``p`` (nn.SpatialDropout).

    Unlike Dropout this does not scale while training; evaluation multiplies by 1-p.
    """

    def __init__(self, p: float = 0.5, stochastic_inference: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability {p} is outside 0..1")
        self.p = p
        self.stochastic_inference = stochastic_inference

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.stochastic_inference):
            return x * (1 - self.p)
        mask = self._bernoulli(x, x.shape[:-2], 1 - self.p)  # [N,C]
        return x * mask[..., None, None]

    def extra_repr(self) -> str:
        return f"{self.p:g}"


class WhiteNoise(StochasticLayer):
    """Add normal noise while training; evaluation adds the mean alone (dpnn's nn.WhiteNoise)."""

    def __init__(self, mean: float = 0.0, std: float = 0.1) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self._normal(x, self.mean, self.std)
        return x + self.mean if self.mean else x

    def extra_repr(self) -> str:
        return f"mean={self.mean:g}, std={self.std:g}"


class ConcatTable(nn.ModuleList):
    """Give one input to every child; the list of their outputs (nn.ConcatTable)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__(branches)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [branch(x) for branch in self]


class ParallelTable(nn.ModuleList):
    """Give the i-th input to the i-th child; the list of their outputs (nn.ParallelTable)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__(branches)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if len(inputs) < len(self):
            raise ValueError(f"ParallelTable of {len(self)} children got {len(inputs)} inputs")
        return [branch(x) for branch, x in zip(self, inputs, strict=False)]  # as in Lua


class Concat(nn.ModuleList):
    """Give one input to every child and join the outputs on a 1-based dimension (nn.Concat)."""

    def __init__(self, dimension: int, *branches: nn.Module) -> None:
        super().__init__(branches)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], python_dim(self.dimension))


def python_dim(dimension: int) -> int:
    """A Lua dimension (1 is the first, -1 the last) as a Python one."""
    return dimension - 1 if dimension > 0 else dimension


def batched_dim(dimension: int, x: Tensor, n_input_dims: int | None) -> int:
    """Python dimension for a Lua one that counts from after the batch dimension.

    Lua's rule: only when ``x`` has exactly ``n_input_dims`` + 1 dimensions is its first the batch.
    """
    has_batch = n_input_dims is not None and x.dim() == n_input_dims + 1
    return python_dim(dimension) + int(has_batch and dimension > 0)


class JoinTable(nn.Module):
    """Join a list of tensors on a 1-based dimension (nn.JoinTable).

    ``JoinTable(2)`` joins (N,F1) and (N,F2) to (N,F1+F2). With ``n_input_dims`` the dimension
    counts without the batch if the inputs have one dimension more than that.
    """

    def __init__(self, dimension: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension = dimension
        self.n_input_dims = n_input_dims

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(inputs), batched_dim(self.dimension, inputs[0], self.n_input_dims))

    def extra_repr(self) -> str:
        return f"{self.dimension}"


def in_shape(x: Tensor, first: Tensor) -> Tensor:
    """``x`` in the shape of ``first``: Lua's arithmetic goes by elements, not shapes."""
    same = x.shape == first.shape or x.numel() != first.numel()
    return x if same else x.reshape(first.shape)


class CAddTable(nn.Module):
    """Sum of a list of tensors (nn.CAddTable)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = total + in_shape(x, total)
        return total


class CMulTable(nn.Module):
    """Product of a list of tensors (nn.CMulTable)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        product = inputs[0]
        for x in inputs[1:]:
            product = product * in_shape(x, product)
        return product


class Identity(nn.Identity):
    """Return the input, which may be a list (nn.Identity)."""


class Copy(nn.Module):
    """Lua's transfer between CPU and GPU or between types (nn.Copy).

    Here networks live on one device; ``dtype`` None leaves the type as it is too, but for bytes and
    the like, which become ``real``: in their own type a picture minus 128 would begin anew at 255.
    """

    def __init__(self, dtype: torch.dtype | None = None, real: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype, self.real = dtype, real

    def forward(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self.forward(part) for part in x]
        dtype = self.dtype or (None if x.is_floating_point() else self.real)
        return x if dtype is None else x.to(dtype)


class View(nn.Module):
    """Reshape each sample to ``sizes``, one of which may be -1 (nn.View).

    Without ``num_input_dims`` the batch size follows from the number of elements; Lua then drops a
    batch of one, which ``keep_batch`` keeps. With ``num_input_dims`` dimensions beyond that many
    are the batch.
    """

    def __init__(
        self, *sizes: int, num_input_dims: int | None = None, keep_batch: bool = True
    ) -> None:
        super().__init__()
        if sum(size < 0 for size in sizes) > 1 or any(size < -1 for size in sizes):
            raise ValueError(f"View sizes {sizes}: at most one may be -1, none less")
        self.sizes = tuple(sizes)
        self.num_input_dims = num_input_dims
        self.num_elements = math.prod(size for size in sizes if size >= 0)
        self.keep_batch = keep_batch

    def forward(self, x: Tensor) -> Tensor:
        batch = self._batch_size(x.shape)
        return x.reshape(self.sizes if batch is None else (batch, *self.sizes))

    def _batch_size(self, shape: torch.Size) -> int | None:
        sample_dims = len(shape) if self.num_input_dims is None else self.num_input_dims
        outer = math.prod(shape[: max(len(shape) - sample_dims, 0)])
        inner = math.prod(shape[-sample_dims:])
        if self.num_elements == 0 or inner % self.num_elements:
            raise ValueError(f"View{self.sizes} cannot take an input of shape {tuple(shape)}")
        batch = outer if -1 in self.sizes else outer * inner // self.num_elements
        if batch != 1:
            return batch
        if self.num_input_dims is None:
            return 1 if self.keep_batch and len(shape) > 1 and shape[0] == 1 else None
        return 1 if len(shape) > self.num_input_dims else None

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.sizes))


def keep_batches(module: nn.Module) -> nn.Module:
    """Make every View inside ``module`` keep a batch of one, as the program's own networks do."""
    for layer in module.modules():
        if isinstance(layer, View):
            layer.keep_batch = True
    return module


class Reshape(nn.Module):
    """Reshape to ``sizes`` (nn.Reshape).

    ``batch_mode`` True: the first dimension is the batch; False: it is not; None: it is, unless
    the whole input has just the elements of ``sizes`` and a first dimension other than 1.
    """

    def __init__(self, *sizes: int, batch_mode: bool | None = None) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.batch_mode = batch_mode

    def forward(self, x: Tensor) -> Tensor:
        has_batch = self.batch_mode
        if has_batch is None:
            has_batch = x.numel() != math.prod(self.sizes) or x.shape[0] == 1
        return x.reshape((x.shape[0], *self.sizes) if has_batch else self.sizes)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.sizes))


class _WithConstant(nn.Module):
    """A layer of one number, by which bytes and the like become real numbers, as in Lua."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def extra_repr(self) -> str:
        return f"{self.constant:g}"


class MulConstant(_WithConstant):
    """Multiply by a number (nn.MulConstant)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(self.constant)


class AddConstant(_WithConstant):
    """Add a number (nn.AddConstant)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + float(self.constant)


class LeakyReLU(nn.LeakyReLU):
    """x where positive, else ``negval`` * x; 0.333 is the face generator's default slope."""

    def __init__(self, negval: float = 0.333) -> None:
        super().__init__(negval)

    @property
    def negval(self) -> float:
        """The slope where x is negative, by Lua's name."""
        return self.negative_slope


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


class SpatialUpSamplingNearest(nn.Module):
    """Repeat each pixel ``scale_factor`` times in both directions (nn.SpatialUpSamplingNearest).

    (N,C,H,W) or (C,H,W) -> H and W times ``scale_factor``.
    """

    def __init__(self, scale_factor: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x: Tensor) -> Tensor:
        batch = x if x.dim() == 4 else x[None]
        larger = F.interpolate(batch, scale_factor=float(self.scale_factor), mode="nearest")
        return larger if x.dim() == 4 else larger[0]

    def extra_repr(self) -> str:
        return f"{self.scale_factor}"
