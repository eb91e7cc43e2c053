"""Faster forwards against torch's own layers: values and every gradient."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.networks.cpu_layers import speed_up

CASES = {
    "prelu": (lambda: nn.PReLU(), (3, 4, 5, 5)),
    "prelu of rows": (lambda: nn.PReLU(init=-0.5), (3, 4)),
    "one plane": (lambda: nn.Conv2d(64, 1, 5, padding=2), (2, 64, 6, 7)),
    "few pixels": (lambda: nn.Conv2d(256, 512, 3, stride=2, padding=1), (3, 256, 5, 4)),
    "too many pixels": (lambda: nn.Conv2d(256, 512, 3, stride=2, padding=1), (5, 256, 30, 30)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_layer(case):
    torch.manual_seed(0)
    make, shape = CASES[case]
    plain = make().double()
    fast = nn.Sequential(copy.deepcopy(plain))
    speed_up(fast)
    assert "forward" in vars(fast[0])
    results = []
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(plain(x))
    for layer in (plain, fast):
        y = layer(x)
        gradients = torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])
        results.append([y, *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_slope_at_zero_and_without_its_gradient():
    slope = nn.Sequential(nn.PReLU())
    speed_up(slope)
    slope.requires_grad_(False)
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    slope(x).sum().backward()
    assert x.grad.tolist() == [0.25, 0.25, 1.0]


def test_other_layers_are_left_alone():
    network = nn.Sequential(
        nn.PReLU(8), nn.Conv2d(8, 1, 3, padding=1), nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 1, 5), nn.Linear(4, 4),
    )  # fmt: skip
    speed_up(network)
    assert not any("forward" in vars(layer) for layer in network)


def test_bf16_keeps_torchs_convolutions():
    network = nn.Sequential(nn.Conv2d(64, 1, 5, padding=2), nn.PReLU())
    speed_up(network, convolutions=False)
    assert ["forward" in vars(layer) for layer in network] == [False, True]
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(2, 64, 4, 4)).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())
