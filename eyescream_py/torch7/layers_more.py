"""The rest of Lua Torch 7's nn that old models use and torch.nn lacks.

Same conventions as in `layers`: Lua names, dimensions and indices count from 1. Where a layer takes
``n_input_dims``, an input with one dimension more than that has the batch first, and the layer's
dimension counts from after it.

Source: the Lua package nn, one file per class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyescream_py.torch7.layers import batched_dim, python_dim
from eyescream_py.torch7.layers_pooling import resize_linear


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


def at_least_1d(x: Tensor) -> Tensor:
    """Lua has no tensors without dimensions: a single number is of shape (1,)."""
    return x if x.dim() else x.reshape(1)


def with_slope(value: Tensor, slope: Tensor) -> Tensor:
    """``value`` with the gradient of ``slope``, where Lua's backward is not its forward's."""
    return value.detach() + (slope - slope.detach()) if slope.requires_grad else value


class Reduction(nn.Module):
    """What Mean, Sum, Max and Min share: the dimension that they take away."""

    def __init__(self, dimension: int = 1, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension, self.n_input_dims = dimension, n_input_dims

    def python_dim(self, x: Tensor) -> int:
        return batched_dim(self.dimension, x, self.n_input_dims)


class Mean(Reduction):
    """Mean over one dimension (nn.Mean)."""

    def __init__(
        self, dimension: int = 1, n_input_dims: int | None = None, squeeze: bool = True
    ) -> None:
        super().__init__(dimension, n_input_dims)
        self.squeeze = squeeze

    def forward(self, x: Tensor) -> Tensor:
        return at_least_1d(x.mean(self.python_dim(x), keepdim=not self.squeeze))


class Max(Reduction):
    """Largest element over one dimension (nn.Max)."""

    def forward(self, x: Tensor) -> Tensor:
        return at_least_1d(x.max(self.python_dim(x)).values)


class Min(Reduction):
    """Smallest element over one dimension (nn.Min)."""

    def forward(self, x: Tensor) -> Tensor:
        return at_least_1d(x.min(self.python_dim(x)).values)


class Sum(Reduction):
    """Sum over one dimension (nn.Sum); ``size_average`` makes it the mean."""

    def __init__(
        self,
        dimension: int = 1,
        n_input_dims: int | None = None,
        size_average: bool = False,
        squeeze: bool = True,
    ) -> None:
        super().__init__(dimension, n_input_dims)
        self.size_average, self.squeeze = size_average, squeeze

    def forward(self, x: Tensor) -> Tensor:
        reduce = torch.mean if self.size_average else torch.sum
        return at_least_1d(reduce(x, dim=self.python_dim(x), keepdim=not self.squeeze))


class Abs(nn.Module):
    """|x|, whose slope at 0 is 1 (nn.Abs)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, -x)


