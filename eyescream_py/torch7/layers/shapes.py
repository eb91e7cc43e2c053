"""Lua nn's layers that change a tensor's shape, type or extent.

Dimensions and indices count from 1. Where a layer takes ``n_input_dims``, an input with one
dimension more than that has the batch first, and the layer's dimension counts from after it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def python_dim(dimension: int) -> int:
    """A Lua dimension (1 is the first, -1 the last) as a Python one."""
    return dimension - 1 if dimension > 0 else dimension


def batched_dim(dimension: int, x: Tensor, n_input_dims: int | None) -> int:
    """Python dimension for a Lua one that counts from after the batch dimension.

    Lua's rule: only when ``x`` has exactly ``n_input_dims`` + 1 dimensions is its first the batch.
    """
    has_batch = n_input_dims is not None and x.dim() == n_input_dims + 1
    return python_dim(dimension) + int(has_batch and dimension > 0)


def at_least_1d(x: Tensor) -> Tensor:
    """Lua has no tensors without dimensions: a single number is of shape (1,)."""
    return x if x.dim() else x.reshape(1)


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


class Narrow(nn.Module):
    """``length`` slices from ``index`` on; a negative length counts from the end (nn.Narrow).

    With a negative index Lua takes the slices from the first on, all but ``length`` of them.
    """

    def __init__(self, dimension: int, index: int, length: int = 1) -> None:
        super().__init__()
        self.dimension, self.index, self.length = dimension, index, length

    def forward(self, x: Tensor) -> Tensor:
        dim = python_dim(self.dimension)
        size, length = x.shape[dim], self.length
        if length < 0:
            length = size - self.index + length + 2
        if self.index < 0:
            return x.narrow(dim, 0, size - length).clone()
        return x.narrow(dim, self.index - 1, length).clone()


class Select(nn.Module):
    """One slice, its dimension removed (nn.Select). A negative index counts from the end."""

    def __init__(self, dimension: int, index: int) -> None:
        super().__init__()
        self.dimension, self.index = dimension, index

    def forward(self, x: Tensor) -> Tensor:
        y = x.select(python_dim(self.dimension), python_dim(self.index))
        return y.clone() if y.dim() else y.reshape(1)


class Squeeze(nn.Module):
    """Drop one dimension of size 1, or all of them when ``dim`` is None (nn.Squeeze).

    With ``num_input_dims`` the batch dimension stays whatever its size.
    """

    def __init__(self, dim: int | None = None, num_input_dims: int | None = None) -> None:
        super().__init__()
        self.dim, self.num_input_dims = dim, num_input_dims

    def forward(self, x: Tensor) -> Tensor:
        if self.dim is not None:
            return at_least_1d(x.squeeze(batched_dim(self.dim, x, self.num_input_dims)))
        has_batch = self.num_input_dims is not None and x.dim() == self.num_input_dims + 1
        if has_batch and len(x) == 1:  # Lua puts a batch of one back after the rest
            return at_least_1d(x.squeeze())[None]
        return at_least_1d(x.squeeze())


class Unsqueeze(nn.Module):
    """Insert a dimension of size 1 at ``pos`` (nn.Unsqueeze)."""

    def __init__(self, pos: int, num_input_dims: int | None = None) -> None:
        super().__init__()
        self.pos, self.num_input_dims = pos, num_input_dims

    def forward(self, x: Tensor) -> Tensor:
        sample_dims = x.dim() if self.num_input_dims is None else self.num_input_dims
        return x.unsqueeze(x.dim() - sample_dims + self.pos - 1)


class Transpose(nn.Module):
    """Swap pairs of dimensions, one pair after the other (nn.Transpose).

    With ``num_input_dims`` they are those of the last so many dimensions.
    """

    def __init__(self, *permutations: tuple[int, int], num_input_dims: int | None = None) -> None:
        super().__init__()
        self.permutations, self.num_input_dims = permutations, num_input_dims

    def forward(self, x: Tensor) -> Tensor:
        before = 0 if self.num_input_dims is None else x.dim() - self.num_input_dims
        for first, second in self.permutations:
            x = x.transpose(python_dim(first + before), python_dim(second + before))
        return x.contiguous()


class Replicate(nn.Module):
    """Repeat along a new dimension ``dim`` without copying (nn.Replicate)."""

    def __init__(self, nfeatures: int, dim: int = 1, ndim: int | None = None) -> None:
        super().__init__()
        self.nfeatures, self.dim, self.ndim = nfeatures, dim, ndim

    def forward(self, x: Tensor) -> Tensor:
        dim = self.dim - 1 + int(self.ndim is not None and x.dim() > self.ndim)
        shape = (*x.shape[:dim], self.nfeatures, *x.shape[dim:])
        return x.unsqueeze(dim).expand(shape)


class Padding(nn.Module):
    """Insert abs(``pad``) slices of ``value`` (nn.Padding).

    Negative ``pad``: before slice ``index``; positive: the same counted from the other end.
    """

    def __init__(
        self,
        dim: int,
        pad: int,
        n_input_dim: int | None = None,
        value: float = 0.0,
        index: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.pad, self.n_input_dim = dim, pad, n_input_dim
        self.value, self.index = value, index

    def forward(self, x: Tensor) -> Tensor:
        has_batch = self.n_input_dim is not None and x.dim() != self.n_input_dim
        dim = self.dim - 1 + int(has_batch) if self.dim > 0 else x.dim() + self.dim
        before = self.index - 1 if self.pad < 0 else x.shape[dim] - self.index + 1
        shape = (*x.shape[:dim], abs(self.pad), *x.shape[dim + 1 :])
        left, right = x.split([before, x.shape[dim] - before], dim)
        return torch.cat([left, x.new_full(shape, self.value), right], dim)
