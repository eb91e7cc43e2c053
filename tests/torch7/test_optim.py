"""Lua's optimizers against NumPy formulas, eagerly and by device arithmetic with a gate."""

import numpy as np
import pytest
import torch

from eyescream_py.torch7.optim import SGD, Adagrad, Adam, ConfusionMatrix


def adam(x, g, s, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    s["t"] += 1
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g * g
    size = lr * np.sqrt(1 - beta2 ** s["t"]) / (1 - beta1 ** s["t"])
    return x - size * s["m"] / (np.sqrt(s["v"]) + eps)


def adagrad(x, g, s):
    s["v"] = s.get("v", 0) + g * g
    return x - 1e-3 * g / (np.sqrt(s["v"]) + 1e-10)


def sgd(x, g, s):
    s["v"] = 0.5 * s["v"] + 0.5 * g if "v" in s else g
    return x - 0.02 * s["v"]


def plain_sgd(x, g, s):
    return x - 0.02 * g


CASES = {
    "adam": (adam, Adam),
    "adagrad": (adagrad, Adagrad),
    "sgd": (sgd, lambda p, **more: SGD(p, 0.02, 0.5, **more)),
    "plain sgd": (plain_sgd, lambda p, **more: SGD(p, 0.02, **more)),
}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_formula_and_a_closed_gate_changes_nothing(name, capturable):
    formula, make = CASES[name]
    rng = np.random.default_rng(3)
    start = rng.normal(size=(4, 5))
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make([p], capturable=capturable)
    expected, state = start, {"t": 0}
    for step in range(8):
        g = rng.normal(size=(4, 5)) * 10.0 ** rng.integers(-9, 1)
        p.grad = torch.from_numpy(g.copy())
        is_open = step not in (0, 3)
        optimizer.step(torch.tensor(float(is_open)))
        if is_open:
            expected = formula(expected, g, state)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-15)
    assert optimizer.export_state()["t"] == 6


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_rate_that_was_halved_and_one_that_falls(name, capturable):
    moved = []
    for halvings, factor in ((0, 1.0), (1, 1.0), (0, 0.25)):
        p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = CASES[name][1]([p], capturable=capturable)
        for _ in range(halvings):
            optimizer.halve()
        optimizer.factor = factor
        p.grad = torch.ones_like(p)
        optimizer.step()
        moved.append(float(p.detach()[0]))
    assert moved[1] == pytest.approx(moved[0] / 2)
    assert moved[2] == pytest.approx(moved[0] / 4)


