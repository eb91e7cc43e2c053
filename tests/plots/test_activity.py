"""`--weightsVisFreq`: which layers are shown, and as which pictures."""

import torch
from torch import nn

from eyescream_py.plots.activity import activities


def scaled(values: torch.Tensor) -> torch.Tensor:
    return (values - values.min()) / (values.max() - values.min())


def test_convolutions_and_wide_linears_are_shown_from_black_to_white() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, 70), nn.Dropout(),
        nn.Linear(70, 63), nn.Linear(63, 1), nn.Sigmoid(),
    )  # fmt: skip
    image = torch.rand(1, 1, 4, 5)
    (first, planes), (second, values) = activities(net, image)
    assert (first.split()[0], second.split()[0]) == ("0", "3")
    with torch.no_grad():
        torch.testing.assert_close(planes, scaled(net[0](image)[0])[:, None])
        wide = scaled(net[:4](image)[0])
    assert values.shape == (1, 1, 8, 9)
    torch.testing.assert_close(values.flatten()[:70], wide)
    assert not values.flatten()[70:].any()
    assert net.training
    assert not any(layer._forward_hooks for layer in net)


def test_a_layer_that_says_nothing_is_black() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    nn.init.zeros_(net[0].weight)
    ((_, pictures),) = activities(net, torch.rand(1, 1, 3, 3))
    assert torch.equal(pictures, torch.zeros(2, 1, 3, 3))
