"""The U-Net of basis convolutions that turns contours and colours into a photograph.

Parameters carry the names of the published checkpoints (`encoderLevels.0.params`,
`decoderLevels.5.node.bias`, ...), so that such a file can be a starting point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from eyescream_py.ganless_hd.basis import SIZE, analytic_basis

MULTIPLE = 64
INIT_STD = 0.02
FACTORED_FROM = 128  # channels, from benchmarks/results/ganless_hd.md
ENCODER_CHANNELS = (3, 64, 128, 256, 512, 1024, 1024)
DECODER_CHANNELS = (32, 64, 128, 256, 256, 256)


class BasisConv2d(nn.Module):
    """A 3x3 convolution (stride 1, padding 1) whose kernels are mixes of three trainable patterns.

    `params` (outputs * inputs, 1, 3) holds the mixes, `basisWeights` (3, 9) the patterns, `bias`
    (outputs,). kernel[o, i] = params[o, i] @ basisWeights, read as 3x3 row by row.
    """

    def __init__(self, inputs: int, outputs: int, basis: torch.Tensor, std: float) -> None:
        super().__init__()
        self.inputs, self.outputs, self.std = inputs, outputs, std
        self.params = nn.Parameter(torch.zeros(outputs * inputs, 1, SIZE))
        self.basisWeights = nn.Parameter(basis.clone())
        self.bias = nn.Parameter(torch.zeros(outputs))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the mixes anew from N(0, std^2)."""
        with torch.no_grad():
            self.params.normal_(0.0, self.std, generator=generator)

    def kernel(self) -> torch.Tensor:
        """The composed kernels, (outputs, inputs, 3, 3), laid out with channels last."""
        mixes = self.params.view(self.outputs, self.inputs, SIZE).transpose(1, 2)
        kernel = self.basisWeights.T @ mixes  # [o, 9, i]
        return kernel.view(self.outputs, 3, 3, self.inputs).permute(0, 3, 1, 2)

    def kernel_for(self, x: torch.Tensor) -> torch.Tensor | None:
        """`kernel()`, or None where `forward` is faster without: in wide layers on a CPU."""
        wide = min(self.inputs, self.outputs) >= FACTORED_FROM
        return None if wide and x.device.type == "cpu" else self.kernel()

    def forward(self, x: torch.Tensor, kernel: torch.Tensor | None = None) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W), by composed kernels where they are given.

        Without, patterns and mixes are convolved with one after the other, the side with fewer
        channels meeting the patterns: a third of the multiplications, three times the memory.
        """
        if kernel is not None:
            return F.conv2d(x, kernel, self.bias, padding=1)
        if self.inputs <= self.outputs:
            patterns = self.basisWeights.view(SIZE, 1, 3, 3).repeat(self.inputs, 1, 1, 1)
            x = F.conv2d(x, patterns, padding=1, groups=self.inputs)  # [N, i * 3, H, W]
            return F.conv2d(x, self.params.view(self.outputs, -1, 1, 1), self.bias)
        mixes = self.params.view(self.outputs, self.inputs, SIZE).transpose(1, 2)
        x = F.conv2d(x, mixes.reshape(-1, self.inputs, 1, 1))  # [N, o * 3, H, W]
        patterns = self.basisWeights.view(1, SIZE, 3, 3).repeat(self.outputs, 1, 1, 1)
        return F.conv2d(x, patterns, self.bias, padding=1, groups=self.outputs)


class DecoderLevel(nn.Module):
    """Basis convolution, SELU, and each pixel doubled in both directions."""

    def __init__(self, node: BasisConv2d) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: torch.Tensor, kernel: torch.Tensor | None) -> torch.Tensor:
        return F.interpolate(F.selu(self.node(x, kernel)), scale_factor=2.0, mode="nearest")


class UNet(nn.Module):
    """(N, 3, H, W) in -1..1, H and W multiples of 64 -> (N, 3, H, W) in -1..1, float32.

    Six encoder levels halve the picture, six decoder levels double it; each decoder level but the
    lowest reads the encoder's output of its size beside the level below. No normalisation.
    7,860,162 parameters at `width` 1. Other widths scale every channel count and start with std 1 /
    sqrt(3 * inputs), which keeps the size of signals. With `recompute` the backward pass computes
    each level's activations again instead of storing them.
    """

    def __init__(
        self,
        width: float = 1.0,
        basis: torch.Tensor | None = None,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        basis = analytic_basis() if basis is None else basis
        down = [3, *(scaled(channels, width) for channels in ENCODER_CHANNELS[1:])]
        up = [scaled(channels, width) for channels in DECODER_CHANNELS]

        def basis_conv(inputs: int, outputs: int) -> BasisConv2d:
            std = INIT_STD if width == 1 else 1 / math.sqrt(SIZE * inputs)
            return BasisConv2d(inputs, outputs, basis, std)

        self.encoderLevels = nn.ModuleList(map(basis_conv, down[:-1], down[1:]))
        below = [*up[1:], 0]  # channels that come up from the next lower level
        self.decoderLevels = nn.ModuleList(
            DecoderLevel(basis_conv(skip + previous, outputs))
            for skip, previous, outputs in zip(down[1:], below, up, strict=True)
        )
        self.finalDecoder = basis_conv(up[0], up[0])
        self.collapse = nn.Conv2d(up[0], 3, 1)
        self.reset(seed)

    @property
    def bytes_of_a_pixel(self) -> int:
        """Of the input, that a picture takes without gradients, at the least: the first level holds
        its convolution beside what is pooled, the last its input, convolution and SELU.
        """
        first = cast(BasisConv2d, self.encoderLevels[0]).outputs
        return 4 * (3 + max(first + first // 4, 3 * self.finalDecoder.outputs))

    def reset(self, seed: int) -> None:
        """Start values from `seed`, the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, BasisConv2d):
                module.reset(generator)
        bound = 1 / math.sqrt(self.collapse.in_channels)
        with torch.no_grad():
            for parameter in self.collapse.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Raises ValueError where a side is no multiple of 64."""
        height, width = pictures.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(f"{width}x{height} pixels: both sides must be multiples of {MULTIPLE}")
        x = pictures.contiguous(memory_format=torch.channels_last)
        skips = []
        for level in cast(Iterable[BasisConv2d], self.encoderLevels):
            x = self._level(encode, level, x, level.kernel_for(x))
            skips.append(x)
        x = skips.pop()
        for decoder in cast(Iterable[DecoderLevel], reversed(self.decoderLevels)):
            x = self._level(decoder, x, decoder.node.kernel_for(x))
            if skips:
                x = torch.cat((skips.pop(), x), 1)
        kernel = self.finalDecoder.kernel_for(x)
        x = self._level(finish, self.finalDecoder, self.collapse, x, kernel)
        return torch.tanh(x.float())

    def _level(self, function: Callable[..., torch.Tensor], *inputs: object) -> torch.Tensor:
        """Run one level. Kernels come composed, so that recomputing a level does not compose them
        again.
        """
        if self.recompute and torch.is_grad_enabled():
            # nothing is drawn in a level, and a recording may not ask for the generator's state
            return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return function(*inputs)


def scaled(channels: int, width: float) -> int:
    """A channel count at a width multiplier, at least one."""
    return max(1, round(channels * width))


def encode(conv: BasisConv2d, x: torch.Tensor, kernel: torch.Tensor | None) -> torch.Tensor:
    """Convolution, SELU, 2x2 max pooling; pooled first, which is the same for a rising function and
    cheaper.
    """
    return F.selu(F.max_pool2d(conv(x, kernel), 2))


def finish(
    conv: BasisConv2d, collapse: nn.Conv2d, x: torch.Tensor, kernel: torch.Tensor
) -> torch.Tensor:
    """The last basis convolution and the 1x1 convolution to three channels."""
    return collapse(F.selu(conv(x, kernel)))


def parameter_count(network: nn.Module) -> int:
    """How many numbers the network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
