"""Lua nn's and dpnn's small layers without weights: gradients, choices, constants, shapes.

Dimensions and indices count from 1. Source: the Lua packages nn and dpnn, one file per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .shapes import at_least_1d, python_dim


class AddConstantTensor(nn.Module):
    """Add a constant tensor of a shape that fits the last dimensions (nn.AddConstant)."""

    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        if self.constant.numel() == x.numel():
            return x + self.constant.reshape(x.shape)
        return x + self.constant


class GatedLinearUnit(nn.Module):
    """First half times the sigmoid of the second, on ``dim`` (nn.GatedLinearUnit).

    Lua's default is the last dimension.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.glu(x, -1 if self.dim is None else python_dim(self.dim))


class WithBackward(torch.autograd.Function):
    """The input unchanged; its gradient is ``change`` of the output's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Any) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.change(grads[0]), None


class GradientReversal(nn.Module):
    """The input; its gradient is multiplied by -``scale`` (nn.GradientReversal's lambda)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return WithBackward.apply(x, lambda grad: grad * -self.scale)


class ZeroGrad(nn.Module):
    """The input, to which no gradient flows (nn.ZeroGrad)."""

    def forward(self, x: Tensor) -> Tensor:
        return WithBackward.apply(x, torch.zeros_like)


class L1Penalty(nn.Module):
    """The input; the slope of ``weight`` * sum |x| is added to its gradient (nn.L1Penalty).

    ``size_average``: the weight is divided by the number of elements. Without ``provide_output``
    the output's own gradient is left out.
    """

    def __init__(
        self, weight: float, size_average: bool = False, provide_output: bool = True
    ) -> None:
        super().__init__()
        self.weight, self.size_average = weight, size_average
        self.provide_output = provide_output

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / x.numel() if self.size_average else self.weight
        slope = x.detach().sign() * weight
        own = self.provide_output
        return WithBackward.apply(x, lambda grad: slope + grad if own else slope.clone())


class Constant(nn.Module):
    """A constant whatever the input (nn.Constant).

    With ``n_input_dim``, an input of more dimensions is a batch, and the constant is repeated.
    """

    value: Tensor

    def __init__(self, value: Tensor, n_input_dim: int | None = None) -> None:
        super().__init__()
        self.n_input_dim = n_input_dim
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        if self.n_input_dim is not None and x.dim() > self.n_input_dim:
            return self.value.expand(len(x), *self.value.shape).clone()
        return self.value.clone()


class OneHot(nn.Module):
    """Rows of zeros with a one where the index 1..``size`` is (nn.OneHot); one of a number."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.size, self.dtype = size, dtype

    def forward(self, x: Tensor | int) -> Tensor:
        index = torch.as_tensor(x).long() - 1
        return nn.functional.one_hot(index, self.size).to(self.dtype)


class Index(nn.Module):
    """Slices of {tensor, indices} along ``dimension`` (nn.Index)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x, index = inputs
        dim = python_dim(self.dimension)
        return x.index_select(dim, index.long().reshape(-1) - 1)


class MaskedSelect(nn.Module):
    """The elements of {tensor, mask} where the mask is 1, in a row (nn.MaskedSelect)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0].masked_select(inputs[1].bool())


class Collapse(nn.Module):
    """All dimensions but the batch as one (nn.Collapse).

    An input of more than ``n_input_dim`` dimensions has a batch first.
    """

    def __init__(self, n_input_dim: int) -> None:
        super().__init__()
        self.n_input_dim = n_input_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1) if x.dim() > self.n_input_dim else x.reshape(-1)


class Convert(nn.Module):
    """Reorder or flatten dimensions named by letters, b for the batch (nn.Convert).

    ``source`` and ``target`` such as "bchw" and "bf"; an input without batch is taken too. With one
    name for both, such as "b*" for any dimensions, only the type changes.
    """

    def __init__(self, source: str, target: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        named = [text if "b" in text else f"b{text}" for text in (source, target)]
        self.source, self.target = named
        self.dtype = dtype
        transposes = sorted(self.source) == sorted(self.target)
        if not transposes and self.target not in ("bf", "b", "bt"):
            raise ValueError(f"no conversion of {self.source} to {self.target}")
        self.transposes = transposes

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.source == self.target:
            return x
        if x.dim() >= len(self.source):
            return self._converted(x)
        y = self._converted(x.unsqueeze(self.source.index("b")))
        return at_least_1d(y.squeeze(self.target.index("b")))

    def _converted(self, x: Tensor) -> Tensor:
        if self.transposes:
            return x.permute([self.source.index(letter) for letter in self.target]).contiguous()
        batch = self.source.index("b")
        if self.target == "b":
            other = next(i for i, letter in enumerate(self.source) if letter != "b")
            return x.select(other, 0).clone()
        rows = x.transpose(0, batch)
        return rows.reshape(len(rows), -1).contiguous()


class ArgMax(nn.Module):
    """Number, from 1, of the largest along ``dim`` (dpnn's nn.ArgMax); no gradient.

    An input of more than ``n_input_dim`` dimensions has a batch first. Float unless ``as_long``.
    """

    def __init__(self, dim: int = 1, n_input_dim: int = 9999, as_long: bool = True) -> None:
        super().__init__()
        self.dim, self.n_input_dim, self.as_long = dim, n_input_dim, as_long

    def forward(self, x: Tensor) -> Tensor:
        dim = self.dim - 1 + int(x.dim() > self.n_input_dim)
        index = at_least_1d(x.argmax(dim) + 1)
        return index if self.as_long else index.to(x.dtype)


class Instead(torch.autograd.Function):
    """``y``, whose gradient goes to ``x`` unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


class Clip(nn.Module):
    """x within ``low`` .. ``high``, with the gradient of x itself (dpnn's nn.Clip)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return Instead.apply(x, x.clamp(self.low, self.high))
