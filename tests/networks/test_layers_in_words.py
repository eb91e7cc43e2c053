"""Every network layer by layer, as the Lua programs' models have it: kernels, strides, chances."""

import pytest
import torch
from torch import nn

from eyescream_py.networks import models, models_c2f, models_small
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.networks.models_denoiser import create_decoder, create_encoder
from eyescream_py.torch7.layers.activations import LeakyReLU
from eyescream_py.torch7.layers.arithmetic import AddConstant, MulConstant
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout, WhiteNoise
from eyescream_py.torch7.random import TorchSource


def in_words(layer):
    if isinstance(layer, nn.Conv2d):
        size, stride, padding = layer.kernel_size, layer.stride[0], layer.padding[0]
        words = f"{size[0]}x{size[1]} {layer.in_channels}>{layer.out_channels}"
        same = stride > 1 or padding == (size[0] - 1) // 2
        return words + (f" /{stride}" if stride > 1 else "") + ("" if same else f" +{padding}")
    if isinstance(layer, nn.Linear):
        return f"{layer.in_features}>{layer.out_features}"
    if isinstance(layer, Dropout | SpatialDropout):
        return f"{type(layer).__name__} {layer.p}"
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return f"{'Max' if isinstance(layer, nn.MaxPool2d) else 'Avg'} {layer.kernel_size}"
    if isinstance(layer, LeakyReLU):
        return f"Leaky {layer.negval}"
    if isinstance(layer, MulConstant):
        return f"times {layer.constant}"
    if isinstance(layer, AddConstant):
        return f"plus {layer.constant}"
    if isinstance(layer, WhiteNoise):
        return f"noise {layer.mean} {layer.std}"
    return {"SpatialUpSamplingNearest": "Up", "BatchNorm2d": "Norm", "BatchNorm1d": "Norm"}.get(
        type(layer).__name__, type(layer).__name__
    )


