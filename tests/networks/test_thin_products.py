"""Slopes of large Linears in C against products in float64."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from eyescream_py.networks import cpu_layers, thin_products
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.thin_products import (
    ROWS,
    pays,
    proven,
    slopes_of_rows,
    slopes_of_weights,
)
from eyescream_py.system import compiled
from eyescream_py.system.tape import record
from tests.system.test_compiled import needs_compiler


def numbers(rows, outputs, inputs):
    torch.manual_seed(rows)
    sizes = (rows, outputs), (outputs, inputs), (rows, inputs)
    return [torch.randn(size) for size in sizes]


def slopes(g, weight, x):
    return slopes_of_rows(g, weight), slopes_of_weights(g, x)


@pytest.fixture(autouse=True)
def _as_on_amd(monkeypatch):
    monkeypatch.setattr(cpu_layers, "prefers_onednn", lambda: True)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 5, 16])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"),
    [(16, 16, 128), (16, 1040, 384), (32, 48, 4224), (48, 80, 2048), (48, 16, 13824)],
)
def test_slopes_are_those_of_products(rows, outputs, inputs, threads):
    g, weight, x = numbers(rows, outputs, inputs)
    torch.set_num_threads(threads)
    found = slopes(g, weight, x)
    meant = g.double() @ weight.double(), g.double().T @ x.double()
    for a, b in zip(found, meant, strict=True):
        assert a.dtype == torch.float32
        assert a.shape == b.shape
        assert (a - b).norm() <= 2e-6 * b.norm()
    torch.set_num_threads(1)
    assert all(map(torch.equal, found, slopes(g, weight, x)))


@needs_compiler
def test_operands_may_lie_otherwise():
    g, weight, x = numbers(16, 32, 256)
    meant = slopes(g, weight, x)
    turned, apart = g.T.contiguous().T, torch.stack([x, x], 2)[..., 0]
    assert all(map(torch.equal, slopes(turned, weight, apart), meant))


@needs_compiler
def test_what_is_no_number_stays_where_it_is():
    g, weight, x = numbers(16, 32, 256)
    weight[7, 5] = 0
    to_x, to_weight = slopes(g, weight, x)
    g[3, 7] = torch.inf
    found, of_weight = slopes(g, weight, x)
    assert found[3].isnan().nonzero().tolist() == [[5]]
    assert found[3].isinf().sum() == 255
    assert of_weight[7].isinf().all()
    found[3], of_weight[7] = to_x[3], to_weight[7]
    assert torch.equal(found, to_x)
    assert torch.equal(of_weight, to_weight)


@needs_compiler
def test_they_are_taken_where_they_pay():
    weight = torch.empty(1024, 1024)
    taken = [n for n in range(1, 130) if pays(torch.empty(n, 1024), weight)]
    assert {16, 32, 48} <= set(taken) <= set(ROWS)
    assert {1, 15, 17, 64}.isdisjoint(taken)
    x = torch.empty(16, 1024)
    assert not pays(x.double(), weight.double())
    assert not pays(x, weight.T)
    assert not pays(x[:, 100:], weight[:, 100:].contiguous())
    assert not pays(x, weight[:1001])


def results(layer, x, g):
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), g)]


@needs_compiler
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 32, 64])
@pytest.mark.parametrize("sizes", [(1024, 512), (1000, 530)])
def test_a_linear_takes_them_unless_told_not_to(joined, rows, sizes, monkeypatch):
    calls, untold = [], thin_products._code
    monkeypatch.setattr(thin_products, "_code", lambda: calls.append(1) or untold())
    torch.manual_seed(0)
    plain, fast = (nn.Linear(*sizes) for _ in range(2))
    fast.load_state_dict(plain.state_dict())
    speed_up(fast, compiled=joined)
    x, g = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[1])
    for a, b in zip(results(plain, x, g), results(fast, x, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(calls) == (2 if joined and rows in (16, 32) and sizes == (1024, 512) else 0)


@needs_compiler
def test_only_what_is_needed_is_computed(monkeypatch):
    layer, x, g = nn.Linear(1024, 512), torch.randn(16, 1024), torch.randn(16, 512)
    speed_up(layer)
    whole = results(layer, x, g)
    monkeypatch.setattr(thin_products, "slopes_of_rows", None)
    assert all(map(torch.equal, torch.autograd.grad(layer(x), layer.weight, g), whole[2:3]))
    monkeypatch.undo()
    monkeypatch.setattr(thin_products, "slopes_of_weights", None)
    layer.requires_grad_(False)
    x.requires_grad_()
    assert torch.equal(torch.autograd.grad(layer(x), x, g)[0], whole[1])


@needs_compiler
def test_a_recording_computes_the_same_to_the_bit():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1024, 1024), nn.PReLU(), nn.Linear(1024, 512))
    x = torch.randn(16, 1024)
    speed_up(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def work():
        net(x).square().sum().backward()

    def learned():
        made = [p.grad.clone() for p in net.parameters()]
        for p in net.parameters():
            p.grad.zero_()
        return made

    work()
    first = learned()
    tape = record(work)
    assert all(map(torch.equal, first, learned()))
    tape.replay()
    assert all(map(torch.equal, first, learned()))
    x.normal_()
    tape.replay()
    again = learned()
    work()
    assert all(map(torch.equal, again, learned()))
    assert not torch.equal(again[0], first[0])


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Sources that may be changed, not yet compiled."""
    for name in ("thin.c", "vectors.h"):
        shutil.copy(Path(compiled.__file__).with_name(name), tmp_path)
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (compiled.library, proven):
        cached.cache_clear()
    yield tmp_path
    for cached in (compiled.library, proven):
        cached.cache_clear()


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [("kept + k *", "kept + 0 *"), ("begins ? NULL", "1 ? NULL"), ("x + c * w->rows", "x")],
)
def test_code_that_computes_otherwise_is_not_taken(anew, capsys, change):
    source = anew / "thin.c"
    text = source.read_text()
    assert change[0] in text
    source.write_text(text.replace(*change))
    assert proven() is None
    said = "thin.c computes otherwise than torch: torch's operators do its work, slower.\n"
    assert capsys.readouterr().err == said


def test_without_a_compiler_torchs_operators_do_their_work(anew, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_compiler", lambda: None)
    layer, x, g = nn.Linear(1024, 512), torch.randn(16, 1024), torch.randn(16, 512)
    plain = results(layer, x, g)
    speed_up(layer)
    for a, b in zip(plain, results(layer, x, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert not pays(x, layer.weight)
    assert capsys.readouterr().err == ""
