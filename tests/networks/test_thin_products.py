"""Large Linears in C against products in float64."""

import pytest
import torch
from torch import nn

from eyescream_py.networks import cpu_layers, thin_products
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.thin_products import (
    ERRORS,
    ROWS,
    pays,
    proven,
    slopes_of_rows,
    slopes_of_weights,
    values,
)
from eyescream_py.system import compiled
from tests.loops import assert_a_recording_learns_the_same, change, sources_anew
from tests.system.test_compiled import needs_compiler

PAIRS = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.cpu._is_avx512_bf16_supported()
    and not torch.cpu._is_amx_tile_supported()
)
needs_pairs = pytest.mark.skipif(not PAIRS, reason="a processor without products of pairs, or AMX")
kinds = pytest.mark.parametrize(
    "kind", [torch.float32, pytest.param(torch.bfloat16, marks=needs_pairs)]
)


def numbers(rows, outputs, inputs, kind):
    torch.manual_seed(rows)
    sizes = (rows, outputs), (outputs, inputs), (rows, inputs)
    return [torch.randn(size).to(kind) for size in sizes]


def products(g, weight, x):
    made = [slopes_of_rows(g, weight), slopes_of_weights(g, x)]
    return made if x.dtype == torch.float32 else [*made, values(x, weight, g[0])]


@pytest.fixture(autouse=True)
def _as_on_amd(monkeypatch):
    monkeypatch.setattr(cpu_layers, "prefers_onednn", lambda: True)


@needs_compiler
@kinds
@pytest.mark.parametrize("threads", [1, 2, 5, 16])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"),
    [(16, 16, 32), (16, 1040, 512), (32, 48, 4384), (48, 80, 2048), (48, 16, 13824)],
)
def test_they_compute_products(kind, rows, outputs, inputs, threads):
    g, weight, x = numbers(rows, outputs, inputs, kind)
    torch.set_num_threads(threads)
    found = products(g, weight, x)
    exact = [t.double() for t in (g, weight, x)]
    meant = exact[0] @ exact[1], exact[0].T @ exact[2], exact[2] @ exact[1].T + exact[0][0]
    for a, b in zip(found, meant, strict=kind == torch.bfloat16):
        assert a.dtype == kind
        assert a.shape == b.shape
        assert (a - b).norm() <= ERRORS[kind] * b.norm()
    torch.set_num_threads(1)
    assert all(map(torch.equal, found, products(g, weight, x)))


@needs_compiler
@kinds
def test_operands_may_lie_otherwise(kind):
    g, weight, x = numbers(16, 32, 256, kind)
    meant = products(g, weight, x)
    turned, apart = g.T.contiguous().T, torch.stack([x, x], 2)[..., 0]
    assert all(map(torch.equal, products(turned, weight, apart), meant))


@needs_compiler
@kinds
def test_what_is_no_number_stays_where_it_is(kind):
    g, weight, x = numbers(16, 32, 256, kind)
    weight[7, 5] = 0
    to_x, to_weight, *rest = products(g, weight, x)
    g[3, 7] = torch.inf
    found, of_weight = slopes_of_rows(g, weight), slopes_of_weights(g, x)
    assert found[3].isnan().nonzero().tolist() == [[5]]
    assert found[3].isinf().sum() == 255
    assert of_weight[7].isinf().all()
    found[3], of_weight[7] = to_x[3], to_weight[7]
    assert torch.equal(found, to_x)
    assert torch.equal(of_weight, to_weight)
    for y in rest:
        x[3, 5] = torch.nan
        found = values(x, weight, g[0])
        assert found[3].isnan().all()
        found[3] = y[3]
        assert torch.equal(found, y)


