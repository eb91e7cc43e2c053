"""Layers of the Lua package dpnn that only training uses, and its attention and entropy layers.

Most let their input pass in evaluation. Source: dpnn, one file per class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pooling import resize_linear
from .simple import WithBackward
from .stochastic import StochasticLayer


class InBatch(nn.Module):
    """A layer of batches that also takes one sample of ``dims`` dimensions (nn.Inception)."""

    def __init__(self, layer: nn.Module, dims: int) -> None:
        super().__init__()
        self.layer, self.dims = layer, dims

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[None])[0] if x.dim() == self.dims else self.layer(x)


class TotalDropout(StochasticLayer):
    """Zero all with probability ``p`` while training, without scaling (nn.TotalDropout)."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * self._bernoulli(x, torch.Size((1,)), 1 - self.p)


class SpatialRegionDropout(nn.Module):
    """Zero ``p`` of the rows or columns at one side while training (nn.SpatialRegionDropout)."""

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        side = int(torch.randint(4, ()))
        dim = -2 if side < 2 else -1
        size, kept = x.shape[dim], torch.ones(x.shape[dim], dtype=x.dtype, device=x.device)
        gone = math.floor(size * self.p)
        kept[slice(0, gone) if side % 2 == 0 else slice(size - gone, size)] = 0
        return x * (kept[:, None] if dim == -2 else kept) / (1 - self.p)


class SpatialUniformCrop(nn.Module):
    """A window of (N,C,H,W) or (C,H,W), anywhere while training (nn.SpatialUniformCrop).

    In evaluation it begins at ceil((H - height) / 2), counted from 1 as in Lua: above the middle.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        spare = x.shape[-2] - self.height, x.shape[-1] - self.width
        if not self.training:
            return self._window(x, *(max(math.ceil(n / 2) - 1, 0) for n in spare)).clone()
        samples = x if x.dim() == 4 else x[None]
        starts = [[int(torch.randint(max(n, 1), ())) for n in spare] for _ in samples]
        crops = [self._window(s, *at) for s, at in zip(samples, starts, strict=True)]
        y = torch.stack(crops)
        return y if x.dim() == 4 else y[0]

    def _window(self, x: Tensor, top: int, left: int) -> Tensor:
        return x[..., top : top + self.height, left : left + self.width]


class ReinforceNormal(StochasticLayer):
    """Normal noise of deviation ``stdev`` while training (nn.ReinforceNormal).

    Without ``stdev`` the input is {mean, deviation}. ``stochastic`` draws in evaluation too. The
    gradient of REINFORCE layers comes from a reward, which a network does not hold: none here.
    """

    stdev: Tensor | None

    def __init__(self, stdev: Tensor | None = None, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic
        self.register_buffer("stdev", stdev)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, stdev = (inputs, self.stdev) if isinstance(inputs, Tensor) else inputs
        if stdev is None:
            raise ValueError("ReinforceNormal without a deviation takes {mean, deviation}")
        if not (self.training or self.stochastic):
            return x
        return (x + self._normal(x, 0, 1) * stdev).detach()


class ReinforceGamma(nn.Module):
    """A draw of the gamma distribution of shape ``x`` while training (nn.ReinforceGamma).

    In evaluation its mean, x * ``scale``. Without ``scale`` the input is {shape, scale}.
    """

    scale: Tensor | None

    def __init__(self, scale: Tensor | None = None, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic
        self.register_buffer("scale", scale)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, scale = (inputs, self.scale) if isinstance(inputs, Tensor) else inputs
        if scale is None:
            raise ValueError("ReinforceGamma without a scale takes {shape, scale}")
        if not (self.training or self.stochastic):
            return x * scale
        ones = torch.ones_like(x)
        return torch.distributions.Gamma(x.detach(), ones).sample() * scale.detach()


class ReinforceBernoulli(StochasticLayer):
    """A draw of 0 or 1 by each probability while training (nn.ReinforceBernoulli)."""

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.stochastic):
            return x
        return (self._uniform(x) < x).to(x.dtype)


class ReinforceCategorical(nn.Module):
    """A one-hot draw by each row of probabilities while training (nn.ReinforceCategorical)."""

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.stochastic):
            return x
        drawn = torch.multinomial(x.detach() + 1e-8, 1)
        return torch.zeros_like(x).scatter(1, drawn, 1)


class CategoricalEntropy(nn.Module):
    """The input; its gradient also raises the entropy of the batch's mean (nn.CategoricalEntropy).

    ``scale``: weight of that; ``min_entropy``: from there on it is left alone.
    """

    def __init__(
        self, scale: float = 1.0, min_entropy: float | None = None, size_average: bool = True
    ) -> None:
        super().__init__()
        self.scale, self.min_entropy, self.size_average = scale, min_entropy, size_average

    def forward(self, x: Tensor) -> Tensor:
        fixed = x.detach()
        share = 1 / fixed.sum()
        p = fixed.sum(0) * share
        logs = (p + 1e-6).log()
        if self.min_entropy is not None and -(p * logs).sum() >= self.min_entropy:
            return x
        slope = self.scale * share * (logs + p / (p + 1e-6))
        slope = slope / len(x) if self.size_average else slope
        return WithBackward.apply(x, lambda grad: grad + slope)


class ChannelNoise(nn.Module):
    """Add to each channel of each image, while training, a random number.

    ``spread`` (C): uniform within +-spread (nn.SimpleColorTransform); (C,C): rows of principal
    components, each times a normal number of deviation ``std`` (nn.PCAColorTransform).
    """

    spread: Tensor

    def __init__(self, spread: Tensor, std: float = 1.0) -> None:
        super().__init__()
        self.std = std
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (*x.shape[:-2],)
        if self.spread.dim() == 1:
            noise = (torch.rand(shape, dtype=x.dtype, device=x.device) * 2 - 1) * self.spread
        else:
            noise = torch.randn(shape, dtype=x.dtype, device=x.device) * self.std @ self.spread
        return x + noise[..., None, None]


class SpatialFeatNormalization(nn.Module):
    """(x - mean) / std of each plane (nn.SpatialFeatNormalization)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


