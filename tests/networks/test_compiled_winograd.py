"""Convolution by minimal filters in C against torch's own in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eyescream_py.networks import compiled_winograd, winograd
from eyescream_py.networks.compiled_winograd import Convolution, pays, proven
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.pixels_first import as_planes, lies_so
from eyescream_py.system import compiled
from tests.loops import assert_a_recording_learns_the_same, change, sources_anew
from tests.system.test_compiled import needs_compiler

BLOCK = 32  # planes, on processors of both kinds


def numbers(n, inputs, outputs, height, width):
    torch.manual_seed(n)
    x, w = torch.randn(n, inputs, height, width), torch.randn(outputs, inputs, 3, 3)
    return x, w, torch.randn(outputs), torch.randn(n, outputs, height, width)


def results(convolve, x, w, b, g):
    x, w, b = (t.detach().requires_grad_() for t in (x, w, b))
    y = convolve(x, w, b)
    return [y, *torch.autograd.grad(y, (x, w, b), g)]


def torchs(x, w, b):
    return F.conv2d(x, w, b, padding=1)


def in_pixels(x):
    n, planes, height, width = x.shape
    return as_planes(x.permute(2, 3, 0, 1).contiguous().view(height, width, n * planes), n)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 5, 16])
@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "size"),
    [(1, 32, 32, (4, 4)), (3, 32, 96, (8, 12)), (17, 64, 32, (16, 4)), (2, 128, 160, (32, 32))],
)
def test_values_and_slopes_are_those_of_conv2d(n, inputs, outputs, size, threads):
    given = numbers(n, inputs, outputs, *size)
    torch.set_num_threads(threads)
    found = results(Convolution.apply, *given)
    for a, b in zip(found, results(torchs, *(t.double() for t in given)), strict=True):
        assert a.dtype == torch.float32
        assert a.shape == b.shape
        assert (a - b).norm() <= 5e-6 * b.norm()
    torch.set_num_threads(1)
    for a, b in zip(found, results(Convolution.apply, *given), strict=True):
        assert torch.equal(a, b)


@needs_compiler
def test_layouts_are_those_of_the_input_and_change_no_bit():
    x, w, b, g = numbers(3, 32, 64, 8, 8)
    meant = results(Convolution.apply, x, w, b, g)
    assert [lies_so(t) for t in meant[:2]] == [False, False]
    last = w.contiguous(memory_format=torch.channels_last)
    turned = w.transpose(2, 3).contiguous().transpose(2, 3)
    for laid in (w, last, turned):
        found = results(Convolution.apply, in_pixels(x), laid, b, in_pixels(g))
        assert [lies_so(t) for t in found[:2]] == [True, True]
        assert all(map(torch.equal, found, meant))
    assert all(map(torch.equal, results(Convolution.apply, x, w, b, in_pixels(g)), meant))


@needs_compiler
def test_only_what_is_needed_is_computed():
    x, w, b, g = numbers(2, 32, 32, 8, 8)
    whole = results(Convolution.apply, x, w, b, g)
    for i, one in enumerate((x, w, b)):
        one.requires_grad_()
        (found,) = torch.autograd.grad(Convolution.apply(x, w, b), one, g)
        assert torch.equal(found, whole[1 + i])
        one.requires_grad_(False)
    assert torch.equal(Convolution.apply(x, w, None) + b.view(-1, 1, 1), whole[0])


@needs_compiler
def test_what_is_no_number_stays_where_it_is():
    x, w, b, _ = numbers(2, 32, 32, 8, 8)
    whole = Convolution.apply(x, w, b)
    x[0, 3, 7, 7] = torch.nan
    found = Convolution.apply(x, w, b)
    assert torch.equal(found[1], whole[1])
    assert torch.equal(found[0, :, :4, :4], whole[0, :, :4, :4])
    assert found[0, :, 6:, 6:].isnan().all()


@needs_compiler
def test_it_is_taken_where_it_pays():
    w, kinds = torch.empty(64, 32, 3, 3), []
    enough, too_few = [(16, 32, 8, 8), (1, 32, 32, 32)], [(15, 32, 8, 8)]
    for shape in (*enough, *too_few, (64, 32, 10, 8), (64, 32, 8, 10), (32, 8, 8)):
        kinds.append(pays(torch.empty(shape), w))
    assert kinds == [True, True, False, False, False, False]
    x = torch.empty(16, 32, 8, 8)
    assert not pays(x.double(), w)
    assert not pays(x, torch.empty(40, 32, 3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, w)


@needs_compiler
def test_a_slope_of_a_slope_is_refused():
    """Loops in C have none: it would come out as if there were no such layer."""
    x, w, b, _ = numbers(2, 32, 32, 8, 8)
    y = Convolution.apply(x.requires_grad_(), w.requires_grad_(), b)
    (to_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        to_x.square().sum().backward()


@needs_compiler
def test_what_does_not_fit_is_torchs_to_refuse():
    """Loops in C would read on beyond it, or read other numbers than are there."""
    layer = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1))
    speed_up(layer)
    x = torch.randn(16, 64, 8, 8)
    with pytest.raises(RuntimeError, match="to have 64 channels, but got 32"):
        layer(x[:, :32])
    layer[0].weight.data = layer[0].weight.data.double()
    with pytest.raises(RuntimeError, match="type"):
        layer(x)
    with pytest.raises(RuntimeError, match="type"):
        layer.double()(x)
    layer.float()[0].bias.data = layer[0].bias.data.double()
    with pytest.raises(RuntimeError, match="type"):
        layer(x)
    weight = layer[0].weight
    assert pays(x, weight)
    assert not pays(x, weight.to("meta"))


@needs_compiler
def test_a_bias_may_lie_in_steps():
    """As one does that is a column of what else a network learns."""
    x, w, b, g = numbers(3, 32, 64, 8, 8)
    apart = torch.stack([b, -b], 1)[:, 0]
    assert not apart.is_contiguous()
    meant = results(Convolution.apply, x, w, b, g)
    for laid in (apart, b[:1].expand(64)):
        assert torch.equal(Convolution.apply(x, w, laid), Convolution.apply(x, w, laid.clone()))
    assert all(map(torch.equal, results(Convolution.apply, x, w, apart, g), meant))


def chain():
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.PReLU()
    return nn.Sequential(*layers, nn.MaxPool2d(2))


@needs_compiler
@pytest.mark.parametrize("joined", [True, False])
def test_a_network_takes_it_unless_told_not_to(joined, monkeypatch):
    calls, untold = [], compiled_winograd._convolved

    def told(*given):
        calls.append(given)
        return untold(*given)

    monkeypatch.setattr(compiled_winograd, "_convolved", told)
    net, x = chain(), torch.randn(8, 3, 16, 16)
    plain = net(x)
    speed_up(net, compiled=joined)
    y = net(x)
    torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-5)
    y.sum().backward()
    assert len(calls) == 2 * joined
    assert lies_so(y) == joined


@needs_compiler
def test_a_recording_computes_the_same_to_the_bit():
    net, x = chain(), torch.randn(8, 3, 16, 16)
    speed_up(net)

    def work():
        net(x).square().sum().backward()

    assert_a_recording_learns_the_same(net, x, work)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Sources that may be changed, not yet compiled."""
    with sources_anew(monkeypatch, tmp_path, proven, "winograd.c") as folder:
        yield folder


@needs_compiler
@pytest.mark.parametrize(
    "turn",
    [("-16 / 15.f", "-15 / 16.f"), ("sum + bias", "sum"), ("row + OUT ==", "row + 2 * OUT ==")],
)
def test_code_that_computes_otherwise_is_not_taken(anew, capsys, turn):
    change(anew / "winograd.c", *turn)
    assert proven() is None
    said = "winograd.c computes otherwise than torch: torch's operators do its work, slower.\n"
    assert capsys.readouterr().err == said


def test_without_a_compiler_torchs_operators_do_its_work(anew, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_compiler", lambda: None)
    net = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 64, 3, padding=1))
    speed_up(net)
    assert ["forward" in vars(layer) for layer in net] == [True, False]
    taken = []
    monkeypatch.setattr(
        winograd._Convolution, "apply", lambda x, *given: taken.append(x) or torchs(x, *given)
    )
    net(torch.randn(4, 128, 16, 16))
    assert len(taken) == 1
    assert capsys.readouterr().err == ""
