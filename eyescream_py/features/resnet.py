"""ResNet-18 (He et al. 2015, arXiv 1512.03385), trained elsewhere or random.

Names of tensors are torchvision's, so that a state dict from there can be given as a file; such a
network saw pictures normalised by ImageNet's mean and standard deviation, and does so here. A
random one takes them as they are and has its batch normalisations calibrated on pictures once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from eyescream_py.features.base import FeatureNetwork
from eyescream_py.torch7.random import seeded

CHANNELS = (64, 64, 128, 256, 512)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of red, green, blue in 0..1
INPUT_MEAN, INPUT_STD = "input_mean", "input_std"
WIDTHS_FROM = ("conv1", "layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class ResNet18(FeatureNetwork):
    """Five maps of `channels` channels and sides H/4, H/4, H/8, H/16, H/32: after the first
    pooling and after each layer. The classifier (`fc`) is not needed and not there.

    With `normalises` the buffers INPUT_MEAN and INPUT_STD, (3, 1, 1), are ImageNet's in -1..1.
    """

    input_mean: torch.Tensor | None
    input_std: torch.Tensor | None

    title = "ResNet-18"

    def __init__(self, channels: Iterable[int] = CHANNELS, normalises: bool = False) -> None:
        super().__init__()
        for name, value in imagenet_scale().items():
            self.register_buffer(name, value if normalises else None)
        stem, *wider = channels
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(stem)
        before = [stem, *wider[:-1]]
        layers = [
            nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
            for inputs, outputs, stride in zip(before, wider, (1, 2, 2, 2), strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        if self.input_mean is not None and self.input_std is not None:
            pictures = (pictures - self.input_mean) / self.input_std
        x = pictures.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        taps = [F.max_pool2d(x, 3, 2, 1)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            taps.append(layer(taps[-1]))
        return taps

    def foldable(self) -> Iterable[tuple[nn.Module, str, str]]:
        for module in self.modules():
            if isinstance(module, ResNet18 | BasicBlock):
                yield module, "conv1", "bn1"
            if isinstance(module, BasicBlock):
                yield module, "conv2", "bn2"
                if module.downsample is not None:
                    yield module.downsample, "0", "1"


def imagenet_scale() -> dict[str, torch.Tensor]:
    """INPUT_MEAN and INPUT_STD, (3, 1, 1) each, of pictures in -1..1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return {INPUT_MEAN: 2 * mean - 1, INPUT_STD: 2 * std}


def with_scale(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict, and ImageNet's scale with it where it comes from a trained classifier (`fc`);
    a network that was saved here has its scale, or none, already.
    """
    trained = "fc.weight" in tensors and INPUT_MEAN not in tensors
    return {**tensors, **(imagenet_scale() if trained else {})}


def channels_in(tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """The five channel counts of a state dict; the usual ones where it does not tell."""
    counts = [tensors.get(f"{name}.weight") for name in WIDTHS_FROM]
    return tuple(
        len(tensor) if tensor is not None and tensor.ndim == 4 and len(tensor) else usual
        for tensor, usual in zip(counts, CHANNELS, strict=True)
    )


def random_resnet(width: float = 1.0, seed: int = 0) -> ResNet18:
    """Convolutions drawn from `seed` (He normal, by fan-out); `calibrate` is still to do.

    `width` multiplies every channel count, which stays 1 at least.
    """
    network = ResNet18(max(1, round(count * width)) for count in CHANNELS)
    network.title = f"a RANDOM ResNet-18 (seed {seed}, width {width:g})"
    generator = seeded(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            with torch.no_grad():
                module.weight.normal_(0.0, math.sqrt(2 / fan_out), generator=generator)
    return network
