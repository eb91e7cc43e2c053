"""Convolution through Fourier transforms in C against torch's own in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eyescream_py.networks import compiled_fourier, fft_convolution
from eyescream_py.networks.compiled_fourier import convolve, proven
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.fft_convolution import convolve_by_fourier
from eyescream_py.system import compiled
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from tests.loops import assert_a_recording_learns_the_same, change, sources_anew
from tests.system.test_compiled import needs_compiler

# pictures, inputs, outputs, kernel, sides: tails of vectors and blocks, circles odd and even,
# planes smaller than a kernel, one pixel
SIZES = [
    (1, 1, 1, 3, (1, 1)), (3, 5, 9, 7, (1, 2)), (2, 3, 4, 7, (5, 3)), (5, 54, 33, 5, (16, 16)),
    (33, 35, 37, 7, (11, 13)), (17, 40, 32, 3, (20, 10)), (16, 32, 32, 5, (32, 32)),
]  # fmt: skip


def numbers(n, inputs, outputs, k, size):
    drawn = torch.Generator().manual_seed(n)
    shapes = (n, inputs, *size), (outputs, inputs, k, k), (outputs,), (n, outputs, *size)
    return [torch.randn(shape, generator=drawn) for shape in shapes]


def ours(x, w, b):
    return convolve(proven(), x, w, b)


def torchs(x, w, b):
    return F.conv2d(x, w, b, padding=w.shape[-1] // 2)


def results(convolution, x, w, b, g):
    x, w, b = (t.detach().requires_grad_() for t in (x, w, b))
    y = convolution(x, w, b)
    return [y, *torch.autograd.grad(y, (x, w, b), g)]


def assert_torchs(found, given):
    for a, b in zip(found, results(torchs, *(t.double() for t in given)), strict=True):
        assert a.dtype == torch.float32
        assert a.shape == b.shape
        assert (a - b).norm() <= 1e-6 * b.norm()


@needs_compiler
def test_what_does_not_fit_is_not_taken_and_a_bias_may_lie_in_steps():
    """Loops in C would read on beyond it, or read other numbers than are there."""
    layer = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2))
    speed_up(layer)
    x, forward = torch.randn(2, 32, 8, 8), layer[0].forward
    assert forward.takes_loops(x)
    assert not forward.takes_loops(x[:, :16])
    with pytest.raises(RuntimeError, match="16"):
        layer(x[:, :16])
    meant = layer(x)
    layer[0].bias.data = torch.stack([layer[0].bias.data] * 2, 1).mul_(torch.tensor([1, -1]))[:, 0]
    assert not layer[0].bias.is_contiguous()
    assert torch.equal(layer(x), meant)
    layer[0].bias.data = layer[0].bias.data.double()
    assert not forward.takes_loops(x)


@needs_compiler
def test_a_slope_of_a_slope_is_refused():
    """Loops in C have none: it would come out as if there were no such layer."""
    x, w, b = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 5, 5), torch.randn(4)
    y = ours(x.requires_grad_(), w.requires_grad_(), b)
    (to_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        to_x.square().sum().backward()


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_slopes_are_those_of_conv2d(sizes, threads):
    given = numbers(*sizes)
    torch.set_num_threads(threads)
    found = results(ours, *given)
    assert_torchs(found, given)
    torch.set_num_threads(1)
    assert all(map(torch.equal, found, results(ours, *given)))


@needs_compiler
@pytest.mark.parametrize("kind", ["AVX2", "AVX512"])
def test_for_each_kind_of_processor(kind, anew, monkeypatch):
    here = torch.backends.cpu.get_cpu_capability()
    if here != kind and kind != "AVX2":
        pytest.skip(f"{kind} cannot be run here")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kind)
    assert compiled_fourier._width(proven()) == {"AVX2": 8, "AVX512": 16}[kind]
    for sizes in SIZES[:-1]:
        given = numbers(*sizes)
        assert_torchs(results(ours, *given), given)


@needs_compiler
def test_what_torch_makes_by_default_changes_no_bit():
    given = numbers(*SIZES[2])
    meant = results(ours, *given)
    for cached in (compiled_fourier._side, compiled_fourier._grids):
        cached.cache_clear()
    try:
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
        assert all(map(torch.equal, results(ours, *given), meant))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@needs_compiler
def test_layouts_change_no_bit():
    x, w, b, g = numbers(*SIZES[2])
    meant = results(ours, x, w, b, g)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, w, g)]
    assert all(map(torch.equal, results(ours, last[0], last[1], b, last[2]), meant))
    assert all(map(torch.equal, results(ours, x, w, b, g[:1].expand_as(g)), [meant[0]]))


@needs_compiler
def test_parts_that_memory_is_enough_for_change_no_bit(monkeypatch):
    given = numbers(3, 34, 50, 5, (6, 5))
    whole = results(ours, *given)
    monkeypatch.setattr(compiled_fourier, "LIMIT", 1)
    assert len(compiled_fourier._parts(compiled_fourier._grids(proven(), 6, 5, 5)[1], 50, 34)) == 4
    assert all(map(torch.equal, results(ours, *given), whole))


@needs_compiler
def test_only_what_is_needed_is_computed():
    x, w, b, g = numbers(*SIZES[2])
    whole = results(ours, x, w, b, g)
    for i, one in enumerate((x, w, b)):
        one.requires_grad_()
        (found,) = torch.autograd.grad(ours(x, w, b), one, g)
        assert torch.equal(found, whole[1 + i])
        one.requires_grad_(False)
    assert torch.equal(ours(x, w, None) + b.view(-1, 1, 1), whole[0])
    assert ours(x[:0], w, b).shape == (0, *whole[0].shape[1:])


@needs_compiler
def test_what_is_no_number_stays_in_its_picture():
    x, w, b, _ = numbers(*SIZES[2])
    whole = ours(x, w, b)
    x[0, 1, 2, 2] = torch.nan
    found = ours(x, w, b)
    assert torch.equal(found[1], whole[1])
    assert found[0].isnan().all()


def layers():
    torch.manual_seed(1)
    chain = nn.Conv2d(2, 32, 3, padding=1), nn.PReLU(), nn.Conv2d(32, 54, 5, padding=2), nn.PReLU()
    return nn.Sequential(*chain)


@pytest.fixture
def calls(monkeypatch):
    """What was handed to the loops."""
    found, untold = [], fft_convolution.convolve
    told = lambda *given: found.append(given) or untold(*given)  # noqa: E731
    monkeypatch.setattr(fft_convolution, "convolve", told)
    return found


@needs_compiler
@pytest.mark.parametrize("joined", [True, False])
def test_a_network_takes_it_unless_told_not_to(joined, calls):
    net, x = layers(), torch.randn(3, 2, 12, 10)
    plain = net(x)
    speed_up(net, compiled=joined)
    torch.testing.assert_close(copy.deepcopy(net)(x), plain, rtol=1e-5, atol=1e-5)
    assert len(calls) == joined


@needs_compiler
@pytest.mark.parametrize("joined", [True, False])
def test_behind_upsampling_it_takes_the_large_picture(joined, calls):
    net = nn.Sequential(SpatialUpSamplingNearest(2), nn.Conv2d(32, 40, 5, padding=2))
    x = torch.randn(2, 32, 8, 8)
    plain = net(x)
    speed_up(net, compiled=joined)
    torch.testing.assert_close(net(x), plain, rtol=1e-5, atol=1e-5)
    assert [given[1].shape for given in calls] == joined * [plain[:, :32].shape]


@needs_compiler
def test_double_stays_torchs(calls):
    net, x = layers(), torch.randn(3, 2, 12, 10)
    convolve_by_fourier(net)
    net.double()(x.double())
    assert calls == []
    net.float()(x)
    assert len(calls) == 1


@needs_compiler
def test_bfloat16_is_computed_in_full(calls):
    torch.manual_seed(0)
    kept = nn.Conv2d(64, 64, 7, padding=3)
    fast = nn.Sequential(copy.deepcopy(kept))
    convolve_by_fourier(fast, rounded=True)
    x = torch.rand(2, 64, 8, 8).bfloat16()
    exact = [t.bfloat16().double() for t in kept.parameters()]
    truth = F.conv2d(x.double(), *exact, padding=3)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = kept(x), fast(x)
    assert len(calls) == 1
    assert found.dtype == expected.dtype == torch.bfloat16
    assert (found.double() - truth).norm() <= 1.1 * (expected.double() - truth).norm()
    found.float().sum().backward()
    assert fast[0].weight.grad.dtype == fast[0].bias.grad.dtype == torch.float32


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_a_recording_computes_the_same_to_the_bit(threads):
    torch.set_num_threads(threads)
    net, x = layers(), torch.randn(3, 2, 12, 10)
    convolve_by_fourier(net)

    def work():
        net(x).square().sum().backward()

    assert_a_recording_learns_the_same(net, x, work)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Sources that may be changed, not yet compiled."""
    with sources_anew(monkeypatch, tmp_path, proven, "fourier.c") as folder:
        yield folder


