"""The networks of --recipe best: shapes, sizes, start weights, and a .net that holds them."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eyescream_py import torch7
from eyescream_py.networks import models_small
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.random import TorchSource

SIZES = [(1, 16, 299_841), (1, 32, 304_353), (3, 32, 304_643), (1, 64, 806_753), (1, 24, 558_401)]


@pytest.mark.parametrize(("channels", "size", "parameters"), SIZES)
def test_noise_becomes_pictures_and_pictures_become_answers(channels, size, parameters):
    dims = (channels, size, size)
    G, D = models_small.create_G(dims), models_small.create_D(dims)
    assert sum(p.numel() for p in G.parameters()) == parameters
    pictures = G(torch.rand(3, 100) * 2 - 1)
    assert pictures.shape == (3, *dims)
    assert float(pictures.min()) > 0
    assert float(pictures.max()) < 1
    assert D(pictures).shape == (3, 1)


def widths(network):
    return [layer.out_channels for layer in network if isinstance(layer, torch.nn.Conv2d)]


def test_deep_networks_have_a_second_convolution_on_their_coarse_levels():
    dims = (1, 32, 32)
    G, D = models_small.create_G(dims, deep=True), models_small.create_D(dims, deep=True)
    assert widths(G) == [128, 64, 64, 32, 32, 16, 1]
    assert widths(D) == [16, 32, 64, 64, 128, 128]
    pictures = G(torch.rand(3, 100))
    assert pictures.shape == (3, *dims)
    assert D(pictures).shape == (3, 1)


def test_a_residual_D_adds_shortcuts_to_a_deep_one():
    torch.manual_seed(1)
    D = models_small.create_D((1, 16, 16), 64, residual=True).double()
    every = [m for m in D.modules() if isinstance(m, torch.nn.Conv2d)]
    shapes = [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in every]
    halvings = [[(32, 4, 2), (32, 1, 1)], [(64, 4, 2), (64, 3, 1), (64, 1, 1)]]
    assert shapes == [(16, 3, 1), *halvings[0], *halvings[1], (64, 3, 1)]

    # the same by hand: convolutions in the order that they are listed in
    def convolved(x, place, slope=0.2):
        m = every[place]
        y = F.conv2d(x, m.weight, m.bias, m.stride, m.padding)
        return F.leaky_relu(y, slope)

    pictures = torch.rand(3, 1, 16, 16, dtype=torch.float64)
    x = convolved((pictures - 0.5) * 4, 0)
    x = (convolved(x, 1) + convolved(F.avg_pool2d(x, 2), 2, slope=1)) / 2**0.5
    x = (convolved(convolved(x, 3), 4) + convolved(F.avg_pool2d(x, 2), 5, slope=1)) / 2**0.5
    last = D[-2]
    answers = torch.sigmoid(F.linear(convolved(x, 6).flatten(1), last.weight, last.bias))
    torch.testing.assert_close(D(pictures), answers, rtol=1e-12, atol=1e-12)


def test_planes_set_the_widths():
    G, D = models_small.create_G((1, 32, 32), planes=192), models_small.create_D((1, 32, 32), 192)
    assert (widths(G), widths(D)) == ([96, 48, 24, 1], [24, 48, 96, 192])
    narrow = models_small.create_G((1, 16, 16), planes=4)
    assert narrow(torch.rand(2, 100)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("side", [8, 12, 16, 32, 36, 48, 64, 72, 80, 128])
def test_planes_that_nobody_chose_are_those_that_the_flags_tell_of(side):
    """As the help of --G_planes and --D_planes has it."""
    with torch.device("meta"):
        D, G = models_small.create_D((1, side, side)), models_small.create_G((1, side, side))
    halvings = sum(layer.stride == (2, 2) for layer in D if isinstance(layer, nn.Conv2d))
    of_D, of_G = (
        max(layer.out_channels for layer in net if isinstance(layer, nn.Conv2d)) for net in (D, G)
    )
    assert of_D == max(128, 16 * 2**halvings)
    assert max(of_G, G[2].num_features) == (256 if halvings >= 4 else 128)


def test_start_weights_keep_the_variance_of_real_pictures():
    pictures = torch.rand(200, 1, 16, 16, dtype=torch.float64)
    for residual in (False, True):
        D = models_small.create_D((1, 16, 16), residual=residual).double()
        models_small.draw_small_weights(D, TorchSource(1))
        assert 0.3 < float(D[:-1](pictures).std()) < 3


def test_a_net_file_keeps_them(tmp_path):
    noise, pictures = torch.rand(2, 100), torch.rand(2, 1, 16, 16)
    for network, x in (
        (models_small.create_G((1, 16, 16)), noise),
        (models_small.create_D((1, 16, 16)), pictures),
        (models_small.create_D((1, 16, 16), residual=True), pictures),
    ):
        models_small.draw_small_weights(network, TorchSource(1))
        network.to(memory_format=torch.channels_last).eval()
        file = io.BytesIO()
        torch7.save(file, torch7.from_module(network))
        file.seek(0)
        again = torch7.to_module(torch7.load(file)).eval()
        torch.testing.assert_close(again(x), network(x), rtol=1e-5, atol=1e-6)


def test_oblongs_are_refused():
    with pytest.raises(UserError, match="squares"):
        models_small.create_D((1, 16, 32))
