"""Lua nn's poolings, unpoolings and up-samplings beyond torch.nn's own.

Maps are (N,C,H,W) or (C,H,W), volumes (N,C,T,H,W) or (C,T,H,W). Source: the Lua package nn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def beyond(layer: Any, sizes: Sequence[int]) -> list[int]:
    """How far Lua's last window begins beyond the end of each axis, in pixels; -1: it does not.

    Where no axis is padded, Lua keeps a window that begins outside, and torch leaves it out.
    """
    dims = len(sizes)
    kernel, stride, padding, dilation = (
        (value,) * dims if isinstance(value, int) else tuple(value)
        for value in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
    )
    if not layer.ceil_mode or any(padding):
        return [-1] * dims
    spans = (d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    return [
        max(math.ceil((size - span) / step) * step - size, -1)
        for size, span, step in zip(sizes, spans, stride, strict=True)
    ]


def with_last_window(y: Tensor, axes: Sequence[bool], value: float) -> Tensor:
    """``y`` with one more window, of ``value``, along those of its last axes."""
    if not any(axes):
        return y
    return F.pad(y, [edge for more in reversed(axes) for edge in (0, int(more))], value=value)


class _Remembering:
    """A max pooling that can keep where its maxima were, for an unpooling that undoes it.

    In Lua a window without a pixel has the least number that its type can hold.
    """

    _remember = False
    indices: Tensor
    input_size: torch.Size

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self
        dims = 2 if isinstance(self, nn.MaxPool2d) else 3
        if not self._remember:
            y = super().forward(x)  # type: ignore[misc]
            begins = beyond(layer, x.shape[-dims:])
            least = torch.finfo(y.dtype).min if y.is_floating_point() else 0
            return with_last_window(y, [at >= 0 for at in begins], least)
        run = F.max_pool2d if dims == 2 else F.max_pool3d
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
        y, self.indices = run(x, *geometry, return_indices=True)
        self.input_size = x.shape
        return y


class SpatialMaxPooling(_Remembering, nn.MaxPool2d):
    """MaxPool2d to which an unpooling may belong (nn.SpatialMaxPooling)."""


class VolumetricMaxPooling(_Remembering, nn.MaxPool3d):
    """MaxPool3d to which an unpooling may belong (nn.VolumetricMaxPooling)."""


class _Average:
    """An average pooling with Lua's windows: the mean of no pixel is NaN, or 0 further out."""

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self
        begins = beyond(layer, x.shape[-2:] if isinstance(self, nn.AvgPool2d) else x.shape[-3:])
        y = super().forward(x)  # type: ignore[misc]
        y = with_last_window(y, [at > 0 for at in begins], 0.0)
        return with_last_window(y, [at == 0 for at in begins], math.nan)


class SpatialAveragePooling(_Average, nn.AvgPool2d):
    """AvgPool2d (nn.SpatialAveragePooling)."""


class VolumetricAveragePooling(_Average, nn.AvgPool3d):
    """AvgPool3d (nn.VolumetricAveragePooling)."""


class SpatialUndividedPooling(SpatialAveragePooling):
    """Means times the size of the window (nn.SpatialAveragePooling with ``divide`` false).

    Where a window is cut, or without the padding counted, that is more than the sum.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel: Any = self.kernel_size
        return super().forward(x) * math.prod(kernel)


class MaxUnpooling(nn.Module):
    """Put values where ``pooling`` found its last maxima, zeros elsewhere (nn.*MaxUnpooling)."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling
        pooling._remember = True  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        pooling: Any = self.pooling
        if not hasattr(pooling, "indices"):
            raise ValueError("an unpooling runs after its pooling, in the same network")
        dims = 2 if isinstance(pooling, nn.MaxPool2d) else 3
        lead, sizes = x.shape[:-dims], pooling.input_size[-dims:]
        flat = x.new_zeros((*lead, math.prod(sizes)))
        index = pooling.indices.reshape((*lead, -1))
        return flat.scatter(-1, index, x.reshape((*lead, -1))).reshape((*lead, *sizes))