@pytest.mark.parametrize("of_slopes", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_weights", [torch.contiguous_format, torch.channels_last])
def test_adam_goes_by_elements_wherever_they_lie_and_copies_none(of_weights, of_slopes):
    torch.manual_seed(0)
    start, slopes = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    found = []
    for weights_lie, slopes_lie in ((None, None), (of_weights, of_slopes)):
        p = torch.nn.Parameter(start.clone())
        if weights_lie:
            p.data = p.detach().contiguous(memory_format=weights_lie)
        optimizer = Adam([p])
        for slope in slopes:
            p.grad = slope.contiguous(memory_format=slopes_lie) if slopes_lie else slope.clone()
            with torch.profiler.profile() as profile:
                optimizer.step()
        copied = any(event.key == "aten::copy_" for event in profile.key_averages())
        assert copied == (weights_lie != slopes_lie)
        found.append(p.detach().contiguous())
    assert torch.equal(*found)


def test_adam_remembers_where_weights_are_laid_otherwise_after_its_first_step():
    torch.manual_seed(0)
    start, slopes = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    found = []
    for relaid in (False, True):
        p = torch.nn.Parameter(start.clone())
        optimizer = Adam([p])
        for slope in slopes:
            p.grad = slope.clone()
            optimizer.step()
            if relaid:
                p.data = p.detach().contiguous(memory_format=torch.channels_last)
        found.append((p.detach().contiguous(), *optimizer.export_state().values()))
    for a, b in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


GAPS = {  # weights of shape [4,3,2] as a part of a larger tensor
    "columns": lambda: torch.zeros(4, 3, 5)[..., 1:3],
    "every second row": lambda: torch.zeros(8, 3, 2)[::2],
    "turned": lambda: torch.zeros(2, 3, 9).permute(2, 1, 0)[1::2],
    "one plane": lambda: torch.zeros(4, 3, 2, 7)[..., 3],
}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("part", GAPS)
@pytest.mark.parametrize("name", CASES)
def test_a_part_of_a_larger_tensor_is_trained_and_the_rest_left_alone(name, part, capturable):
    torch.manual_seed(0)
    start, slopes = torch.randn(4, 3, 2), torch.randn(3, 4, 3, 2)
    cut = GAPS[part]().copy_(start)
    whole = cut.as_strided((cut.untyped_storage().nbytes() // 4,), (1,), 0)
    rest = torch.ones_like(whole, dtype=torch.bool)
    rest.as_strided(cut.shape, cut.stride(), cut.storage_offset()).zero_()
    whole[rest] = 7.0
    found = []
    for p in (torch.nn.Parameter(cut), torch.nn.Parameter(start.clone())):
        optimizer = CASES[name][1]([p], capturable=capturable)
        for number, slope in enumerate(slopes):
            p.grad = slope[:, :, :1].expand(4, 3, 2) if number == 1 else slope
            optimizer.step(torch.tensor(float(number != 2)))
        found.append((p.detach(), *optimizer.export_state().values()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b))
    assert bool((whole[rest] == 7.0).all())


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("shape_and_strides", [((4, 3), (0, 1)), ((3, 4), (2, 1)), ((5,), (0,))])
@pytest.mark.parametrize("name", CASES)
def test_elements_that_share_memory_are_refused_before_anything_changes(
    name, shape_and_strides, capturable
):
    first = torch.nn.Parameter(torch.ones(2))
    second = torch.nn.Parameter(torch.ones(20).as_strided(*shape_and_strides))
    optimizer = CASES[name][1]([first, second], capturable=capturable)
    before = {n: torch.as_tensor(v).clone() for n, v in optimizer.export_state().items()}
    first.grad, second.grad = torch.ones(2), torch.ones(second.shape)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert torch.equal(first.detach(), torch.ones(2))
    assert torch.equal(second.detach(), torch.ones(second.shape))
    for n, value in optimizer.export_state().items():
        assert torch.equal(torch.as_tensor(value), before[n])


@pytest.mark.parametrize("gated", [False, True])
def test_device_adam_in_single_precision_follows_the_formula(gated):
    """As the kernel of a GPU is called: counters, rate and gate in tensors."""
    rng = np.random.default_rng(5)
    start = rng.normal(size=1000)
    p = torch.nn.Parameter(torch.from_numpy(start).float())
    optimizer = Adam([p], capturable=True)
    expected, state = start, {"t": 0}
    for step in range(100):
        g = rng.normal(size=1000) * 10.0 ** rng.integers(-4, 1)
        p.grad = torch.from_numpy(g).float()
        is_open = not gated or step % 3 > 0
        before = p.detach().clone()
        optimizer.step(torch.tensor(float(is_open), dtype=torch.float64))
        if is_open:
            expected = adam(expected, g, state)
        else:
            assert torch.equal(p.detach(), before)
    change = np.abs(p.detach().numpy() - expected) / np.abs(expected).max()
    assert change.max() < 1e-6
    assert int(optimizer.t) == state["t"]


@pytest.mark.parametrize("name", CASES)
def test_state_goes_out_and_in(name):
    _, make = CASES[name]

    def step(optimizer, p, seed):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = make([p])
    step(optimizer, p, 0)
    q = torch.nn.Parameter(p.detach().clone())
    other = make([q])
    other.import_state(optimizer.export_state())
    for seed in (1, 2):
        step(optimizer, p, seed)
        step(other, q, seed)
    assert torch.equal(p, q)


def test_state_of_another_size_is_refused():
    state = Adam([torch.nn.Parameter(torch.ones(3))]).export_state()
    with pytest.raises(ValueError, match="3 values of 'm', 4 are needed"):
        Adam([torch.nn.Parameter(torch.ones(4))]).import_state(state)
    with pytest.raises(ValueError, match="no 'paramVariance'"):
        Adagrad([torch.nn.Parameter(torch.ones(3))]).import_state(state)


def test_confusion_matrix_prints_what_lua_printed():
    confusion = ConfusionMatrix()
    confusion.counts.copy_(torch.tensor([631, 365, 357, 639]))
    assert str(confusion).splitlines() == [
        "ConfusionMatrix:",
        "[[     631     365]   63.353% \t[class: 0]",
        " [     357     639]]  64.157% \t[class: 1]",
        " + average row correct: 63.755020499229% ",
        " + average rowUcol correct (VOC measure): 46.793937683105% ",
        " + global correct: 63.755020080321%",
    ]


def test_confusion_matrix_counts():
    confusion = ConfusionMatrix()
    confusion.add(torch.tensor([0.9, 0.2, 0.6, 0.1]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert confusion.counts.tolist() == [1, 1, 1, 1]
    confusion.zero()
    assert confusion.counts.sum() == 0


@pytest.mark.parametrize("fault", [float("inf"), float("nan")])
def test_one_number_that_is_none_is_noticed_in_weights_and_moments(fault):
    weights = [torch.nn.Parameter(torch.full((3, 4), 1e30)), torch.nn.Parameter(torch.ones(2))]
    optimizer = Adam(weights, 1e-3)
    assert optimizer.is_finite()  # though the squares of the first would overflow
    optimizer.moments["v"][1][0] = fault
    assert not optimizer.is_finite()
    optimizer.moments["v"][1][0] = 0
    weights[0].data[2, 3] = fault
    assert not optimizer.is_finite()


@pytest.mark.parametrize("steps", [-1, -(2**31), 2**60, 0.5, float("nan"), "many"])
def test_a_count_of_steps_that_is_none_is_refused(steps):
    optimizer = Adam([torch.nn.Parameter(torch.ones(3))])
    state = optimizer.export_state()
    with pytest.raises((ValueError, TypeError)):
        optimizer.import_state({**state, "t": steps})
