"""Which layers one kernel may compute."""

import pytest
from torch import nn

from eyescream_py.networks.joinable import is_plain, is_rectifier, joined, left_alone
from eyescream_py.torch7.graph import GraphModule, GraphNode
from eyescream_py.torch7.layers.containers import Concat, ConcatTable, MapTable, ParallelTable
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


class Twice(nn.Module):
    """A network of a class of its own."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(self.layer(x))


class Again(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


@pytest.mark.parametrize("kind", [Twice, MapTable, Again])
def test_what_a_network_may_run_several_times_is_left_alone(kind):
    layer, behind = nn.Sequential(inner := nn.Linear(2, 2)), nn.Linear(2, 2)
    repeats = kind(layer)
    network = nn.Sequential(nn.Sequential(repeats), behind)
    assert left_alone(network) == {repeats, layer, inner}


def test_so_is_a_node_of_a_graph_that_stands_in_it_twice():
    nodes = [GraphNode(()), *(GraphNode((i,), name) for i, name in enumerate("aba"))]
    children = {"a": nn.Sequential(nn.Linear(2, 2)), "b": nn.Linear(2, 2)}
    assert left_alone(GraphModule(nodes, children, [3])) == set(children["a"].modules())


@pytest.mark.parametrize("kind", [ConcatTable, ParallelTable, lambda *of: Concat(2, *of)])
def test_each_branch_runs_once(kind):
    assert not left_alone(kind(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))


def test_a_network_whose_forward_was_exchanged_is_left_alone():
    network = nn.Sequential(nn.Linear(2, 2))
    network.forward = network.forward
    assert left_alone(network) == set(network.modules())