class FractionalMaxPooling(nn.Module):
    """Maximum over windows at pseudo-random places (nn.*FractionalMaxPooling).

    ``pool``: sizes of the windows; ``out``: of the output, or ``ratio`` of output to input, for
    height and width, then time, the order of Lua's volumes here. ``samples``: (N,C,1 each) numbers
    of 0..1 that place the windows; None or of another batch: drawn anew, as they are in every call
    unless ``fixed``.
    """

    samples: Tensor | None

    def __init__(
        self,
        pool: Sequence[int],
        out: Sequence[int] | None,
        ratio: Sequence[float] | None = None,
        samples: Tensor | None = None,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        self.pool, self.fixed = tuple(pool), fixed
        self.out = None if out is None else tuple(out)
        self.ratio = None if ratio is None else tuple(ratio)
        self.register_buffer("samples", samples)

    def forward(self, x: Tensor) -> Tensor:
        dims = len(self.pool)
        batch = x if x.dim() == dims + 2 else x[None]
        out = self.out
        if self.ratio is not None:
            sizes = zip(batch.shape[2:], self.ratio, strict=True)
            out = tuple(math.floor(n * ratio) for n, ratio in sizes)
        shape = (*batch.shape[:2], dims)
        if not self.fixed or self.samples is None or self.samples.shape != shape:
            self.samples = torch.rand(shape, dtype=x.dtype, device=x.device)
        samples = self.samples.to(x)
        if dims == 3:  # Lua's are for the last dimension first
            samples = samples.flip(-1)
        run = F.fractional_max_pool2d if dims == 2 else F.fractional_max_pool3d
        y = run(batch, self.pool, output_size=out, _random_samples=samples)
        return y if x.dim() == dims + 2 else y[0]


class FeatureLPPooling(nn.Module):
    """p-norm over windows of features, the first dimension after the batch (nn.FeatureLPPooling).

    Powers are of the numbers themselves: an odd one of negative numbers may have no root.
    """

    def __init__(self, width: int, stride: int, power: float, batch_mode: bool) -> None:
        super().__init__()
        self.width, self.stride, self.power, self.batch_mode = width, stride, power, batch_mode

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(int(self.batch_mode), self.width, self.stride)
        return windows.pow(self.power).sum(-1).pow(1 / self.power)


class SpatialSubSampling(nn.Module):
    """Sum over windows, times a weight, plus a bias of each plane (nn.SpatialSubSampling)."""

    def __init__(
        self, planes: int, kernel_size: tuple[int, int], stride: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        self.planes, self.kernel_size, self.stride = planes, kernel_size, stride
        self.weight = nn.Parameter(torch.ones(planes))
        self.bias = nn.Parameter(torch.zeros(planes))

    def forward(self, x: Tensor) -> Tensor:
        sums = F.avg_pool2d(x, self.kernel_size, self.stride, divisor_override=1)
        return sums * self.weight[:, None, None] + self.bias[:, None, None]


def resize_linear(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Linear interpolation of the dimensions after (N,C), corners aligned.

    Lua computes places in float whatever the type, so that doubles are not interpolated by torch.
    """
    if x.dtype != torch.float64:
        mode = "bilinear" if x.dim() == 4 else "trilinear"
        return F.interpolate(x, size=tuple(sizes), mode=mode, align_corners=True)
    for dim, size in enumerate(sizes, start=2):
        last = x.shape[dim] - 1
        ratio = torch.tensor(last).float() / (size - 1) if size > 1 else torch.tensor(0.0)
        place = ratio * torch.arange(size).float()
        low = place.long()
        part = (place - low.float()).to(x).reshape([-1] + [1] * (x.dim() - 1 - dim))
        low = low.to(x.device)
        high = (low + 1).clamp(max=last)
        x = x.index_select(dim, low) * (1 - part) + x.index_select(dim, high) * part
    return x


class UpSampling(nn.Module):
    """Enlarge maps or volumes ``scale_factor`` times; "linear" aligns corners (nn.UpSampling).

    With ``sizes`` (depth or None, height, width) a linear one makes those instead.
    """

    def __init__(
        self,
        scale_factor: int | None,
        mode: str = "nearest",
        sizes: tuple[int | None, int, int] | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("nearest", "linear"):
            raise ValueError(f"mode {mode!r} is not nearest or linear")
        if (scale_factor is None) == (sizes is None) or (sizes and mode == "nearest"):
            raise ValueError("it takes a scale factor, or sizes with the mode linear")
        self.scale_factor, self.mode, self.sizes = scale_factor, mode, sizes

    def forward(self, x: Tensor) -> Tensor:
        if self.sizes is not None:
            sizes = self.sizes if x.dim() == 5 else self.sizes[1:]
            if None in sizes:
                raise ValueError("UpSampling of volumes to a size needs the depth")
            return resize_linear(x, [int(size or 0) for size in sizes])
        factor: Any = self.scale_factor
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=float(factor))
        return resize_linear(x, [size * factor for size in x.shape[2:]])


class SpatialUpSamplingBilinearTo(nn.Module):
    """Bilinear up-sampling to a size, corners aligned (nn.SpatialUpSamplingBilinear{...})."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        batch = x if x.dim() == 4 else x[None]
        y = resize_linear(batch, (self.height, self.width))
        return y if x.dim() == 4 else y[0]


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


class SpatialUpSamplingBilinear(nn.Module):
    """Enlarge ``scale_factor`` times, corners aligned (nn.SpatialUpSamplingBilinear).

    (N,C,H,W) or (C,H,W) -> H and W times ``scale_factor``, as nn has had it since 2016.
    """

    def __init__(self, scale_factor: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x: Tensor) -> Tensor:
        batch = x if x.dim() == 4 else x[None]
        larger = resize_linear(batch, [size * self.scale_factor for size in batch.shape[2:]])
        return larger if x.dim() == 4 else larger[0]
