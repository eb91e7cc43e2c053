"""The parts of Lua Torch's `image` package that the face programs use: scale, the weights of
rgb2y, toDisplayTensor.

Numbers follow the package's C code (`generic/image.c`): `scale` samples bilinearly along an axis
that grows, corner pixels on corner pixels, and averages (fractional pixels weighted by their
share) along an axis that shrinks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LUMA = (0.299, 0.587, 0.114)  # of red, green, blue, as in `image.rgb2y` (Rec. 601)


def scale(images: torch.Tensor, width: int, height: int | None = None) -> torch.Tensor:
    """(...,H,W) -> (...,height,width) as `image.scale(src, width, height)` does in its default
    mode.

    Works along the rows first, then along the columns, in the images' own dtype, on their device;
    `height` left out means square. Rounds as the C code does, so float32 input follows Lua bit for
    bit on the CPU.
    """
    height = width if height is None else height
    rows = _scale_last_axis(images, width)
    return _scale_last_axis(rows.transpose(-1, -2), height).transpose(-1, -2).contiguous()


def _scale_last_axis(images: torch.Tensor, target: int) -> torch.Tensor:
    if images.shape[-1] == target:
        return images
    indices, weights, norm = _device_taps(images.shape[-1], target, images.dtype, images.device)
    total = images.index_select(-1, indices[0]) * weights[0]
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total = total + images.index_select(-1, index) * weight
    return total / norm


@functools.lru_cache(maxsize=64)
def _device_taps(
    source: int, target: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    indices, weights = _taps(source, target)
    norm = weights.sum(0, dtype=np.float32)
    return (
        torch.from_numpy(indices).to(device),
        torch.from_numpy(weights).to(device, dtype),
        torch.from_numpy(norm).to(device, dtype),
    )


def scale_matrix(source: int, target: int) -> np.ndarray:
    """`scale` along one axis as a float32 (target, source) matrix: scaled = matrix @ column."""
    if source == target:
        return np.eye(source, dtype=np.float32)
    indices, weights = _taps(source, target)
    matrix = np.zeros((target, source), np.float32)
    for index, weight in zip(indices, weights, strict=True):
        np.add.at(matrix, (np.arange(target), index), weight)
    return matrix / matrix.sum(1, keepdims=True)


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Which source pixels each target pixel is made of: indices int64 and weights float32, both
    (taps, target)."""
    if min(source, target) < 1:
        raise ValueError(f"cannot scale {source} pixels to {target}")
    return _growing_taps(source, target) if target > source else _shrinking_taps(source, target)


def _growing_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    step = np.float32(source - 1) / np.float32(target - 1)
    position = np.arange(target, dtype=np.float32) * step
    left = position.astype(np.int64)
    fraction = position - left.astype(np.float32)
    left[-1], fraction[-1] = source - 1, 0  # copied in C, whatever rounding says
    right = np.minimum(left + 1, source - 1)
    return np.stack([left, right]), np.stack([1 - fraction, fraction])


def _shrinking_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    step = np.float32(source) / np.float32(target)
    border = np.arange(target + 1, dtype=np.float32) * step
    whole = border.astype(np.int64)
    fraction = border - whole.astype(np.float32)
    first, last = whole[:-1], whole[1:]
    tap = np.arange((last - first).max() + 1)[:, None]
    index = first + tap
    weight = np.where(tap == 0, 1 - fraction[:-1], np.where(index < last, 1, fraction[1:]))
    weight = np.where((index > last) | (index >= source), 0, weight)
    return np.minimum(index, source - 1), weight.astype(np.float32)


def toDisplayTensor(
    images: torch.Tensor,
    nrow: int = 6,
    padding: int = 0,
    min: float | None = None,
    max: float | None = None,
) -> torch.Tensor:
    """(N,C,H,W) with C 1 or 3 -> one picture (C, rows*(H+padding), nrow*(W+padding)) with values
    0..1.

    Images run row by row; gaps and places left over hold the brightest value. `min` and `max` are
    the values that become 0 and 1 (left out: the images' own), what lies beyond is cut off. Named
    as in Lua.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"need (N,1,H,W) or (N,3,H,W) images, not {tuple(images.shape)}")
    count, channels, height, width = images.shape
    columns = nrow if nrow < count else count
    rows = -(-count // columns)
    height, width = height + padding, width + padding
    grid = images.new_full((rows * columns, channels, height, width), images.max().item())
    start = padding // 2
    cell = grid[:count, :, start : start + images.shape[2], start : start + images.shape[3]]
    cell.copy_(images)
    grid = grid.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return _to_unit_range(grid.reshape(channels, rows * height, columns * width), min, max)


def _to_unit_range(grid: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    low = grid.min().item() if low is None else low
    high = grid.max().item() if high is None else high
    shifted = grid - low
    return (shifted / (high - low) if high != low else shifted).clamp_(0, 1)