class SpatialGlimpse(nn.Module):
    """Windows of growing size around a place, all shrunk to one size (nn.SpatialGlimpse).

    {images (N,C,H,W), places (N,2) of -1..1: down, right} -> (N, depth * C, height, width). Window
    d is ``scale``^d times as large; zeros are around the image. ``average`` says whether windows
    shrink by means, as Lua's do where the scale is 2, or bilinearly, corners aligned.
    """

    def __init__(
        self, size: tuple[int, int], depth: int = 3, scale: int = 2, average: bool = True
    ) -> None:
        super().__init__()
        self.size, self.depth, self.scale, self.average = size, depth, scale, average

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        images, places = inputs
        if images.dim() == 3:
            return self.forward([images[None], places.reshape(1, 2)])[0]
        pairs = zip(images, places.detach().tolist(), strict=True)
        return torch.stack([self._glimpse(image, place) for image, place in pairs])

    def _glimpse(self, image: Tensor, place: Sequence[float]) -> Tensor:
        patches = []
        for depth in range(self.depth):
            factor = self.scale**depth
            sizes = [size * factor for size in self.size]
            pads = [(size - 1) // 2 for size in sizes]
            padded = F.pad(image, (pads[1], pads[1], pads[0], pads[0]))
            spare = [n - size for n, size in zip(padded.shape[1:], sizes, strict=True)]
            starts = [
                int(min(n, max(0.0, (at + 1) / 2 * n))) for n, at in zip(spare, place, strict=True)
            ]
            patch = padded[:, starts[0] : starts[0] + sizes[0], starts[1] : starts[1] + sizes[1]]
            patches.append(self._shrunk(patch, factor) if depth else patch)
        return torch.cat(patches)

    def _shrunk(self, patch: Tensor, factor: int) -> Tensor:
        if self.average:
            return F.avg_pool2d(patch, factor)
        return resize_linear(patch[None], self.size)[0]


class TemporalGlimpse(nn.Module):
    """A window of ``size`` steps around a place, with zeros around all (nn.TemporalGlimpse).

    {sequences (N,T,F), places (N,1) of -1..1} -> (N, size, F).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        steps, places = inputs
        if steps.dim() == 2:
            return self.forward([steps[None], places.reshape(1, -1)])[0]
        pad = (self.size - 1) // 2
        padded = F.pad(steps, (0, 0, pad, pad))
        spare = padded.shape[1] - self.size
        starts = [int(min(spare, max(0.0, (at + 1) / 2 * spare))) for at, *_ in places.tolist()]
        windows = [row[at : at + self.size] for row, at in zip(padded, starts, strict=True)]
        return torch.stack(windows)


class NCEModule(nn.Module):
    """Scores of words, in training of the target and ``k`` words of noise alone (nn.NCEModule).

    {x (N,F), target (N), from 1} -> in evaluation, if ``normalized``, the soft-max (N,V) or its
    logarithm; else the list of the model's likelihoods of target (N) and noise (N,k), and of the
    noise's own of both, as noise-contrastive estimation compares them. ``unigrams`` (V) are the
    likelihoods by which noise is drawn, with replacement: once for the batch (``batch_noise``) or
    for each row. Likelihoods are e^score / ``Z``; a ``Z`` of at most 0 becomes the first batch's
    mean times V, None is 1.
    """

    unigrams: Tensor | None
    Z: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, bias: bool, log: bool, normalized: bool = True, k: int = 1
    ) -> None:
        super().__init__()
        self.log, self.normalized, self.k = log, normalized, k
        self.batch_noise = False
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("unigrams", None)
        self.register_buffer("Z", None)

    def forward(self, inputs: Sequence[Tensor]) -> Any:
        x, target = inputs
        if self.normalized and not self.training:
            scores = F.linear(x, self.weight, self.bias)
            return scores.log_softmax(1) if self.log else scores.softmax(1)
        if self.unigrams is None:
            raise ValueError("NCEModule has no unigrams to draw noise by")
        target = target.long() - 1
        rows = 1 if self.batch_noise else len(x)
        drawn = torch.multinomial(self.unigrams.expand(rows, -1), self.k, replacement=True)
        scores = torch.cat([self._scores(x, target[:, None]), self._scores(x, drawn)], 1)
        likely = scores.exp()
        noise = self.unigrams[drawn].expand(len(x), -1)
        likely = likely / self._constant(likely)
        return [likely[:, 0], likely[:, 1:], self.unigrams[target], noise]

    def _scores(self, x: Tensor, words: Tensor) -> Tensor:
        """Scores (N,k) of ``words`` (N,k), or (1,k) for all rows."""
        scores = (x[:, None] * self.weight[words]).sum(-1)
        return scores if self.bias is None else scores + self.bias[words]

    def _constant(self, likely: Tensor) -> Tensor | float:
        """Z, estimated where it is not known yet: by the noise, if that is the batch's."""
        if self.Z is None:
            return 1.0
        if self.Z.item() <= 0:
            seen = likely[:, 1:] if self.batch_noise else likely
            self.Z.fill_(seen.detach().mean() * len(self.weight))
        return self.Z


class _Nearest(torch.autograd.Function):
    """Numbers of the nearest centres; backward assigns each centre its mean offset from its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centres: Tensor, scale: float | None) -> Tensor:
        nearest = (x[:, None] - centres).square().sum(-1).argmin(1)
        ctx.save_for_backward(x, centres, nearest)
        ctx.scale = scale
        return (nearest + 1).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, centres, nearest = ctx.saved_tensors
        offsets = torch.zeros_like(centres).index_add(0, nearest, centres[nearest] - x)
        counts = torch.bincount(nearest, minlength=len(centres)).clamp(min=1)[:, None]
        change = offsets / counts if ctx.scale is None else offsets * ctx.scale
        return torch.zeros_like(x), change, None


class Kmeans(nn.Module):
    """Number, from 1, of the centre next to each row of (N,F) (nn.Kmeans).

    A step along the weight's gradient moves the centres to the means of their rows, or with
    ``scale`` by that much of the sum of their offsets.
    """

    def __init__(self, k: int, dim: int, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(k, dim))

    def forward(self, x: Tensor) -> Tensor:
        return _Nearest.apply(x, self.weight, self.scale)