class Threshold(nn.Threshold):
    """x where above ``threshold``, else ``value`` (nn.Threshold), in a form that ONNX has too."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.threshold, x, self.value)


class Square(nn.Module):
    """x^2 (nn.Square)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Sqrt(nn.Module):
    """sqrt(x), whose slope at 0 is 0 (nn.Sqrt). Lua keeps ``eps`` and makes no use of it."""

    def __init__(self, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        zero = x == 0
        return torch.where(zero, 0, torch.where(zero, 1, x).sqrt())


class Power(nn.Module):
    """x^pow (nn.Power)."""

    def __init__(self, pow: float) -> None:
        super().__init__()
        self.pow = pow

    def forward(self, x: Tensor) -> Tensor:
        return x.pow(self.pow)


class Exp(nn.Module):
    """e^x (nn.Exp)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Log(nn.Module):
    """Natural logarithm (nn.Log)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Normalize(nn.Module):
    """Divide the rows of (N,F) or (F) by their p-norm, (sum |x|^p + eps)^(1/p) (nn.Normalize).

    As in Lua the slope of the norm is of |x| + eps where p < 2, and x / norm for the largest x
    where p is infinite.
    """

    def __init__(self, p: float, eps: float = 1e-10) -> None:
        super().__init__()
        self.p, self.eps = p, eps

    def forward(self, x: Tensor) -> Tensor:
        if self.p == float("inf"):
            largest, index = x.detach().abs().max(-1, keepdim=True)
            norm = largest + self.eps
            weighted = x.gather(-1, index) * (x.detach().gather(-1, index) / norm)
            return x / with_slope(norm, weighted)
        if self.p >= 2:
            return x / (x.abs().pow(self.p).sum(-1, keepdim=True) + self.eps).pow(1 / self.p)
        powers = x.detach().abs().pow(self.p).sum(-1, keepdim=True) + self.eps
        norm = powers.pow(1 / self.p)
        slope = (x.detach().abs() + self.eps).pow(self.p - 2) * x.detach() * (norm / powers)
        return x / with_slope(norm, (slope * x).sum(-1, keepdim=True))


def feature_dim(x: Tensor) -> int:
    """Where Lua's soft-max layers look for the classes: (F), (N,F), (C,H,W) or (N,C,H,W)."""
    return 0 if x.dim() in (1, 3) else 1


class SoftMax(nn.Module):
    """Soft-max over the features or channels (nn.SoftMax, nn.SpatialSoftMax)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, feature_dim(x))


class SoftMin(nn.Module):
    """Soft-max of -x (nn.SoftMin)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(-x, feature_dim(x))


class LogSoftMax(nn.Module):
    """Logarithm of the soft-max (nn.LogSoftMax, nn.SpatialLogSoftMax)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, feature_dim(x))


class PReLU(nn.PReLU):
    """PReLU with a slope for each feature of (F), (N,F) or (N,F,...) (nn.PReLU(n)).

    Lua's took three dimensions for (F,H,W) until 2017, since then for (N,F,L); so does this where
    the second fits.
    """

    def forward(self, x: Tensor) -> Tensor:
        slopes = self.num_parameters
        alone = x.dim() == 1 or (x.dim() == 3 and x.shape[1] != slopes == x.shape[0])
        return super().forward(x[None])[0] if alone else super().forward(x)


class Add(nn.Module):
    """Add a learnt vector of ``input_size``, or one learnt number if ``scalar`` (nn.Add)."""

    def __init__(self, input_size: int, scalar: bool = False) -> None:
        super().__init__()
        self.scalar = scalar
        self.bias = nn.Parameter(torch.zeros(1 if scalar else input_size))

    def forward(self, x: Tensor) -> Tensor:
        if self.scalar:
            return x + self.bias
        batch = x.reshape(-1, self.bias.numel())
        return (batch + self.bias).reshape(x.shape)


class Mul(nn.Module):
    """Multiply by one learnt number (nn.Mul)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class CMul(nn.Module):
    """Multiply each sample, or all of the input, by a learnt tensor of ``sizes`` (nn.CMul)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sizes))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.numel() == x.numel():
            return x * self.weight.reshape(x.shape)
        if self.weight.dim() == x.dim():
            return x * self.weight
        return (x.reshape(len(x), -1) * self.weight.flatten()).reshape(x.shape)


class LookupTable(nn.Module):
    """Rows of a learnt table, chosen by indices 1..n_index (nn.LookupTable).

    ``padding_value``: the index whose row gets no gradient (0: none), as in Lua. With
    ``scale_by_freq`` gradients are divided by how often their index occurs.
    """

    def __init__(
        self, n_index: int, n_output: int, padding_value: int = 0, scale_by_freq: bool = False
    ) -> None:
        super().__init__()
        self.padding_value, self.scale_by_freq = padding_value, scale_by_freq
        weight = torch.empty(n_index, n_output)
        # random numbers on the meta device would make torch load sympy, which takes a second
        self.weight = nn.Parameter(weight if weight.is_meta else weight.normal_())

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding_value - 1 if self.padding_value > 0 else None
        scale = self.scale_by_freq
        return F.embedding(x.long() - 1, self.weight, padding, scale_grad_by_freq=scale)


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
