"""The network: gather, k-layer, two Fourier layers, I-layer. Linear, complex, without biases
(unless asked).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.floating[Any]]
GPU_MEMORY = 1 << 30  # bytes of a gathered chunk there: few large kernels, not many small ones


@dataclass(frozen=True)
class Shape:
    """Sizes of one network; symbols in brackets are the paper's code's.

    image_side (N) and grid_side (K) in pixels, k_max in 1/FOV, coils (C), neighbours per grid point
    (n), time segments (T), outputs: images per example (bands or echoes). k_grid is "legacy" (the
    original's slightly mismatched grids) or "matched". memory: bytes that one gathered chunk of the
    k-layer may take; what fits a processor's cache is fastest.
    """

    image_side: int
    grid_side: int
    k_max: float
    coils: int
    neighbours: int
    segments: int
    outputs: int = 1
    k_grid: str = "legacy"
    trainable_fourier: bool = False
    shared_fourier: bool = True
    complex_bias: bool = False
    memory: int = field(default=1 << 21, compare=False)

    @property
    def taps(self) -> int:
        """P: inputs of one k-layer kernel."""
        return self.neighbours * self.coils


def grid_line(shape: Shape) -> Floats:
    """k of the grid's rows (and columns), (K,), in 1/FOV: cell-centred, or the integers when
    matched.
    """
    if shape.k_grid == "matched":
        return np.arange(shape.grid_side) - float(shape.grid_side // 2)
    step = 2 * shape.k_max / shape.grid_side
    return -shape.k_max + (np.arange(shape.grid_side) + 0.5) * step


def fourier_line(shape: Shape) -> Floats:
    """f of the Fourier matrix's rows, (K,): the grid line when matched, else linspace(-kMax, kMax,
    K).
    """
    if shape.k_grid == "matched":
        return grid_line(shape)
    return np.linspace(-shape.k_max, shape.k_max, shape.grid_side)


def fourier_matrix(shape: Shape) -> NDArray[np.complex128]:
    """F (K, N) = exp(i f x), without normalisation; x = 2 pi / N times the pixels' places."""
    side = shape.image_side
    places = np.arange(side) - side // 2 + pixel_shift(shape)
    return np.exp(1j * np.outer(fourier_line(shape), 2 * np.pi * places / side))


def pixel_shift(shape: Shape) -> float:
    """Pixels by which the Fourier layers' images lie beside the acquisition's: the original's grid,
    legacy, is symmetric, so that no pixel of an even side is its origin.
    """
    return 0.5 if shape.k_grid == "legacy" and shape.image_side % 2 == 0 else 0.0


def neighbour_table(trajectory: Floats, shape: Shape) -> NDArray[np.int64]:
    """Indices (K*K, n) of the n samples nearest each grid point, nearest first; equal distances by
    index.

    trajectory is (2, M) in 1/FOV, its first row along the grid's rows. Raises ValueError if M < n.
    """
    from scipy.spatial import cKDTree

    count = shape.neighbours
    if trajectory.shape[1] < count:
        raise ValueError(
            f"{count} neighbours need at least as many samples, not {trajectory.shape[1]}"
        )
    line = grid_line(shape)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    wider = min(trajectory.shape[1], count + 8)  # enough to order the usual ties by index
    distance, index = cKDTree(trajectory.T).query(points, k=wider)
    distance, index = distance.reshape(len(points), wider), index.reshape(len(points), wider)
    order = np.lexsort((index, np.round(distance, 9)), axis=1)[:, :count]
    return np.take_along_axis(index, order, 1).astype(np.int64)


