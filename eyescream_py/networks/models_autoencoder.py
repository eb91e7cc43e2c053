"""The autoencoder of `train_autoencoder.lua`, whose decoder can stand before a generator."""

from __future__ import annotations

import math

from torch import nn

from eyescream_py.networks.models import Dims
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout

DECODER_START = 6  # 0-based: the layers from here on make pictures of a code


def create_autoencoder(dims: Dims, code: int) -> nn.Sequential:
    """Pictures (N,C,H,W) in 0..1 -> a code of `code` numbers in -1..1 -> the same pictures."""
    size = math.prod(dims)
    return nn.Sequential(
        View(size),
        nn.Linear(size, 512),
        nn.ReLU(),
        nn.Linear(512, code),
        nn.Tanh(),
        Dropout(),
        nn.Linear(code, 256),
        nn.ReLU(),
        nn.Linear(256, size),
        nn.Sigmoid(),
        View(*dims),
    )
