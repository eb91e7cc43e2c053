"""The frozen ResNet-18 whose activations the loss compares (He et al. 2015, arXiv 1512.03385).

Names of tensors are torchvision's, so that a state dict from there can be given as a file. Without
one the network is random, with the statistics of its batch normalisations taken from training
photographs once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from eyescream_py.ganless_hd.checkpoints import read_tensors
from eyescream_py.ganless_hd.networks import scaled
from eyescream_py.system.errors import UserError

CHANNELS = (64, 64, 128, 256, 512)
SHOWN_NAMES = 6


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


class ResNet18Features(nn.Module):
    """Pictures (N, 3, H, W) -> five activation maps of 64, 64, 128, 256, 512 channels (times
    `width`).

    Their sides are H/4, H/4, H/8, H/16, H/32: after the first pooling and after each layer.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem, *channels = (scaled(count, width) for count in CHANNELS)
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(stem)
        before = [stem, *channels[:-1]]
        layers = [
            nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
            for inputs, outputs, stride in zip(before, channels, (1, 2, 2, 2), strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        x = pictures.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        taps = [F.max_pool2d(x, 3, 2, 1)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            taps.append(layer(taps[-1]))
        return taps


def random_features(width: float, seed: int) -> ResNet18Features:
    """Convolutions drawn from `seed` (He normal, by fan-out); `calibrate` is still to do."""
    network = ResNet18Features(width)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            with torch.no_grad():
                module.weight.normal_(0.0, math.sqrt(2 / fan_out), generator=generator)
    return network


@torch.no_grad()
def calibrate(network: ResNet18Features, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of every batch normalisation to the mean over `batches`."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    network.train()
    for batch in batches:
        network(batch)
    network.eval()


def load_features(path: str | Path) -> ResNet18Features:
    """A ResNet-18 from a torchvision-named state dict (.safetensors, .pth); its width is read from
    the file.

    Raises UserError naming the tensors that are missing or of another size. The classifier (`fc`)
    is not needed.
    """
    tensors, _ = read_tensors(path)
    first = tensors.get("conv1.weight")
    width = len(first) / CHANNELS[0] if first is not None and first.ndim == 4 else 1.0
    network = ResNet18Features(width)
    wanted = {
        k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    _check_names(path, wanted, tensors)
    network.load_state_dict({name: tensors[name] for name in wanted}, strict=False)
    return network.eval()


def _check_names(
    path: str | Path, wanted: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> None:
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise UserError(
            f"{path}: not a ResNet-18 state dict, {_listed('tensors', missing)} missing"
        )
    wrong = [name for name in wanted if tensors[name].shape != wanted[name].shape]
    if wrong:
        raise UserError(
            f"{path}: not a ResNet-18, other sizes than expected in {_listed('tensors', wrong)}"
        )


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN_NAMES])}{more})"


def frozen(network: ResNet18Features) -> ResNet18Features:
    """The network for use in a loss: no weight gradients, normalisations folded away.

    `network` itself is changed and returned; save its state dict before.
    """
    network.eval()
    for module in list(network.modules()):
        if isinstance(module, ResNet18Features | BasicBlock):
            _fold(module, "conv1", "bn1")
        if isinstance(module, BasicBlock):
            _fold(module, "conv2", "bn2")
            if module.downsample is not None:
                _fold(module.downsample, "0", "1")
    for parameter in network.requires_grad_(False).parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.contiguous(memory_format=torch.channels_last)
    return network


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    fused = fuse_conv_bn_eval(
        cast(nn.Conv2d, module.get_submodule(conv)),
        cast(nn.BatchNorm2d, module.get_submodule(norm)),
    )
    setattr(module, conv, fused)
    setattr(module, norm, nn.Identity())
