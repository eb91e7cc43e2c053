"""The layout of convolutions by minimal filters, and the layers that stand beside them in it."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of, planes_first
from eyescream_py.torch7.layers.stochastic import SpatialDropout
from tests.system.test_compiled import needs_compiler


def test_there_and_back():
    x = torch.randn(2, 3, 4, 5)
    pixels = pixels_of(x)
    assert torch.equal(pixels[1, 2], x[:, :, 1, 2].reshape(-1))
    planes = as_planes(pixels, 2)
    assert torch.equal(planes, x)
    assert lies_so(planes)
    assert not lies_so(x)
    assert pixels_of(planes).data_ptr() == pixels.data_ptr()
    assert torch.equal(planes_first(planes), x)
    assert planes_first(planes).is_contiguous()
    last = x.to(memory_format=torch.channels_last)
    assert not lies_so(last)
    assert torch.equal(planes_first(last), x)


def results(network, x):
    y = network(x)
    g = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad(y, [x, *network.parameters()], g)]


@pytest.mark.parametrize("pooling", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("planes", [1, 3, 16])
def test_a_chain_of_layers_keeps_its_values_and_gradients(planes, pooling):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(planes, 128, 3, padding=1, bias=planes == 1), nn.PReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.PReLU(), SpatialDropout().eval(), pooling(2),
        nn.Conv2d(128, 128, 3, stride=2, padding=1), nn.PReLU(),
    ).double()  # fmt: skip
    fast, seen = copy.deepcopy(plain), []
    speed_up(fast)
    for layer in fast:
        layer.register_forward_hook(lambda layer, given, y: seen.append(lies_so(y)))
    x = torch.randn(4, planes, 16, 16, dtype=torch.float64, requires_grad=True)
    for a, b in zip(results(plain, x), results(fast, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    early = planes < 16
    assert seen == [early, early, True, True, True, True, False, False]


def test_a_convolution_behind_the_pooling_keeps_the_layout_and_the_weights_their_numbers():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1), nn.PReLU(), nn.AvgPool2d(2),
        nn.Conv2d(128, 512, 3, stride=2, padding=1), nn.PReLU(),
    ).double()  # fmt: skip
    fast = copy.deepcopy(plain)
    speed_up(fast)
    x = torch.randn(16, 128, 8, 8, dtype=torch.float64, requires_grad=True)
    assert lies_so(fast(x))
    assert fast[3].weight.stride() != plain[3].weight.stride()
    assert torch.equal(fast[3].weight, plain[3].weight)
    found = results(fast, x)
    for a, b in zip(results(plain, x), found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    fast(x).sum().backward()
    assert fast[3].weight.grad.stride() == fast[3].weight.stride()
    bare = nn.Sequential(nn.PReLU(), *copy.deepcopy(plain)[:1])
    speed_up(bare)  # nothing before and behind
    assert "forward" in vars(bare[1])


def test_few_pictures_pass_by_torchs_own_in_any_layout():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(1, 128, 3, padding=1), nn.PReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.PReLU(),
        nn.AvgPool2d(2),
    ).double()  # fmt: skip
    fast = copy.deepcopy(plain)
    speed_up(fast)
    for shape in ((1, 1, 8, 8), (2, 1, 6, 6), (5, 1, 7, 7)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for a, b in zip(results(plain, x), results(fast, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_pixels_come_first_only_where_tiles_want_them(compiled):
    """A first layer that hands them to torch's convolutions so took up to 1.7 times as long."""
    planes = 64 if compiled else 128
    net = nn.Sequential(
        nn.Conv2d(3, planes, 3, padding=1), nn.PReLU(), nn.Conv2d(planes, planes, 3, padding=1)
    )
    speed_up(net, compiled=compiled)
    first = [
        lies_so(net[0](torch.zeros(shape)))
        for shape in ((4, 3, 16, 16), (3, 3, 16, 16), (16, 3, 18, 16), (0, 3, 16, 16))
    ]
    assert first == [True, False, False, False]
    assert net(torch.zeros(3, 16, 16)).shape == (planes, 16, 16)
