"""The generators (residual and transposed-convolution) and the critic of srez.

Shapes are N,C,H,W; pictures are floats 0..1. Layers follow TensorFlow 1: "SAME" padding, batch norm
with a shift but no scale, truncated normal start weights. Sources: david-gpu/srez, MandyZChen/srez.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyescream_py.srez.options import Options

GENERATOR_UNITS = (256, 128)  # first and second half of the stages
GENERATOR_LAST = 96
CRITIC_UNITS = (64, 128, 256, 512)
RUNNING_MOMENTUM = 0.1  # at 0.01 the networks of 100 batches ago still weigh in
Network = TypeVar("Network", bound=nn.Module)


def scaled_units(units: int, width: float) -> int:
    """`units` times `width`, at least 4 so that no layer starves."""
    return max(4, round(units * width))


def start_convolution(layer: nn.Conv2d | nn.ConvTranspose2d, factor: float) -> None:
    """Truncated normal weights (cut at two standard deviations), zero biases; variance
    factor/(sqrt(Cin*Cout)*k*k).
    """
    area = layer.kernel_size[0] * layer.kernel_size[1]
    deviation = math.sqrt(factor / (math.sqrt(layer.in_channels * layer.out_channels) * area))
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def convolution(inputs: int, outputs: int, kernel: int, factor: float = 1.0) -> nn.Conv2d:
    """A convolution of stride 1 that keeps the side."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    start_convolution(layer, factor)
    return layer


class BatchShift(nn.Module):
    """Batch norm with a shift only, epsilon 1e-3 (TF contrib's defaults).

    The original used the statistics of the batch always. Running ones are kept beside them here;
    evaluation mode uses them unless `batch_statistics` is set. They are the plain mean over the
    first batches and from the 10th on an average that forgets with RUNNING_MOMENTUM: their start
    values never count.
    """

    running_mean: Tensor
    running_var: Tensor
    seen: Tensor  # batches averaged so far, a scalar; on the device, so that a recorded step counts
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("seen", torch.zeros(()))
        # CUDA's backward pass fails where batch norm has a shift and is given no scale.
        self.register_buffer("scale", torch.ones(channels), persistent=False)
        self.batch_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self._by_batch_and_track(x)
        if self.batch_statistics:
            return F.batch_norm(x, None, None, self.scale, self.shift, True, 0.0, 1e-3)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.scale, self.shift, False, 0.0, 1e-3)

    def _by_batch_and_track(self, x: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # A momentum of 1 leaves this batch's own statistics in the two.
        normed = F.batch_norm(x, mean, variance, self.scale, self.shift, True, 1.0, 1e-3)
        with torch.no_grad():
            self.seen.add_(1)
            share = self.seen.reciprocal().clamp_min(RUNNING_MOMENTUM)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)
        return normed


class LayerShift(nn.Module):
    """Layer norm over C,H,W of each image with one shift per channel, epsilon 1e-12."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # Not as group_norm's own bias: without a scale its second derivative fails.
        return F.group_norm(x, 1, None, None, 1e-12) + self.shift[:, None, None]


def normalisation(kind: str, channels: int) -> nn.Module:
    """The critic's layer for `--critic_norm`: batch, layer, or none."""
    if kind == "batch":
        return BatchShift(channels)
    return LayerShift(channels) if kind == "layer" else nn.Identity()


