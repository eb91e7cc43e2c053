"""Which layers one kernel may compute."""

import pytest
from torch import nn

from eyescream_py.networks.joinable import is_plain, is_rectifier, joined, left_alone
from eyescream_py.torch7.layers.inplace_order import SequentialInOrder
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout

POOL = nn.AvgPool2d(2)


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ([POOL], 1),
        ([nn.AvgPool2d((2, 2))], 1),
        ([nn.MaxPool2d(2, (2, 2))], 1),
        ([nn.MaxPool2d(3, 2)], 0),
        ([nn.MaxPool2d(2, 3)], 0),
        ([nn.AvgPool2d(2, 1)], 0),
        ([nn.AvgPool2d((2, 3), 2)], 0),
        ([nn.AvgPool2d(2, padding=1)], 0),
        ([nn.MaxPool2d(2, padding=1)], 0),
        ([nn.AvgPool2d(2, ceil_mode=True)], 0),
        ([nn.MaxPool2d(2, ceil_mode=True)], 0),
        ([nn.AvgPool2d(2, divisor_override=3)], 0),
        ([nn.MaxPool2d(2, dilation=2)], 0),
        ([nn.MaxPool2d(2, return_indices=True)], 0),
        ([nn.AdaptiveAvgPool2d(2)], 0),
        ([nn.ReLU(), POOL], 0),
        ([Dropout(), nn.ReLU()], 1),
        ([POOL, Dropout(), SpatialDropout()], 2),
        ([SpatialDropout(), POOL], 2),
        ([POOL, POOL], 1),
        ([Dropout(), POOL], 1),  # of single pixels, which pooling would mix
        ([Dropout(), Dropout()], 1),
        ([SpatialDropout(), Dropout()], 1),
    ],
)
def test_a_pooling_by_two_and_one_dropout_join_a_rectifier(layers, count):
    assert joined(layers) == layers[:count]


def exchanged():
    layer = nn.Linear(2, 2)
    layer.forward = layer.forward
    return layer


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (nn.Conv2d(2, 2, 3, 2, 1), True),
        (nn.Linear(2, 2), True),
        (nn.Conv2d(2, 2, 3, groups=2), False),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(2, 2, 3, padding="same"), False),
        (nn.ConvTranspose2d(2, 2, 3), False),
        (exchanged(), False),
    ],
)
def test_layers_with_weights_that_compute_as_torch_does(layer, plain):
    assert is_plain(layer) == plain


@pytest.mark.parametrize(
    ("layer", "rectifies"),
    [
        (nn.PReLU(), True),
        (nn.PReLU(3), False),
        (nn.LeakyReLU(0.3), True),
        (nn.LeakyReLU(0.3, inplace=True), False),
        (nn.ReLU(), False),
    ],
)
def test_rectifiers_of_one_slope(layer, rectifies):
    assert is_rectifier(layer) == rectifies


def test_what_stands_twice_shares_weights_or_runs_in_order_is_left_alone():
    twice, inner, own, tied = (nn.Linear(2, 2) for _ in range(4))
    tied.weight = own.weight
    ordered, block, single = SequentialInOrder(inner), nn.Sequential(twice), nn.Linear(2, 2)
    network = nn.Sequential(block, twice, own, tied, ordered, single)
    assert left_alone(network) == {twice, own, tied, ordered, inner}
    again = nn.Sequential(block, nn.ReLU(), block)
    assert left_alone(again) == {block, twice}
