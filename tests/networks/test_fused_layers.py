"""Fused layers against the layers themselves: on any device by kernels written in torch, which say
what Triton's are to compute; those on a GPU are in `tests/system/test_gpu_kernels.py`.
"""

import contextlib
import copy
import types

import pytest
import torch
from torch import nn

from eyescream_py.game.answers import Logits
from eyescream_py.game.taming import SlopePenalty
from eyescream_py.networks import fused_layers, models, models_c2f, models_small, wide_slopes
from eyescream_py.networks.fused_head import Head, fuse_head
from eyescream_py.networks.fused_layers import Beside, Passed, Rectifier, Tools, fuse
from eyescream_py.networks.modes import evaluating
from eyescream_py.plots.activity import activities
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import Lanes
from eyescream_py.torch7.layers.inplace_order import SequentialInOrder
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout, set_random_source
from eyescream_py.torch7.random import TorchSource
from tests.torch7 import golden_classes

TOOLS = Tools(kernels_in_torch, Lanes(torch.device("cpu")))
FILLED = Tools(kernels_in_torch, Lanes(torch.device("cpu")), multiple=8)  # as in 16 bits
GRAY, COLOUR, LARGE = (1, 16, 16), (3, 16, 16), (1, 32, 32)
NETWORKS = {
    "D at 16 px": (lambda: models.create_D(GRAY), [GRAY]),
    "D at 32 px": (lambda: models.create_D((1, 24, 24)), [(1, 24, 24)]),
    "D b": (lambda: models.create_D(COLOUR, "b"), [COLOUR]),
    "small D": (lambda: models_small.create_D(GRAY, deep=True), [GRAY]),
    "D of pairs": (lambda: models_c2f.create_D(LARGE), [LARGE, LARGE]),
    "G": (lambda: models.create_G(COLOUR, 10), [(10,)]),
    "upsampling G": (lambda: models.create_G(GRAY, 10, "upsampling"), [(10,)]),
    "small G": (lambda: models_small.create_G(GRAY, 10), [(10,)]),
    "G of pairs": (lambda: models_c2f.create_G(GRAY), [GRAY, GRAY]),
    "odd pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.PReLU(), nn.MaxPool2d(2), Dropout(), View(9), nn.Linear(9, 1)
        ),
        [(2, 9, 9)],
    ),
    "no bias": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.PReLU()),
        [(2, 8, 8)],
    ),
    "planes dropped before pooling": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.LeakyReLU(0.1),
                              SpatialDropout(0.3), nn.AvgPool2d(2), nn.Conv2d(3, 1, 1)),
        [(2, 8, 8)],
    ),
    "wide kernel on a picture": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.PReLU(), nn.Conv2d(8, 2, 3)),
        [(3, 9, 9)],
    ),
    "groups behind a rectifier": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.PReLU(), nn.Conv2d(4, 2, 3, groups=2)),
        [(2, 8, 8)],
    ),
    "a rectifier in two places": (
        lambda: nn.Sequential(nn.Linear(4, 5), rectifier := nn.PReLU(), nn.Linear(5, 5), rectifier),
        [(4,)],
    ),
    "a layer in two places": (
        lambda: nn.Sequential(layer := nn.Linear(4, 4), nn.PReLU(), layer, nn.Sigmoid()), [(4,)],
    ),
    "weights in two layers": (lambda: with_one_weight(), [(4,)]),
    "branches that overwrite each other": (lambda: in_lua_order(), [(4,)]),
    "pooling with overlap": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(), nn.MaxPool2d(3, 2), Dropout()),
        [(2, 9, 9)],
    ),
}  # fmt: skip


def with_one_weight():
    net = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4), nn.PReLU())
    net[2].weight = net[0].weight
    return net


def in_lua_order():
    """A chain whose layers run backwards one by one, each with its own weights."""
    return SequentialInOrder(nn.Linear(4, 5), nn.PReLU(), Dropout(0.0), nn.Linear(5, 2))


def pair(name, tools=TOOLS):
    """A network in double precision, its fused twin, and inputs for both."""
    torch.manual_seed(0)
    make, shapes = NETWORKS[name]
    network = make().double().to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.p = 0.0  # its numbers are drawn in another order; of whole planes they are not
    fused = copy.deepcopy(network)
    fuse(fused, tools)
    inputs = [torch.rand(3, *shape, dtype=torch.float64) for shape in shapes]
    return network, fused, inputs


def results(network, inputs, seed=1):
    """Output and slopes by the inputs and every parameter."""
    set_random_source(network, TorchSource(seed))
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = network(*inputs)
    TOOLS.lanes.join()
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [*inputs, *network.parameters()])]


