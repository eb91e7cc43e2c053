"""Lua nn's normalizing layers beyond torch.nn's own. Source: the Lua package nn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _AsInLua:
    """Batch normalization of what torch's layers refuse.

    In evaluation a sample without a batch becomes a batch of one, as in Lua. In training a batch of
    one number for each feature has no deviation: as in Lua since August 2017 it is normalized as in
    evaluation, and leaves the statistics as they are.
    Where ``eps`` is 0, which torch refuses (2.11 in evaluation, too), planes of one value become
    the bias in training.
    """

    sample_dims: int

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self
        if x.dim() == self.sample_dims and not layer.training:
            x = x[None]
        if x.dim() == self.sample_dims + 1:
            one_number = x.numel() == x.shape[1]
            if layer.eps == 0:
                return _without_eps(layer, x, layer.training and not one_number)
            weight = layer.weight
            statistics = layer.running_mean, layer.running_var
            if layer.training and one_number:
                return F.batch_norm(x, *statistics, weight, layer.bias, eps=layer.eps)
            if weight is not None and not weight.is_contiguous():
                # of a tied one torch's backward reads other memory (2.13)
                scale = weight.contiguous(), layer.bias, layer.training
                return F.batch_norm(x, *statistics, *scale, layer.momentum, layer.eps)
        return super().forward(x)  # type: ignore[misc]


def _without_eps(layer: Any, x: Tensor, own: bool) -> Tensor:
    """Batch normalization with ``eps`` 0, by the batch's `own` statistics or the running ones."""
    shape = (-1, *(1,) * (x.dim() - 2))
    if own:
        y = _by_own_statistics(layer, x)
    else:
        y = (x - layer.running_mean.reshape(shape)) * layer.running_var.rsqrt().reshape(shape)
    if layer.weight is not None:
        y = y * layer.weight.reshape(shape)
    return y if layer.bias is None else y + layer.bias.reshape(shape)


def _by_own_statistics(layer: Any, x: Tensor) -> Tensor:
    dims = [0, *range(2, x.dim())]
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    flat = variance == 0
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        layer.running_mean.lerp_(x.mean(dims), layer.momentum)
        layer.running_var.lerp_(variance.reshape(-1) * count / (count - 1), layer.momentum)
    return centred * torch.where(flat, 0, torch.where(flat, 1, variance).rsqrt())


class BatchNormalization(_AsInLua, nn.BatchNorm1d):
    """BatchNorm1d (nn.BatchNormalization)."""

    sample_dims = 1


class SpatialBatchNormalization(_AsInLua, nn.BatchNorm2d):
    """BatchNorm2d (nn.SpatialBatchNormalization)."""

    sample_dims = 3


class VolumetricBatchNormalization(_AsInLua, nn.BatchNorm3d):
    """BatchNorm3d (nn.VolumetricBatchNormalization)."""

    sample_dims = 4


class InstanceNormalization(nn.InstanceNorm2d):
    """InstanceNorm2d that also takes planes of one pixel, and makes the bias of them.

    (N,C,H,W), or (C,H,W), which AdaIN-style's class of that name takes too.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return self.forward(x[None])[0]
        if x.dim() != 4:
            raise ValueError(f"InstanceNormalization takes (N,C,H,W), not {x.dim()} dimensions")
        if x.shape[-2:] != (1, 1):
            y: Tensor = F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
            return y
        nothing = x - x  # what is left of a pixel without its mean
        return nothing if self.weight is None else self._affine(nothing)

    def _affine(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class SpatialCrossMapLRN(nn.LocalResponseNorm):
    """LocalResponseNorm of (N,C,H,W) or (C,H,W) (nn.SpatialCrossMapLRN)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[None])[0] if x.dim() == 3 else super().forward(x)