@needs_compiler
@kinds
def test_they_are_taken_where_they_pay(kind):
    weight = torch.empty(1024, 1024, dtype=kind)
    taken = [n for n in range(1, 130) if pays(weight[:1].expand(n, 1024), weight)]
    assert {16, 32, 48} <= set(taken) <= set(ROWS)
    assert {1, 15, 17, 64}.isdisjoint(taken)
    x = weight[:16]
    assert not pays(x.double(), weight)
    assert not pays(x.double(), weight.double())
    assert not pays(x, weight.T)
    assert not pays(x[:, 100:], weight[:, 100:].contiguous())
    assert not pays(x, weight[:1001])
    assert not pays(x[None], weight)
    assert not pays(x.to("meta"), weight.to("meta"))


@needs_compiler
@needs_pairs
def test_autocast_decides_in_which_type():
    weight = torch.empty(1024, 1024)
    half, x = weight.bfloat16(), weight[:16]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(pays(a, b) for a in (x, x.bfloat16()) for b in (weight, half))
        assert not pays(x.double(), half)
    assert not pays(x, half)
    assert not pays(x.bfloat16(), weight)
    with torch.autocast("cpu", torch.float16):
        assert not pays(x, weight)


def test_beside_amx_torch_multiplies_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert thin_products._source(torch.bfloat16) is None


def results(layer, x, g, kind=torch.float32):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, kind == torch.bfloat16):
        y = layer(x)
    assert y.dtype == kind
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), g.to(kind))]


@needs_compiler
@kinds
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 32, 64])
@pytest.mark.parametrize("sizes", [(1024, 512), (1000, 530)])
def test_a_linear_takes_them_unless_told_not_to(kind, joined, rows, sizes, monkeypatch):
    calls, untold = [], thin_products._code
    monkeypatch.setattr(thin_products, "_code", lambda x: calls.append(1) or untold(x))
    torch.manual_seed(0)
    plain, fast = (nn.Linear(*sizes) for _ in range(2))
    fast.load_state_dict(plain.state_dict())
    speed_up(fast, compiled=joined)
    x, g = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[1])
    found, meant = results(fast, x, g, kind), results(plain, x, g, kind)
    for a, b in zip(found, meant, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= 2 * ERRORS[kind] * b.norm()
    taken = joined and rows in (16, 32) and sizes == (1024, 512)
    assert len(calls) == (2 + (kind == torch.bfloat16)) * taken


@needs_compiler
@kinds
def test_they_are_proven_before_a_step_that_may_be_recorded(kind):
    proven.cache_clear()
    speed_up(nn.Linear(1024, 512), rounded=kind == torch.bfloat16)
    before = proven.cache_info()
    assert before.currsize == 1
    assert proven(kind) is not None
    assert proven.cache_info().misses == before.misses


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
@kinds
def test_a_recording_computes_the_same_to_the_bit(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1024, 1024), nn.PReLU(), nn.Linear(1024, 512))
    x = torch.randn(16, 1024)
    speed_up(net)

    def work():
        with torch.autocast("cpu", torch.bfloat16, kind == torch.bfloat16):
            y = net(x)
        y.float().square().sum().backward()

    assert_a_recording_learns_the_same(net, x, work)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Sources that may be changed, not yet compiled."""
    with sources_anew(monkeypatch, tmp_path, proven, "thin.c", "thin_bf16.c") as folder:
        yield folder


@needs_compiler
@kinds
@pytest.mark.parametrize(
    ("float32", "bfloat16"),
    [
        (("kept + k *", "kept + 0 *"), ("b[k][0] = pairs[0]", "b[k][0] = pairs[1]")),
        (("begins ? NULL", "1 ? NULL"), ("begins ? NULL", "1 ? NULL")),
        (("x + c * w->rows", "x"), ("x + c / COLUMNS * pairs", "x")),
        (("k * TALL + n % TALL", "k * TALL"), ("load(sums + n) +", "")),
    ],
)
def test_code_that_computes_otherwise_is_not_taken(anew, capsys, kind, float32, bfloat16):
    name, turn = ("thin.c", float32) if kind == torch.float32 else ("thin_bf16.c", bfloat16)
    change(anew / name, *turn)
    assert proven(kind) is None
    said = f"{name} computes otherwise than torch: torch's operators do its work, slower.\n"
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
