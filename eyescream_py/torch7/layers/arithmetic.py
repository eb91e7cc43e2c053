"""Lua nn's arithmetic on one tensor: constants, functions, reductions, learnt factors and terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .shapes import at_least_1d, batched_dim


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
