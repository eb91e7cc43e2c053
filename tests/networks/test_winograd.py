"""Convolution by minimal filters against torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eyescream_py.networks.pixels_first import as_planes, lies_so, planes_first
from eyescream_py.networks.winograd import _Convolution, convolve_by_tiles


def results(convolve, x, w, b, g):
    y = convolve(x, w, b)
    return [y, *torch.autograd.grad(y, (x, w, b), g)]


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_conv2d(size, dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 7, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, 7, 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 5, *size, dtype=torch.float64)
    expected = results(lambda x, w, b: F.conv2d(x, w, b, padding=1), x, w, b, g)
    rounded = (t.detach().to(dtype) for t in (x, w, b, g))
    found = results(_Convolution.apply, *(t.requires_grad_() for t in rounded))
    bound = 1e-13 if dtype == torch.float64 else 5e-6
    for a, b in zip(expected, found, strict=True):
        assert b.dtype == dtype
        assert (a - b).norm() <= bound * a.norm()


def test_slopes_of_the_pixels_lie_in_memory_as_the_pixels_do():
    pixels = torch.randn(4, 8, 2, 3)
    for x in (as_planes(pixels, 2), planes_first(as_planes(pixels, 2))):
        y = _Convolution.apply(x.requires_grad_(), torch.randn(5, 3, 3, 3), None)
        (slopes,) = torch.autograd.grad(y.sum(), x)
        assert lies_so(slopes) == lies_so(x)
        assert slopes.is_contiguous() == x.is_contiguous()


def test_slopes_of_the_weights_alone_and_of_the_pixels_alone():
    torch.manual_seed(0)
    x, w = torch.randn(2, 3, 4, 8).double(), torch.randn(4, 3, 3, 3).double()
    for one in (x, w):
        one.requires_grad_()
        (found,) = torch.autograd.grad(_Convolution.apply(x, w, None).square().sum(), one)
        (expected,) = torch.autograd.grad(F.conv2d(x, w, padding=1).square().sum(), one)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        one.requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_keeps_its_values_whatever_the_size(bias):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=bias))
    fast = copy.deepcopy(plain)
    convolve_by_tiles(fast, compiled=False)
    for shape, changed in (
        ((16, 128, 8, 8), True), ((4, 128, 16, 16), True), ((2, 128, 8, 8), False),
        ((16, 128, 9, 8), False), ((4, 128, 20, 20), False), ((128, 8, 8), False),
        ((16, 128, 8, 9), False), ((4, 128, 16, 20), False), ((4, 128, 20, 16), False),
        ((15, 128, 8, 8), False),
        ((0, 128, 8, 8), False),
    ):  # fmt: skip
        x = torch.rand(shape)
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=6e-6)
        assert torch.equal(fast(x), plain(x)) != changed
    x = torch.rand(16, 128, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), plain(x))


def test_only_wide_3x3_convolutions_are_changed():
    network = nn.Sequential(
        nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1),
        nn.Conv2d(128, 128, 5, padding=2), nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, 2, 1), nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, (3, 1), padding=1), nn.Conv2d(128, 128, 3, padding=1, dilation=2),
        nn.Conv2d(128, 64, 3, padding=1), nn.Conv2d(128, 128, 5, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
    )  # fmt: skip
    convolve_by_tiles(network, compiled=False)
    assert ["forward" in vars(layer) for layer in network] == [True] + 10 * [False]
