"""The denoiser of `train_denoiser.lua`: an encoder that adds noise and a decoder that takes it
away.
"""

from __future__ import annotations

import math

from torch import nn

from eyescream_py.networks.models import Dims
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.activations import LeakyReLU
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, WhiteNoise


def create_encoder() -> nn.Sequential:
    """Adds N(0, 0.1) while training, nothing in evaluation."""
    return nn.Sequential(WhiteNoise(0, 0.1))


def create_decoder(dims: Dims) -> nn.Sequential:
    """Noisy pictures (N,C,H,W) -> clean ones in 0..1. UserError below 5 pixels."""
    channels, height, width = dims
    if min(height, width) < 5:
        raise UserError(f"--scale={height}: the denoiser needs at least 5 pixels")
    flat = 8 * (height - 4) * (width - 4)
    size = math.prod(dims)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3),
        nn.BatchNorm2d(8),
        LeakyReLU(0.333),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        LeakyReLU(0.333),
        Dropout(0.2),
        View(flat),
        nn.Linear(flat, 2048),
        nn.BatchNorm1d(2048),
        LeakyReLU(0.333),
        Dropout(0.2),
        nn.Linear(2048, size),
        nn.Sigmoid(),
        View(*dims),
    )