DENOISER = (
    "3x3 1>8 +0, Norm, Leaky 0.333, 3x3 8>8 +0, Norm, Leaky 0.333, Dropout 0.2, View, 1152>2048, "
    "Norm, Leaky 0.333, Dropout 0.2, 2048>256, Sigmoid, View"
)
PAIRS_D = ", Dropout 0.5, View, {}>512, PReLU, Dropout 0.5, 512>1, Sigmoid"
FIRST_PAIR = "CAddTable, 3x3 3>64, PReLU, 3x3 64>64, PReLU, Max 2"
NETWORKS = {
    "G": (lambda: models.create_G((3, 32, 32), 100), "100>2048, PReLU, 2048>3072, Sigmoid, View"),
    "D, 16 px": (
        lambda: models.create_D((1, 16, 16)),
        "3x3 1>128, PReLU, 3x3 128>128, PReLU, Avg 2, 3x3 128>512 /2, PReLU, 3x3 512>1024 /2, "
        "PReLU, SpatialDropout 0.5, View, 4096>1024, PReLU, View, 256>128, PReLU, Dropout 0.5, "
        "128>128, PReLU, JoinTable, 1152>1, Sigmoid",
    ),
    "D, 32 px": (
        lambda: models.create_D((3, 32, 32)),
        "3x3 3>64, PReLU, 3x3 64>64, PReLU, Max 2, SpatialDropout 0.5, View, 16384>1024, PReLU, "
        "5x5 3>32, PReLU, 5x5 32>32, PReLU, Max 2, 5x5 32>54, PReLU, 5x5 54>54, PReLU, Max 2, "
        "SpatialDropout 0.5, View, 3456>1024, PReLU, Dropout 0.5, 1024>1024, PReLU, "
        "View, 3072>1024, PReLU, Dropout 0.5, 1024>1024, PReLU, "
        "JoinTable, 3072>1024, PReLU, Dropout 0.5, 1024>1, Sigmoid",
    ),
    "G upsampling": (
        lambda: models.create_G((3, 32, 32), 100, "upsampling"),
        "100>8192, View, PReLU, Up, 5x5 128>256, Norm, PReLU, Up, 5x5 256>128, Norm, PReLU, "
        "3x3 128>3, Sigmoid",
    ),
    "D b": (
        lambda: models.create_D((3, 32, 32), "b"),
        "3x3 3>64, PReLU, SpatialDropout 0.2, Avg 2, 3x3 64>128, PReLU, SpatialDropout 0.2, Avg 2, "
        "3x3 128>256, PReLU, SpatialDropout 0.2, Avg 2, 3x3 256>512, PReLU, SpatialDropout 0.2, "
        "Avg 2, View, 2048>512, PReLU, Dropout 0.5, 512>512, PReLU, Dropout 0.5, 512>1, Sigmoid",
    ),
    "G after a decoder": (
        lambda: models.create_corrector((1, 16, 16)),
        "Identity, View, 256>1024, PReLU, 1024>256, Tanh, times 0.25, View, CAddTable",
    ),
    "autoencoder": (
        lambda: create_autoencoder((1, 16, 16), 256),
        "View, 256>512, ReLU, 512>256, Tanh, Dropout 0.5, 256>256, ReLU, 256>256, Sigmoid, View",
    ),
    "encoder": (create_encoder, "noise 0 0.1"),
    "denoiser": (lambda: create_decoder((1, 16, 16)), DENOISER),
    "pairs G": (
        lambda: models_c2f.create_G((3, 32, 32)),
        "JoinTable, 3x3 4>64, PReLU, 7x7 64>128, PReLU, 5x5 128>3",
    ),
    "pairs G b": (
        lambda: models_c2f.create_G((3, 32, 32), "b"),
        "JoinTable, 3x3 4>64, PReLU, 3x3 64>64, PReLU, 5x5 64>256, PReLU, 7x7 256>3",
    ),
    "pairs G c": (
        lambda: models_c2f.create_G((3, 32, 32), "c"),
        "JoinTable, 3x3 4>64, PReLU, 3x3 64>128, PReLU, 5x5 128>256, PReLU, 7x7 256>3",
    ),
    "pairs G d": (
        lambda: models_c2f.create_G((3, 32, 32), "d"),
        "JoinTable, 3x3 4>64, PReLU, 3x3 64>64, PReLU, 5x5 64>128, PReLU, 5x5 128>256, PReLU, "
        "7x7 256>3",
    ),
    "pairs D": (lambda: models_c2f.create_D((3, 32, 32)), FIRST_PAIR + PAIRS_D.format(16384)),
    "pairs D b": (
        lambda: models_c2f.create_D((3, 32, 32), "b"),
        f"{FIRST_PAIR}, 3x3 64>128, PReLU, 3x3 128>128, PReLU, Max 2" + PAIRS_D.format(8192),
    ),
    "pairs D c": (
        lambda: models_c2f.create_D((3, 32, 32), "c"),
        f"{FIRST_PAIR}, 3x3 64>128, PReLU, 3x3 128>256, PReLU, Max 2" + PAIRS_D.format(16384),
    ),
    "small G": (
        lambda: models_small.create_G((1, 16, 16)),
        "100>2048, View, Norm, Leaky 0.2, Up, 3x3 128>64, Norm, Leaky 0.2, Up, 3x3 64>32, Norm, "
        "Leaky 0.2, 3x3 32>1, Sigmoid",
    ),
    "small D": (
        lambda: models_small.create_D((1, 16, 16)),
        "plus -0.5, times 4.0, 3x3 1>32, Leaky 0.2, 4x4 32>64 /2, Leaky 0.2, 4x4 64>128 /2, "
        "Leaky 0.2, View, 2048>1, Sigmoid",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name):
    make, words = NETWORKS[name]
    with torch.device("meta"):  # without memory
        network = make()
    found = [in_words(layer) for layer in network.modules() if not list(layer.children())]
    assert ", ".join(found) == words


def test_start_weights_of_the_small_networks():
    """He et al. 2015 for a slope of 0.2 (gain 1.387), D's last layer 1/sqrt(fan_in)."""
    D, G = models_small.create_D((1, 16, 16)), models_small.create_G((1, 16, 16))
    for network in (D, G):
        models.reset_layers(network, TorchSource(1))
        models_small.draw_small_weights(network, TorchSource(2))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert (layer.weight == 1).all()
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                assert not layer.bias.any()
    for layer, fan_in, gain in ((D[4], 32 * 16, 1.387), (D[-2], 2048, 1.0), (G[0], 100, 1.387)):
        assert float(layer.weight.detach().std()) == pytest.approx(gain / fan_in**0.5, rel=0.05)