@needs_compiler
@pytest.mark.parametrize(
    "turn",
    [("p->conjugated ? ", "0 ? "), ("f > axis->mirrored", "0"), (", bias)", ", none())")],
)
def test_code_that_computes_otherwise_is_not_taken(anew, capsys, turn):
    change(anew / "fourier.c", *turn)
    assert proven() is None
    said = "fourier.c computes otherwise than torch: torch's operators do its work, slower.\n"
    assert capsys.readouterr().err == said


def test_without_a_compiler_torchs_operators_do_its_work(anew, monkeypatch, capsys, calls):
    monkeypatch.setattr(compiled, "_compiler", lambda: None)
    net, x = layers(), torch.randn(3, 2, 12, 10)
    plain = net(x)
    convolve_by_fourier(net)
    torch.testing.assert_close(net(x), plain, rtol=1e-5, atol=1e-5)
    assert calls == []
    assert capsys.readouterr().err == ""


@needs_compiler
@pytest.mark.parametrize("tiles", [False, True])
def test_in_bfloat16_five_taps_take_it_but_where_the_processor_multiplies_tiles(tiles, monkeypatch):
    monkeypatch.setattr(fft_convolution, "has_tiles", lambda: tiles)
    net = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2), nn.Conv2d(64, 64, 7, padding=3))
    convolve_by_fourier(net, rounded=True)
    assert ["forward" in vars(layer) for layer in net] == [not tiles, True]
    apart = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2))
    convolve_by_fourier(apart, rounded=True, compiled=False)
    assert "forward" not in vars(apart[0])
