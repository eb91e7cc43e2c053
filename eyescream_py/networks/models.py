"""The generator and the discriminators of `models.lua` (2015-11-08), and the later ones of
2015-11-19.

Every network is an `nn.Sequential` in the nesting of the Lua program, so that `torch7.from_module`
returns the tree that Lua would have saved and `.parameters()` runs in the order of Lua's
`getParameters`. A picture's size is written as dims = (C, H, W); pixels are 0..1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.arithmetic import MulConstant
from eyescream_py.torch7.layers.containers import ConcatTable
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from eyescream_py.torch7.layers.shapes import Identity, View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.layers.tables import CAddTable, JoinTable
from eyescream_py.torch7.random import RandomSource

Dims = tuple[int, int, int]


def create_G(dims: Dims, noise_dim: int = 100, architecture: str = "mlp") -> nn.Sequential:
    """Noise (N, noise_dim) in [-1,1] -> pictures (N,C,H,W) in 0..1.

    `mlp` is the program's default; `upsampling` the convolutional one of its later version.
    Raises UserError for a size the architecture cannot make.
    """
    if architecture == "upsampling":
        return _upsampling_G(dims, noise_dim)
    return nn.Sequential(
        nn.Linear(noise_dim, 2048),
        nn.PReLU(),
        nn.Linear(2048, math.prod(dims)),
        nn.Sigmoid(),
        View(*dims),
    )


def _upsampling_G(dims: Dims, noise_dim: int) -> nn.Sequential:
    channels, height, width = dims
    if height % 4 or width % 4:
        raise UserError(
            f"--scale={height}: the upsampling generator doubles twice, give a multiple of 4"
        )
    start = (128, height // 4, width // 4)
    return nn.Sequential(
        nn.Linear(noise_dim, math.prod(start)),
        View(*start),
        nn.PReLU(),
        SpatialUpSamplingNearest(2),
        nn.Conv2d(128, 256, 5, padding=2),
        nn.BatchNorm2d(256),
        nn.PReLU(),
        SpatialUpSamplingNearest(2),
        nn.Conv2d(256, 128, 5, padding=2),
        nn.BatchNorm2d(128),
        nn.PReLU(),
        nn.Conv2d(128, channels, 3, padding=1),
        nn.Sigmoid(),
    )


def create_corrector(dims: Dims) -> nn.Sequential:
    """The G of `--autoencoder`: pictures (N,C,H,W) -> x + 0.25*tanh(MLP(x)), same shape."""
    size = math.prod(dims)
    change = nn.Sequential(
        View(size),
        nn.Linear(size, 1024),
        nn.PReLU(),
        nn.Linear(1024, size),
        nn.Tanh(),
        MulConstant(0.25),
        View(*dims),
    )
    return nn.Sequential(ConcatTable(Identity(), change), CAddTable())


def create_D(dims: Dims, architecture: str = "default") -> nn.Sequential:
    """Pictures (N,C,H,W) -> probability of being real (N,1).

    `default` is the two-branch network at 16 px and the three-branch one elsewhere; `b` the plain
    convolutional one of the later program. Raises UserError for a size it cannot take.
    """
    _, height, width = dims
    if height != width:
        raise UserError(f"pictures of {width}x{height}: the networks take squares only")
    if architecture == "b":
        return _plain_D(dims)
    return _D16(dims) if height == 16 else _D32(dims)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2), nn.PReLU()]


def _dense(dims: Dims, width: int) -> nn.Sequential:
    """A branch that sees all pixels at once."""
    size = math.prod(dims)
    layers = [nn.Linear(size, width), nn.PReLU(), Dropout(), nn.Linear(width, width), nn.PReLU()]
    return nn.Sequential(View(size), *layers)


def _D16(dims: Dims) -> nn.Sequential:
    channels = dims[0]
    conv = nn.Sequential(
        *_conv(channels, 128, 3),
        *_conv(128, 128, 3),
        nn.AvgPool2d(2),
        *_conv(128, 512, 3, stride=2),
        *_conv(512, 1024, 3, stride=2),
        SpatialDropout(),
        View(4096),
        nn.Linear(4096, 1024),
        nn.PReLU(),
    )
    return nn.Sequential(
        ConcatTable(conv, _dense(dims, 128)), JoinTable(2), nn.Linear(1152, 1), nn.Sigmoid()
    )


def _D32(dims: Dims) -> nn.Sequential:
    channels, size, _ = dims
    if size % 4 or size < 8:
        raise UserError(
            f"--scale={size}: the discriminator halves twice, give a multiple of 4, at least 8"
        )
    fine = nn.Sequential(
        *_conv(channels, 64, 3),
        *_conv(64, 64, 3),
        nn.MaxPool2d(2),
        SpatialDropout(),
        View(64 * (size // 2) ** 2),
        nn.Linear(64 * (size // 2) ** 2, 1024),
        nn.PReLU(),
    )
    coarse = nn.Sequential(
        *_conv(channels, 32, 5),
        *_conv(32, 32, 5),
        nn.MaxPool2d(2),
        *_conv(32, 54, 5),
        *_conv(54, 54, 5),
        nn.MaxPool2d(2),
        SpatialDropout(),
        View(54 * (size // 4) ** 2),
        nn.Linear(54 * (size // 4) ** 2, 1024),
        nn.PReLU(),
        Dropout(),
        nn.Linear(1024, 1024),
        nn.PReLU(),
    )
    return nn.Sequential(
        ConcatTable(fine, coarse, _dense(dims, 1024)),
        JoinTable(2),
        nn.Linear(3072, 1024),
        nn.PReLU(),
        Dropout(),
        nn.Linear(1024, 1),
        nn.Sigmoid(),
    )


def _plain_D(dims: Dims) -> nn.Sequential:
    channels, size, _ = dims
    if size % 16:
        raise UserError(f"--scale={size}: D_arch b halves four times, give a multiple of 16")
    layers: list[nn.Module] = []
    planes = channels
    for wider in (64, 128, 256, 512):
        layers += [*_conv(planes, wider, 3), SpatialDropout(0.2), nn.AvgPool2d(2)]
        planes = wider
    flat = 512 * (size // 16) ** 2
    layers += [View(flat), nn.Linear(flat, 512), nn.PReLU(), Dropout()]
    layers += [nn.Linear(512, 512), nn.PReLU(), Dropout(), nn.Linear(512, 1), nn.Sigmoid()]
    return nn.Sequential(*layers)


@torch.no_grad()
def reset_layers(network: nn.Module, source: RandomSource) -> None:
    """Draw every layer's parameters as Lua's nn does on creation, in construction order.

    Linear and convolution: weights, then biases, uniform +-1/sqrt(fan_in). BatchNorm: weights
    uniform 0..1, biases 0. A PReLU's slope is 0.25 and draws nothing.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            source.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                source.uniform_(layer.bias, -bound, bound)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            source.uniform_(layer.weight, 0, 1)
            layer.bias.zero_()
        elif isinstance(layer, nn.PReLU):
            layer.weight.fill_(0.25)


@torch.no_grad()
def draw_start_weights(network: nn.Sequential, source: RandomSource) -> None:
    """Overwrite the top-level modules' weights with N(0, 0.005) and biases with N(0, 0.001).

    Lua's `initializeWeights` saw only the direct children: nested branches keep what they have; a
    top-level PReLU's slope is overwritten too.
    """
    for layer in network.children():
        for name, std in (("weight", 0.005), ("bias", 0.001)):
            parameter = getattr(layer, name, None)
            if isinstance(parameter, Tensor):
                source.normal_(parameter, 0, std)


def free_parameters(network: nn.Module) -> int:
    """What Lua printed as the number of free parameters: weights without biases."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith("bias"))