class _GatherMultiply(torch.autograd.Function):
    """y[l] = W[l]^T g[l], g[l] = the samples of grid point l; both passes gather chunk by chunk.

    The gathered tensor (K*K, P, B) never exists as a whole: the backward pass gathers again.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, index: Tensor, memory: int) -> Tensor:
        ctx.save_for_backward(signal, weight, index)
        ctx.chunk = _chunk(signal, weight, memory)
        output = signal.new_empty((len(index), weight.shape[2], signal.shape[2]))
        for rows in _slices(len(index), ctx.chunk):
            gathered = _gather(signal, index[rows])
            torch.bmm(weight[rows].transpose(1, 2), gathered, out=output[rows])
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        signal, weight, index = ctx.saved_tensors
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        to_signal = torch.zeros_like(signal) if ctx.needs_input_grad[0] else None
        for rows in _slices(len(index), ctx.chunk):
            if to_weight is not None:
                gathered = _gather(signal, index[rows])
                to_weight[rows] = torch.bmm(gathered.conj(), gradient[rows].transpose(1, 2))
            if to_signal is not None:
                spread = torch.bmm(weight[rows].conj(), gradient[rows])
                taps = spread.view(-1, *signal.shape[1:])  # [rows*n,C,B]
                to_signal.index_add_(0, index[rows].flatten(), taps)
        return to_signal, to_weight, None, None


def _gather(signal: Tensor, index: Tensor) -> Tensor:
    """signal (M, C, B), index (rows, n) -> (rows, n C, B)."""
    taps = signal.index_select(0, index.flatten())
    return taps.view(len(index), -1, signal.shape[2])


def _chunk(signal: Tensor, weight: Tensor, memory: int) -> int:
    memory = GPU_MEMORY if signal.is_cuda else memory
    row_bytes = weight.shape[1] * signal.shape[2] * signal.element_size()
    return max(1, memory // row_bytes)


def _slices(count: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]


class KLayer(nn.Module):
    """One complex kernel per k-grid point and segment over the nearest samples of all coils.

    weight is R, (K*K, P, T); P counts neighbour-major: neighbour * C + coil.
    """

    index: Tensor

    def __init__(self, shape: Shape, index: Tensor) -> None:
        super().__init__()
        self._memory = shape.memory
        self.register_buffer("index", index, persistent=True)
        size = (shape.grid_side**2, shape.taps, shape.segments)
        self.weight = nn.Parameter(_truncated_normal(size, size[0] * size[1] * size[2]))

    def forward(self, signal: Tensor) -> Tensor:
        """(B, C, M) samples -> (K*K, T, B) grid values."""
        by_sample = signal.permute(2, 1, 0).contiguous()  # [M,C,B]
        output: Tensor = _GatherMultiply.apply(by_sample, self.weight, self.index, self._memory)
        return output


class FourierLayer(nn.Module):
    """Multiplication by F along one axis; F is fixed, or trained with an optional bias per position
    and segment.
    """

    matrix: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        matrix = torch.from_numpy(fourier_matrix(shape)).to(torch.complex64)
        if shape.trainable_fourier:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("matrix", matrix, persistent=False)
        self.bias = _bias(shape, shape.segments)

    def forward(self, grid: Tensor) -> Tensor:
        """(X, K, T, B) -> (X, N, T, B)."""
        output = torch.einsum("xltb,lw->xwtb", grid, self.matrix)
        return output if self.bias is None else output + self.bias[..., None]


class MixingLayer(nn.Module):
    """A dense random layer over axis and segments together; its output has one segment."""

    def __init__(self, shape: Shape, segments: int) -> None:
        super().__init__()
        size = (shape.grid_side * segments, shape.image_side)
        self.matrix = nn.Parameter(_truncated_normal(size, size[0] * size[1]))
        self.bias = _bias(shape, 1)

    def forward(self, grid: Tensor) -> Tensor:
        """(X, K, T, B) -> (X, N, 1, B)."""
        output = torch.einsum("xkb,kw->xwb", grid.flatten(1, 2), self.matrix)[:, :, None]
        return output if self.bias is None else output + self.bias[..., None]


class ILayer(nn.Module):
    """Per-pixel sum over the segments; weight is L, (N, N, T, outputs)."""

    def __init__(self, shape: Shape, segments: int) -> None:
        super().__init__()
        size = (shape.image_side, shape.image_side, segments, shape.outputs)
        self.weight = nn.Parameter(_truncated_normal(size, size[0] * size[1] * segments))

    def forward(self, images: Tensor) -> Tensor:
        """(N, N, T, B) -> (B, outputs, N, N)."""
        return torch.einsum("hwtb,hwto->bohw", images, self.weight)


class MinimalLinearNetwork(nn.Module):
    """Samples (B, C, M) complex64 -> images (B, outputs, N, N) complex64. See the room's docs for
    the formulas.
    """

    def __init__(self, shape: Shape, index: Tensor) -> None:
        """index: the neighbour table, (K*K, n) int64."""
        super().__init__()
        self.shape = shape
        self.k_layer = KLayer(shape, index)
        mixing = shape.trainable_fourier and not shape.shared_fourier
        self.columns = MixingLayer(shape, shape.segments) if mixing else FourierLayer(shape)
        self.rows = MixingLayer(shape, 1) if mixing else FourierLayer(shape)
        self.i_layer = ILayer(shape, 1 if mixing else shape.segments)

    def forward(self, signal: Tensor) -> Tensor:
        side = self.shape.grid_side
        grid = self.k_layer(signal).unflatten(0, (side, side))  # [K,K,T,B]
        half = self.columns(grid)  # [K,N,T,B]
        images = self.rows(half.transpose(0, 1)).transpose(0, 1)  # [N,N,T,B]
        output: Tensor = self.i_layer(images)
        return output

    def phase_only_penalty(self) -> Tensor:
        """mean ||F_y| - 1| + mean ||F_x| - 1| over the Fourier matrices."""
        return sum(
            ((layer.matrix.abs() - 1).abs().mean() for layer in (self.rows, self.columns)),
            torch.zeros(()),
        )


def build_network(shape: Shape, trajectory: Floats) -> MinimalLinearNetwork:
    """A freshly initialised network for a (2, M) trajectory; draws from torch's global
    generator.
    """
    return MinimalLinearNetwork(shape, torch.from_numpy(neighbour_table(trajectory, shape)))


def _bias(shape: Shape, segments: int) -> nn.Parameter | None:
    if not shape.complex_bias:
        return None
    return nn.Parameter(torch.zeros(shape.image_side, segments, dtype=torch.complex64))


def _truncated_normal(size: tuple[int, ...], count: int) -> Tensor:
    """Real and imaginary parts from a normal cut at 2 sigma, sigma = count^(-1/4)."""
    sigma = count**-0.25
    parts = torch.empty(*size, 2)
    nn.init.trunc_normal_(parts, std=sigma, a=-2 * sigma, b=2 * sigma)
    return torch.view_as_complex(parts)


def tensor_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Sizes of a network's stored tensors, complex ones with a last axis of 2, by arithmetic."""
    k, n, t = shape.grid_side, shape.image_side, shape.segments
    mixing = shape.trainable_fourier and not shape.shared_fourier
    sizes: dict[str, tuple[int, ...]] = {
        "k_layer.index": (k * k, shape.neighbours),
        "k_layer.weight": (k * k, shape.taps, t, 2),
        "i_layer.weight": (n, n, 1 if mixing else t, shape.outputs, 2),
    }
    for layer, into in (("columns", t), ("rows", 1)) if shape.trainable_fourier else ():
        sizes[f"{layer}.matrix"] = (k * into if mixing else k, n, 2)
    for layer in ("columns", "rows") if shape.complex_bias else ():
        sizes[f"{layer}.bias"] = (n, 1 if mixing else t, 2)
    return sizes


def to_label(images: Tensor) -> Tensor:
    """(B, outputs, N, N) complex -> (B, N, N * outputs, 2) real: outputs side by side along the
    width.
    """
    return torch.view_as_real(images.permute(0, 2, 1, 3).flatten(2).resolve_conj().contiguous())