class CrossMapLRNAhead(SpatialCrossMapLRN):
    """The same of an even size, whose middle is the earlier plane (cuDNN's, and the package inn's).

    torch's own even window, and so none of Lua nn's, has the later one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(-3)).flip(-3)


class LinearWeightNorm(nn.Module):
    """Linear whose weight is ``g`` * v / max(|v|, eps), by rows (nn.LinearWeightNorm)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, eps: float = 1e-16) -> None:
        super().__init__()
        self.eps = eps
        self.v = nn.Parameter(torch.zeros(outputs, inputs))
        self.g = nn.Parameter(torch.ones(outputs, 1))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.v, dim=1, keepdim=True).clamp(min=self.eps)
        return nn.functional.linear(x, self.v * (self.g / norm), self.bias)


class WeightNorm(nn.Module):
    """``layer`` with the weight g * v / sqrt(|v|^2 + 1e-4) (nn.WeightNorm).

    ``v`` is (out, all other dimensions of the weight), ``g`` (out, 1). ``shape``: the weight's, its
    ``output_dim`` (from 1) moved to the front.
    """

    def __init__(
        self, layer: nn.Module, v: nn.Parameter, g: nn.Parameter, shape: tuple[int, ...], dim: int
    ) -> None:
        super().__init__()
        self.v, self.g = v, g
        self.shape, self.output_dim = tuple(shape), dim
        self.weight_shape = tuple(layer.weight.shape)  # type: ignore[arg-type]
        del layer._parameters["weight"]
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        norm = (self.v.square().sum(1, keepdim=True) + 1e-4).sqrt()
        weight = (self.v * (self.g / norm)).reshape(self.shape)
        weight = weight.movedim(0, self.output_dim - 1)
        self.layer.weight = weight.reshape(self.weight_shape)  # a flat one in Lua's older layers
        try:
            return self.layer(x)
        finally:
            del self.layer.weight  # it belongs to this pass: a copy of the module would fail


def without_parameters(module: nn.Module) -> nn.Module:
    """A module whose weights are constants: Lua keeps it where its parameters() do not look."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                del part._parameters[name]
                part.register_buffer(name, weight.detach())
    return module


class SpatialSubtractiveNormalization(nn.Module):
    """Subtract the mean around each pixel, over all planes (nn.SpatialSubtractiveNormalization).

    ``mean_estimator`` sums a neighbourhood, weighted; at the border only what is there counts.
    """

    def __init__(self, mean_estimator: nn.Module) -> None:
        super().__init__()
        self.mean_estimator = without_parameters(mean_estimator)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean_estimator(x).reshape(x.shape)
        return x - mean / share_of_window(self.mean_estimator, x)


class SpatialDivisiveNormalization(nn.Module):
    """Divide by the deviation around each pixel (nn.SpatialDivisiveNormalization).

    Deviations of at most ``threshold`` count as ``value``.
    """

    def __init__(
        self,
        mean_estimator: nn.Module,
        std_estimator: nn.Module,
        threshold: float = 1e-4,
        value: float = 1e-4,
    ) -> None:
        super().__init__()
        self.mean_estimator = without_parameters(mean_estimator)
        self.std_estimator = without_parameters(std_estimator)
        self.threshold, self.value = threshold, value

    def forward(self, x: Tensor) -> Tensor:
        stds = self.std_estimator(x).reshape(x.shape)
        stds = stds / share_of_window(self.mean_estimator, x)
        return x / nn.functional.threshold(stds, self.threshold, self.value)


def share_of_window(mean_estimator: nn.Module, x: Tensor) -> Tensor:
    """What the estimator makes of ones: at the border less than 1."""
    ones = torch.ones(x.shape[-3:], dtype=x.dtype, device=x.device)
    with torch.no_grad():
        return mean_estimator(ones).reshape(ones.shape)


class SpatialContrastiveNormalization(nn.Module):
    """Subtractive, then divisive normalization (nn.SpatialContrastiveNormalization)."""

    def __init__(self, normalizer: nn.Module) -> None:
        super().__init__()
        self.normalizer = without_parameters(normalizer)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalizer(x)
