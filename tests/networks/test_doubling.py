"""Convolutions of doubled pictures, which see the small ones; and what is left alone."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.networks import models, models_small
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.doubling import DoublingForward, join_doublings
from eyescream_py.networks.modes import exact_output, plain
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from eyescream_py.torch7.random import TorchSource


def doubled(*after: nn.Module, factor: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), SpatialUpSamplingNearest(factor), *after)


def results(network, x):
    y = network(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *network.parameters()])]


def picture(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("pixels", [(8, 8), (9, 13)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_values_and_gradients_are_those_of_the_two_layers(kernel, bias, pixels, monkeypatch):
    torch.manual_seed(0)
    kept = doubled(nn.Conv2d(4, 5, kernel, padding=kernel // 2, bias=bias), nn.Tanh()).double()
    fast = copy.deepcopy(kept)
    join_doublings(fast)
    x = picture(2, 3, *pixels)
    expected = results(kept, x)
    monkeypatch.setattr(SpatialUpSamplingNearest, "forward", None)  # has nothing to do
    for a, b in zip(expected, results(fast, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_copy_computes_with_weights_of_its_own():
    torch.manual_seed(0)
    fast = doubled(nn.Conv2d(4, 5, 3, padding=1)).double()
    join_doublings(fast)
    twin, x = copy.deepcopy(fast), picture(2, 3, 8, 8)
    before = fast(x)
    with torch.no_grad():
        twin[2].weight.zero_()
        twin[2].bias.fill_(3)
    assert isinstance(twin.forward, DoublingForward)
    assert (twin(x) == 3).all()
    assert torch.equal(fast(x), before)


LEFT_ALONE = {
    "a larger factor": doubled(nn.Conv2d(4, 5, 3, padding=1), factor=3),
    "an even kernel": doubled(nn.Conv2d(4, 5, 4, padding=1)),
    "no padding": doubled(nn.Conv2d(4, 5, 3)),
    "one side padded": doubled(nn.Conv2d(4, 5, (3, 1), padding=(1, 0))),
    "padding by name": doubled(nn.Conv2d(4, 5, 3, padding="same")),
    "a step": doubled(nn.Conv2d(4, 5, 3, padding=1, stride=2)),
    "dilation": doubled(nn.Conv2d(4, 5, 3, padding=1, dilation=2)),
    "groups": doubled(nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "reflected borders": doubled(nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect")),
    "something between": doubled(nn.Tanh(), nn.Conv2d(4, 5, 3, padding=1)),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_is_no_such_pair_is_left_alone(case):
    network = copy.deepcopy(LEFT_ALONE[case])
    join_doublings(network)
    assert "forward" not in vars(network)


def test_small_planes_and_single_pictures_go_as_before():
    torch.manual_seed(0)
    kept = doubled(nn.Conv2d(4, 5, 3, padding=1)).double()
    fast = copy.deepcopy(kept)
    join_doublings(fast)
    for shape in [(2, 3, 4, 4), (3, 8, 8)]:
        x = picture(*shape)
        assert torch.equal(fast(x), kept(x))


SMALL, LARGE, MADE = (1, 4, 8, 8), (1, 4, 16, 16), (1, 5, 16, 16)
LISTENERS = [
    (1, "register_forward_pre_hook", lambda layer, x: x[0].shape, SMALL),
    (1, "register_forward_hook", lambda layer, x, y: y.shape, LARGE),
    (2, "register_forward_pre_hook", lambda layer, x: x[0].shape, LARGE),
    (2, "register_forward_hook", lambda layer, x, y: y.shape, MADE),
    (1, "register_full_backward_pre_hook", lambda layer, dy: dy[0].shape, LARGE),
    (1, "register_full_backward_hook", lambda layer, dx, dy: dx[0].shape, SMALL),
    (2, "register_full_backward_pre_hook", lambda layer, dy: dy[0].shape, MADE),
    (2, "register_full_backward_hook", lambda layer, dx, dy: dx[0].shape, LARGE),
]


@pytest.mark.parametrize(("place", "kind", "hears", "shape"), LISTENERS)
def test_whoever_listens_at_the_layers_hears_what_is_there(place, kind, hears, shape):
    fast = doubled(nn.Conv2d(4, 5, 3, padding=1))
    join_doublings(fast)
    heard = []
    getattr(fast[place], kind)(lambda *told: heard.append(hears(*told)))
    fast(torch.zeros(1, 3, 8, 8)).sum().backward()
    assert heard == [shape]


def test_a_convolution_that_computes_in_full_keeps_doing_so():
    torch.manual_seed(0)
    kept = doubled(nn.Conv2d(4, 5, 3, padding=1))
    exact_output(kept)
    fast = copy.deepcopy(kept)
    join_doublings(fast)
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(x).dtype == torch.float32
        assert torch.equal(fast(x), kept(x))


def test_in_bfloat16_it_is_as_close_to_the_truth_as_the_two_layers():
    torch.manual_seed(0)
    kept = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        SpatialUpSamplingNearest(2),
        nn.Conv2d(64, 64, 5, padding=2),
    )
    fast, exact = copy.deepcopy(kept), copy.deepcopy(kept).double()
    join_doublings(fast)
    x = torch.randn(8, 3, 8, 8).bfloat16().float().requires_grad_()
    truth = results(exact, x.detach().double().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = results(kept, x), results(fast, x)
    for a, b, t in zip(expected, found, truth, strict=True):
        assert a.dtype == b.dtype
        assert (b.double() - t).norm() <= 1.2 * (a.double() - t).norm() + 1e-7 * t.norm()


def test_a_penalty_of_slopes_goes_through_the_layers_themselves():
    fast = doubled(nn.Conv2d(4, 5, 3, padding=1))
    join_doublings(fast)
    with plain(fast):
        assert "forward" not in vars(fast)
    assert isinstance(fast.forward, DoublingForward)


GENERATORS = {
    "conv": lambda: models_small.create_G((1, 32, 32), 7, 8),
    "deep": lambda: models_small.create_G((3, 32, 32), 7, 8, deep=True),
    "upsampling": lambda: models.create_G((3, 32, 32), 7, "upsampling"),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_draw_what_they_drew(name):
    kept = GENERATORS[name]()
    models_small.draw_small_weights(kept, TorchSource(3))
    kept.double().to(memory_format=torch.channels_last)
    fast = copy.deepcopy(kept)
    speed_up(fast)
    assert isinstance(fast.forward, DoublingForward)
    noise = picture(3, 7)
    for a, b in zip(results(kept, noise), results(fast, noise), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