@pytest.mark.parametrize("tools", [TOOLS, FILLED], ids=["as they are", "planes filled up"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_slopes_are_those_of_the_layers(name, tools):
    network, fused, inputs = pair(name, tools)
    for a, b in zip(results(network, inputs), results(fused, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_so_are_values_in_evaluation_mode_and_of_a_copy(name):
    network, fused, inputs = pair(name, FILLED)
    twin = copy.deepcopy(fused)
    with evaluating(network, fused, twin):
        expected = network(*inputs)
        torch.testing.assert_close(fused(*inputs), expected, rtol=1e-10, atol=1e-11)
        for p in fused.parameters():
            p.add_(1)  # which a copy does not see
        torch.testing.assert_close(twin(*inputs), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 1, 5), (3, 4, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strides_tell_that_planes_lie_last(shape, layout):
    """Also those of sides of 1, which mean nothing, and by which cuDNN goes all the same."""
    x = torch.rand(shape).contiguous(memory_format=layout)
    found, (_, planes, height, width) = fused_layers._planes_last(x), shape
    assert found.stride() == (planes * height * width, 1, width * planes, planes)
    assert torch.equal(found, x)


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 8, 7), (2, 7, 8)])
def test_no_kernel_pools_an_odd_side(shape):
    """Whose last line or column is in no output, and would get no slope."""

    def activate(x, bias, slope, mask, scale, pool, *rest):
        assert not pool
        return kernels_in_torch.activate(x, bias, slope, mask, scale, pool, *rest)

    kernels = types.SimpleNamespace(**{**vars(kernels_in_torch), "activate": activate})
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(), nn.MaxPool2d(2))
    fuse(network, Tools(kernels, TOOLS.lanes))
    network(torch.rand(1, *shape))
    with pytest.raises(AssertionError):
        network(torch.rand(1, 2, 8, 8))


def test_a_copy_drops_out_by_its_own_mode():
    """And not by that of the network that it was copied from, which goes on training."""
    network = nn.Sequential(nn.Linear(4, 40), nn.PReLU(), Dropout())
    fuse(network, TOOLS)
    twin, x = copy.deepcopy(network).eval(), torch.rand(2, 4)
    assert torch.equal(twin(x), twin(x))
    assert not torch.equal(network(x), network(x))


def test_planes_of_16_bits_are_filled_up_to_eights():
    for dtype, filled in ((torch.bfloat16, [8, 8, 16]), (torch.float32, [1, 8, 9])):
        assert [TOOLS.filled(planes, dtype) for planes in (1, 8, 9)] == filled


def test_what_is_joined():
    D = models.create_D(GRAY)
    fuse(D, TOOLS)
    forwards = [type(layer.__dict__.get("forward")) for layer in D.modules()]
    assert forwards.count(Rectifier) == 7
    assert forwards.count(Passed) == 3  # the average, both dropouts
    conv = D[0][0]
    assert isinstance(conv[4].__dict__["forward"], Passed)
    assert not conv[3].forward.flat
    assert conv[8].forward.flat  # its pictures are read as rows behind it


@pytest.mark.parametrize(("scaled", "kept", "evaluated"), [(True, 4.0, 3.0), (False, 3.0, 2.25)])
def test_dropout_is_drawn_as_often_and_scaled(scaled, kept, evaluated):
    net = nn.Sequential(nn.Linear(4, 400), nn.PReLU(), Dropout(0.25, scaled))
    fuse(net, TOOLS)
    set_random_source(net, TorchSource(0))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(3)
    values = net(torch.zeros(50, 4)).unique()
    torch.testing.assert_close(values, torch.tensor([0.0, kept]))
    dropped = (net(torch.zeros(50, 4)) == 0).float().mean()
    assert abs(float(dropped) - 0.25) < 0.02
    assert net.eval()(torch.zeros(2, 4)).unique().tolist() == [evaluated]


def test_the_slope_penalty_takes_the_layers_themselves():
    network, fused, (pictures,) = pair("D b")
    found = []
    for net in (network, fused):
        set_random_source(net, TorchSource(3))
        asked = Logits(net)
        if net is fused:
            fuse_head(net, TOOLS)
        penalty = SlopePenalty(1.0)(asked, pictures)
        found.append([penalty, *torch.autograd.grad(penalty, list(net.parameters())[:4])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_sample_without_a_batch():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(), nn.MaxPool2d(2), nn.Flatten(0),
                        nn.Linear(12, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2)).double()  # fmt: skip
    fused, picture = copy.deepcopy(net), torch.rand(2, 6, 6, dtype=torch.float64)
    fuse(fused, FILLED)
    for a, b in zip(results(net, [picture]), results(fused, [picture]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("planes", [3, 8])
def test_filling_planes_up_rounds_the_picture_to_the_same_bits(planes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(planes, 8, 3), nn.PReLU(), nn.Conv2d(8, 2, 3))
    net.to(memory_format=torch.channels_last)
    fuse(net, FILLED)
    found = []
    for round_first in (False, True):
        picture = torch.rand(2, planes, 6, 6, generator=torch.Generator().manual_seed(1))
        picture.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = net(picture.bfloat16() if round_first else picture)
        slopes = torch.autograd.grad(y.float().square().sum(), [picture, *net.parameters()])
        found.append([y, *slopes])
    assert found[0][0].dtype == torch.bfloat16
    assert found[0][1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


LAST = {
    "a convolution of planes that are filled up": lambda: nn.Sequential(
        nn.Conv2d(1, 10, 3), nn.PReLU(), nn.Conv2d(10, 1, 4), nn.Sigmoid()
    ),
    "a convolution with a rectifier": lambda: nn.Sequential(
        nn.Conv2d(1, 1, 6), nn.PReLU(), nn.Sigmoid()
    ),
    "a Linear with a rectifier": lambda: nn.Sequential(
        View(36), nn.Linear(36, 1), nn.LeakyReLU(0.2), nn.Sigmoid()
    ),
}  # fmt: skip


@pytest.mark.parametrize("last", LAST)
def test_what_computes_in_full_joins_nothing(last):
    torch.manual_seed(0)
    network, inputs = LAST[last]().double(), [torch.rand(3, 1, 6, 6, dtype=torch.float64)]
    fused = copy.deepcopy(network)
    asked = [Logits(net).network for net in (network, fused)]
    fuse_head(fused, FILLED)
    fuse(fused, FILLED)
    for a, b in zip(*(results(net, inputs) for net in asked), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_the_head_computes_in_full_and_so_does_its_copy():
    network, _, inputs = pair("D at 16 px")
    fused = copy.deepcopy(network)
    plain, asked = Logits(network), Logits(fused)
    fuse_head(fused, TOOLS)
    assert isinstance(fused[2].forward, Head)
    expected, found = (results(net, inputs) for net in (plain.network, fused))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    twin = copy.deepcopy(fused)
    with torch.no_grad():
        fused[2].bias.add_(1)
    before, after = (net[2](torch.zeros(1, 1152, dtype=torch.float64)) for net in (twin, fused))
    assert float((after - before).detach()) == pytest.approx(1)
    assert torch.equal(fused[2](torch.zeros(1152, dtype=torch.float64)), after[0])
    assert asked.network is fused


def test_shown_activities_are_whole_outputs_of_the_layers():
    network, fused, (picture,) = pair("D at 16 px")
    shown = [activities(net, picture[:1]) for net in (network, fused)]
    assert len(shown[0]) > 2
    for (name, a), (other, b) in zip(*shown, strict=True):
        assert name == other
        torch.testing.assert_close(a, b)


def test_networks_from_lua_are_what_lua_made_of_them_when_fused_too(monkeypatch):
    """Outputs and gradients of every golden network with a layer that is exchanged."""
    exchanged = []

    def fused(net, dtype=None):
        module = golden_classes.own_module(net, dtype=dtype)
        with contextlib.suppress(RuntimeError):  # of three dimensions
            module.to(memory_format=torch.channels_last)
        if any(True for _ in module.parameters()):
            fuse(module, FILLED)
        found = [layer.__dict__.get("forward") for layer in module.modules()]
        exchanged.append(any(isinstance(forward, Beside | Rectifier) for forward in found))
        return module

    monkeypatch.setattr(golden_classes, "own_module", golden_classes.to_module, raising=False)
    monkeypatch.setattr(golden_classes, "to_module", fused)
    known = golden_classes.differences()
    entries = [entry for entry in golden_classes.entries() if entry.name not in known]
    faults = {entry.name: golden_classes.fault(entry) for entry in entries}
    assert {name: said for name, said in faults.items() if said} == {}
    assert sum(exchanged) > 40


@pytest.mark.parametrize("planes", [32, 33])
def test_a_wide_convolution_in_16_bits_by_a_kernel_of_ours(planes, monkeypatch):
    """And its slopes of x; planes beyond its own may be filled in on either side."""
    torch.manual_seed(0)
    called = []

    def convolve(x, weight, back):
        called.append(back)
        return kernels_in_torch.convolve(x, weight, back)

    kernels = types.SimpleNamespace(**{**vars(kernels_in_torch), "convolve": convolve})
    tools = Tools(kernels, Lanes(torch.device("cpu")), multiple=32)
    layer = nn.Conv2d(planes, 40, 7, padding=3).to(memory_format=torch.channels_last)
    x, g = torch.randn(2, planes, 9, 6), torch.randn(2, 40, 9, 6)
    found = []
    for own in (False, True):
        monkeypatch.setattr(wide_slopes, "LEAST_PIXELS", 2 * 9 * 6 + (0 if own else 1))
        start = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = Beside(layer, tools, False)(start)
        found.append([y, *torch.autograd.grad(y, [start, *layer.parameters()], g.to(y.dtype))])
        assert called == ([False, True] if own else [])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2**-7, atol=2**-7 * a.abs().max().item())
