"""The networks of `--recipe best`: a convolutional G and a small convolutional D.

They are plain stacks of layers that Lua's nn has, so a `.net` holds them and Lua Torch opens it. D
costs a fraction of Lua's, which pays most of the minutes of a short training (docs/evaluate.md).
After Radford et al. 2015 (arXiv 1511.06434) with nearest upsampling (Odena et al. 2016).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from eyescream_py.networks.models import Dims
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.activations import LeakyReLU
from eyescream_py.torch7.layers.arithmetic import AddConstant, MulConstant
from eyescream_py.torch7.layers.containers import ConcatTable
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.tables import CAddTable
from eyescream_py.torch7.random import RandomSource

SLOPE = 0.2  # of the leaky rectifiers
SMALLEST_SIDE = 7  # of the planes that G starts from and D ends with, at most where halving allows
WIDEST = 128  # planes before D's last layer; more cost more than they give in a minute or two
NARROWEST = 16  # planes of the picture's size
DEEP_LEVELS, DEEP_PLANES = 3, 64  # where the deep networks have a second convolution


def create_G(
    dims: Dims, noise_dim: int = 100, planes: int = 0, deep: bool = False
) -> nn.Sequential:
    """Noise (N, noise_dim) in [-1,1] -> pictures (N,C,H,W) in 0..1, by doublings from 4 to 7 px, or
    from the odd number of pixels at which halving ends.

    It starts from so many `planes` (0: 128, or 256 where it doubles four times or more, as at
    64 px) and halves them down to 16; `deep`: its three coarsest levels, which arrange a face, have
    a second convolution. Raises UserError for pictures that are no squares.
    """
    channels, side, levels = dims[0], *_levels(dims)
    planes = planes or (128 if levels < 4 else 256)
    layers: list[nn.Module] = [
        nn.Linear(noise_dim, planes * side * side),
        View(planes, side, side),
        nn.BatchNorm2d(planes),
        LeakyReLU(SLOPE),
    ]
    for level in range(levels + 1):
        if level:
            narrower = max(min(NARROWEST, planes), planes // 2)
            layers += [SpatialUpSamplingNearest(2), *_normalised(planes, narrower)]
            planes = narrower
        if deep and level < DEEP_LEVELS:
            layers += _normalised(planes, planes)
    layers += [nn.Conv2d(planes, channels, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers)


def _normalised(planes: int, made: int) -> list[nn.Module]:
    return [nn.Conv2d(planes, made, 3, padding=1), nn.BatchNorm2d(made), LeakyReLU(SLOPE)]


def create_D(
    dims: Dims, planes: int = 0, deep: bool = False, residual: bool = False
) -> nn.Sequential:
    """Pictures (N,C,H,W) in 0..1 -> probability of being real (N,1), by strided convolutions.

    It ends with so many `planes` (0: 128), but begins with 16 at least, which become 256 at 64 px;
    `deep`: a 3x3 convolution follows each halving to 64 planes or more; `residual`: a deep one with
    a shortcut past each halving (Karras et al. 2020, arXiv 1912.04958) and one more convolution at
    the end. No dropout and no batch normalisation: a penalty on its slope (`--D_r1`) is what holds
    it. Raises UserError for pictures that are no squares.
    """
    channels, side, levels = dims[0], *_levels(dims)
    planes = max(NARROWEST, (planes or WIDEST) >> levels)
    layers: list[nn.Module] = [
        AddConstant(-0.5),
        MulConstant(4.0),  # pictures of unit variance, more or less
        *_rectified(nn.Conv2d(channels, planes, 3, padding=1)),
    ]
    for _ in range(levels):
        made = 2 * planes
        halving = _rectified(nn.Conv2d(planes, made, 4, stride=2, padding=1))
        if (deep or residual) and made >= DEEP_PLANES:
            halving += _rectified(nn.Conv2d(made, made, 3, padding=1))
        layers += _with_shortcut(halving, planes, made) if residual else halving
        planes = made
    if residual:  # which joins what came by the last two ways
        layers += _rectified(nn.Conv2d(planes, planes, 3, padding=1))
    flat = planes * side * side
    return nn.Sequential(*layers, View(flat), nn.Linear(flat, 1), nn.Sigmoid())


def _rectified(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, LeakyReLU(SLOPE)]


def _with_shortcut(halving: list[nn.Module], planes: int, made: int) -> list[nn.Module]:
    """The layers, and what they get, pooled and mixed, added to what they make, at one variance."""
    shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(planes, made, 1))
    both = ConcatTable(nn.Sequential(*halving), shortcut)
    return [both, CAddTable(), MulConstant(math.sqrt(0.5))]


def _levels(dims: Dims) -> tuple[int, int]:
    """(side of the smallest planes, halvings from the picture down to them)."""
    _, height, width = dims
    if height != width:
        raise UserError(f"pictures of {width}x{height}: the networks take squares only")
    side, levels = height, 0
    while side > SMALLEST_SIDE and side % 2 == 0:
        side, levels = side // 2, levels + 1
    return side, levels


@torch.no_grad()
def draw_small_weights(network: nn.Module, source: RandomSource) -> None:
    """Start weights: convolutions and hidden layers after He et al. 2015 for the leaky slope, D's
    last layer N(0, 1/fan_in), biases 0; BatchNorm starts as the identity.
    """
    gain = math.sqrt(2 / (1 + SLOPE**2))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            last = isinstance(layer, nn.Linear) and layer.out_features == 1
            std = (1.0 if last else gain) / math.sqrt(layer.weight[0].numel())
            source.normal_(layer.weight, 0, std)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.fill_(1)
            layer.bias.zero_()