class ResidualBlock(nn.Module):
    """x + f(x), f twice (norm, ReLU, 3x3): (N,C,H,W) keeps its shape.

    f starts near zero (factor 1e-3), so that a new block is almost the identity. The originals' 1x1
    convolution in front, where the width changes, belongs to the layer before it here.
    """

    def __init__(self, units: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [normalisation(norm, units), nn.ReLU(), convolution(units, units, 3, 1e-3)]
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class DoubleSide(nn.Module):
    """Nearest x2, norm, ReLU, 3x3 convolution `conv` and, where given, 1x1 or 3x3 convolution
    `then`: (N,C,H,W) -> (N,C',2H,2W).

    Doubling repeats every value four times and leaves mean and variance as they are, so norm and
    ReLU run before it. What follows has nothing but sums in it: together it is one transposed
    convolution, whose kernel is made of all of theirs (4x4, or 6x6 with a 3x3 `then`). That takes
    half the products or fewer, and the large pictures in between are never made.
    """

    def __init__(self, norm: nn.Module, conv: nn.Conv2d, then: nn.Conv2d | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.conv = conv
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(x))
        kernel, bias = _spread(self.conv.weight), self.conv.bias
        if self.then is None:
            return _transposed(x, kernel, bias)
        both, both_bias = _followed(kernel, bias, self.then)
        if self.then.kernel_size == (1, 1):
            return _transposed(x, both, both_bias)
        inner = _transposed(x, both, both_bias, cut=1)
        return self._with_border(inner, x, kernel, self.then)

    def _with_border(self, inner: Tensor, x: Tensor, kernel: Tensor, then: nn.Conv2d) -> Tensor:
        """The outermost pixels are other sums, as `then` pads the large picture with zeros: they
        are computed in two steps from the outer two rows and columns of x.
        """

        def in_steps(part: Tensor) -> Tensor:
            return then(_transposed(part, kernel, self.conv.bias))

        top, bottom = in_steps(x[:, :, :2])[:, :, :1], in_steps(x[:, :, -2:])[:, :, -1:]
        left, right = in_steps(x[..., :2])[..., :1], in_steps(x[..., -2:])[..., -1:]
        middle = torch.cat([top[..., 1:-1], inner, bottom[..., 1:-1]], 2)
        return torch.cat([left, middle, right], 3)


def _spread(weight: Tensor) -> Tensor:
    """(O,I,3,3) kernel behind a nearest x2 -> (I,O,4,4) kernel of the transposed equivalent."""
    flipped = weight.flip(2, 3).transpose(0, 1)
    rows = F.pad(flipped, (0, 0, 0, 1)) + F.pad(flipped, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


def _followed(kernel: Tensor, bias: Tensor | None, then: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Kernel (I,O,k,k) and bias of a transposed convolution -> those of it and `then` in one."""
    both = F.conv2d(kernel, then.weight, padding=then.kernel_size[0] - 1)
    if bias is None or then.bias is None:
        return both, then.bias
    return both, then.bias + then.weight.sum((2, 3)) @ bias


def _transposed(x: Tensor, kernel: Tensor, bias: Tensor | None, cut: int = 0) -> Tensor:
    """The doubled picture, `cut` pixels less on every side."""
    padding = kernel.shape[-1] // 2 - 1 + cut
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=padding)


class TransposedStage(nn.Module):
    """norm, ReLU, 3x3 transposed convolution of stride 2 with TF's SAME crop: the last row and
    column go.
    """

    def __init__(self, inputs: int, units: int, norm: str) -> None:
        super().__init__()
        self.norm = normalisation(norm, inputs)
        self.conv = nn.ConvTranspose2d(inputs, units, 3, stride=2)
        start_convolution(self.conv, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x)))[:, :, :-1, :-1]


def _residual_stages(units: list[int], last: int, norm: str) -> list[nn.Module]:
    layers: list[nn.Module] = [convolution(3, units[0], 1)]
    for n, following in zip(units, [*units[1:], None], strict=True):
        layers += [ResidualBlock(n, norm), ResidualBlock(n, norm)]
        doubling = convolution(n, n, 3)
        then = _behind(n, following, last)
        layers.append(DoubleSide(normalisation(norm, n), doubling, then))
    return layers


def _behind(units: int, following: int | None, last: int) -> nn.Conv2d | None:
    """The convolution behind a doubling: the first one after all stages, else 1x1 where the width
    changes.
    """
    if following is None:
        return convolution(units, last, 3, 2.0)
    return convolution(units, following, 1) if following != units else None


def _transposed_stages(units: list[int], last: int, norm: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, n in zip([3, *units], units, strict=False):
        layers.append(TransposedStage(inputs, n, norm))
    return [*layers, convolution(units[-1], last, 3, 2.0)]


def _in_full_precision(last: nn.Module, x: Tensor) -> Tensor:
    """A network's last layer in the type of its weights, whatever autocast chose before it: scores
    in bf16 would move in steps of 1/128 and more.
    """
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = last(x.to(next(last.parameters()).dtype))
    return result


class Generator(nn.Module):
    """(N,3,S,S) small picture or noise -> (N,3,S*2^stages,S*2^stages) picture in (0,1); any S, it
    is convolutional.
    """

    def __init__(
        self, stages: int, architecture: str = "resnet", norm: bool = True, width: float = 1.0
    ) -> None:
        super().__init__()
        first, second = GENERATOR_UNITS
        units = [scaled_units(first if 2 * i < stages else second, width) for i in range(stages)]
        make = _residual_stages if architecture == "resnet" else _transposed_stages
        last = scaled_units(GENERATOR_LAST, width)
        self.stages = nn.Sequential(*make(units, last, "batch" if norm else "none"))
        self.head = nn.Sequential(
            nn.ReLU(),
            convolution(last, last, 1, 2.0),
            nn.ReLU(),
            convolution(last, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(_in_full_precision(self.head[-1], self.head[:-1](self.stages(x))))


class HalfSide(nn.Module):
    """3x3 convolution of stride 2 on an even side; TF's SAME padding adds one row and column at the
    end.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, units, 3, stride=2)
        start_convolution(self.conv, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Critic(nn.Module):
    """(N,3,H,W) picture in 0..1 -> (N,) score, the mean over all positions; high means real."""

    def __init__(self, norm: str = "batch", width: float = 1.0) -> None:
        super().__init__()
        units = [scaled_units(n, width) for n in CRITIC_UNITS]
        last = units[-1]
        layers: list[nn.Module] = []
        for inputs, n in zip([3, *units], units, strict=False):
            layers += [HalfSide(inputs, n), normalisation(norm, n), nn.ReLU()]
        for kernel in (3, 1):
            layers += [convolution(last, last, kernel, 2.0), normalisation(norm, last), nn.ReLU()]
        self.layers = nn.Sequential(*layers, convolution(last, 1, 1, 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return _in_full_precision(self.layers[-1], self.layers[:-1](2 * x - 1)).mean((1, 2, 3))


def build_generator(options: Options) -> Generator:
    """The generator of the options, untrained; see `Generator` for its shapes."""
    generator = Generator(
        options.stages, options.gen_architect, bool(options.gen_norm), options.width
    )
    return channels_last(generator)


def build_critic(options: Options) -> Critic:
    """The critic of the options, untrained."""
    return channels_last(Critic(options.norm_of_critic, options.width_of_critic))


def channels_last(network: Network) -> Network:
    """Kernels laid out as N,H,W,C in memory, the layout in which CPU and CUDA convolve fastest."""
    for p in network.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return network


def use_batch_statistics(network: nn.Module, wanted: bool) -> None:
    """Choose what batch norm does in evaluation mode: the original's batch statistics, or the
    running ones.
    """
    for module in network.modules():
        if isinstance(module, BatchShift):
            module.batch_statistics = wanted


def parameter_count(network: nn.Module) -> int:
    """How many numbers the network learns."""
    return sum(p.numel() for p in network.parameters())
