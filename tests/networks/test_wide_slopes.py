import pytest
import torch
from torch import nn

from eyescream_py.networks.wide_slopes import own_values, suits, weight_slopes
from eyescream_py.system import kernels_in_torch


@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "height", "width"),
    [(2, 8, 16, 9, 6), (3, 16, 8, 8, 8), (1, 8, 8, 1, 2)],
)
def test_products_are_the_slopes_of_the_weights(n, inputs, outputs, height, width):
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, 7, padding=3).double()
    x = torch.randn(n, inputs, height, width, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    y = layer(x)
    g = torch.randn_like(y)
    assert suits(layer, x, g)
    (expected,) = torch.autograd.grad(y, layer.weight, g)
    torch.testing.assert_close(weight_slopes(x, g, 7, kernels_in_torch), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 8, 7, padding=2),
        nn.Conv2d(8, 8, 7, stride=2, padding=3), nn.Conv2d(8, 8, (7, 9), padding=(3, 4)),
        nn.Conv2d(8, 8, 7, padding=6, dilation=2), nn.Conv2d(8, 3, 7, padding=3),
        nn.Conv2d(3, 8, 7, padding=3), nn.Conv2d(8, 8, 6, padding=3),
    ],
)  # fmt: skip
def test_others_are_left_to_cudnn(layer):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(1, layer.in_channels, 15, 15, dtype=dtype)
        assert not suits(layer, x, layer.to(dtype)(x))


@pytest.mark.parametrize(
    ("side", "planes", "out", "taken"),
    [
        (5, 64, 256, True), (5, 128, 256, True), (5, 64, 128, False), (5, 128, 32, False),
        (5, 8, 32, True), (5, 32, 32, True), (5, 32, 56, True), (5, 56, 56, True),
        (5, 56, 64, False), (3, 8, 64, True), (3, 8, 128, True), (3, 8, 32, False),
        (3, 16, 64, False), (3, 64, 64, False), (3, 128, 128, False), (3, 8, 256, False),
    ],
)  # fmt: skip
def test_smaller_kernels_are_taken_for_16_bits_where_they_were_quicker(side, planes, out, taken):
    layer = nn.Conv2d(planes, out, side, padding=side // 2)
    x, g = torch.zeros(1, planes, 9, 9), torch.zeros(1, out, 9, 9)
    assert suits(layer, x.bfloat16(), g.bfloat16()) is taken
    assert not suits(layer, x, g)


def test_planes_that_were_filled_up_count():
    layer = nn.Conv2d(30, 54, 5, padding=2)
    x, g = torch.zeros(1, 32, 9, 9).bfloat16(), torch.zeros(1, 56, 9, 9).bfloat16()
    assert suits(layer, x, g)
    assert not suits(layer, x[:, :30], g[:, :54])


@pytest.mark.parametrize(
    ("dtype", "called"),
    [(torch.bfloat16, ["weight_slopes"]), (torch.float32, ["multiply", "place"])],
    ids=str,
)
def test_16_bits_are_left_to_one_kernel_and_more_to_products(dtype, called):
    watched = set()

    class Watched:
        def __getattr__(self, name):
            watched.add(name)
            return getattr(kernels_in_torch, name)

    weight_slopes(torch.ones(2, 8, 5, 5, dtype=dtype), torch.ones(2, 8, 5, 5, dtype=dtype), 7,
                  Watched())  # fmt: skip
    assert sorted(watched) == called


def test_rounded_pictures_are_summed_in_full():
    torch.manual_seed(0)
    x, g = torch.randn(40, 8, 6, 7).bfloat16(), torch.randn(40, 16, 6, 7).bfloat16()
    layer = nn.Conv2d(8, 16, 7, padding=3).double()
    (truth,) = torch.autograd.grad(layer(x.double()), layer.weight, g.double())
    found = weight_slopes(x, g, 7, kernels_in_torch)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), truth, rtol=2**-8, atol=1e-3)


def test_which_values_a_kernel_of_ours_makes():
    layer, small = nn.Conv2d(32, 64, 7, padding=3), nn.Conv2d(32, 64, 5, padding=2)
    x, weight = torch.empty(8, 32, 32, 32).bfloat16(), layer.weight.bfloat16()
    assert own_values(layer, x, weight)
    assert not own_values(layer, x[1:], weight)  # too few pixels
    assert not own_values(layer, x.float(), layer.weight)
    assert not own_values(layer, x, weight[:40])
    assert not own_values(layer, x, weight[:, :24])
    assert not own_values(small, x, small.weight.bfloat16())
    strided = nn.Conv2d(32, 64, 7, padding=3, stride=2)
    assert not own_values(strided, x, weight)
