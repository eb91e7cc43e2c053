"""Convolution through Fourier transforms against torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eyescream_py import torch7
from eyescream_py.networks import models_c2f
from eyescream_py.networks.fft_convolution import _Convolution, convolve_by_fourier


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (11, 13), (5, 3)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_values_and_gradients_are_those_of_conv2d(size, kernel):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    expected, found = F.conv2d(x, w, padding=kernel // 2), _Convolution.apply(x, w)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, (x, w), g), torch.autograd.grad(expected, (x, w), g), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_generator_of_pairs_keeps_its_values_and_its_layers():
    torch.manual_seed(0)
    plain = models_c2f.create_G((1, 8, 8))
    fast = copy.deepcopy(plain)
    convolve_by_fourier(fast, compiled=False)
    copied = copy.deepcopy(fast)
    noise, coarse = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    expected = plain(noise, coarse)
    torch.testing.assert_close(fast(noise, coarse), expected, rtol=1e-5, atol=1e-6)
    assert [type(layer) for layer in fast] == [type(layer) for layer in plain]
    assert torch7.from_module(fast).typename == torch7.from_module(plain).typename
    with torch.no_grad():
        fast[3].weight.zero_()
    torch.testing.assert_close(copied(noise, coarse), expected, rtol=1e-5, atol=1e-6)


def test_only_wide_convolutions_with_large_kernels_are_changed():
    network = nn.Sequential(
        nn.Conv2d(64, 128, 7, padding=3), nn.Conv2d(32, 54, 5, padding=2),
        nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(64, 128, 7, padding=3, stride=2),
        nn.Conv2d(31, 64, 7, padding=3), nn.Conv2d(64, 31, 7, padding=3),
        nn.Conv2d(64, 64, 7, padding=2), nn.Conv2d(64, 64, (7, 3), padding=3),
        nn.Conv2d(64, 64, 7, padding=3, dilation=2), nn.Conv2d(64, 64, 8, padding=3),
        nn.Conv2d(64, 64, 7, padding=3, groups=2),
    )  # fmt: skip
    for rounded, expected in ((False, [True, True]), (True, [True, False])):
        twin = copy.deepcopy(network)
        convolve_by_fourier(twin, rounded, compiled=False)
        assert ["forward" in vars(layer) for layer in twin] == [*expected, *9 * [False]]


def test_a_layer_without_a_bias():
    plain = nn.Conv2d(32, 32, 5, padding=2, bias=False)
    fast, x = copy.deepcopy(plain), torch.rand(1, 32, 8, 8)
    convolve_by_fourier(fast, compiled=False)
    assert not torch.equal(fast(x), plain(x))
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_computed_in_full():
    torch.manual_seed(0)
    plain = nn.Conv2d(64, 64, 7, padding=3)
    fast = nn.Sequential(copy.deepcopy(plain))
    convolve_by_fourier(fast, rounded=True, compiled=False)
    x = torch.rand(2, 64, 8, 8).bfloat16()
    exact = plain.weight.bfloat16().double()
    truth = F.conv2d(x.double(), exact, plain.bias.bfloat16().double(), padding=3)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(x), fast(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert (found.double() - truth).norm() <= 1.1 * (expected.double() - truth).norm()
    found.float().sum().backward()
    assert fast[0].weight.grad.dtype == fast[0].bias.grad.dtype == torch.float32
