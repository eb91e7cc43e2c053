"""Layers against numbers from Lua Torch and against torch's own functions."""

import math

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import layers


def fill(shape: tuple[int, ...], scale: float, phase: float) -> torch.Tensor:
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(count + phase)).float().reshape(shape)


def test_dropout_scales_while_training_and_is_the_identity_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = layers.Dropout(0.25)
    y = layer(torch.ones(100, 100))
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    x = torch.ones(3)
    assert layer.eval()(x) is x


def test_spatial_dropout_takes_whole_channels_and_does_not_scale() -> None:
    torch.manual_seed(0)
    layer = layers.SpatialDropout(0.3)
    y = layer(torch.ones(64, 32, 2, 2))
    channels = y.flatten(2)
    assert torch.equal(channels, channels[:, :, :1].expand_as(channels))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert y.mean().item() == pytest.approx(0.7, abs=0.03)
    assert torch.allclose(layer.eval()(torch.ones(1, 2, 3, 3)), torch.full((1, 2, 3, 3), 0.7))


def test_view_finds_the_batch() -> None:
    view = layers.View(2, 3)
    assert view(torch.zeros(4, 6)).shape == (4, 2, 3)
    assert view(torch.zeros(6)).shape == (2, 3)
    assert view(torch.zeros(1, 6)).shape == (1, 2, 3)
    assert layers.View(-1)(torch.zeros(4, 6)).shape == (24,)
    assert layers.View(-1, num_input_dims=1)(torch.zeros(4, 6)).shape == (4, 6)
    assert layers.View(-1, num_input_dims=2)(torch.zeros(1, 4, 6)).shape == (1, 24)
    with pytest.raises(ValueError, match="cannot take"):
        view(torch.zeros(5))


def test_tables_split_and_join() -> None:
    net = nn.Sequential(layers.ConcatTable(nn.Linear(3, 2), layers.Identity()), layers.JoinTable(2))
    x = fill((4, 3), 1, 0)
    y = net(x)
    assert y.shape == (4, 5)
    assert torch.equal(y[:, 2:], x)
    assert torch.equal(layers.CAddTable()([x, x, x]), x + x + x)
