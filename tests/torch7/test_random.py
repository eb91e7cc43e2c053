"""Against numbers drawn by the real Lua Torch 7 and LuaJIT (tests/golden/random.json)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.torch7.random import LuaJITRandom, LuaSource, TorchRandom, TorchSource

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "random.json").read_text())


def golden(seed: int, name: str) -> np.ndarray:
    return np.array(GOLDEN[f"seed_{seed}"][name]["data"], np.float64)


@pytest.mark.parametrize("seed", [1, 7, 12345])
def test_draws_in_sequence_equal_lua(seed):
    stream = TorchRandom(seed)

    def check(name, values):
        np.testing.assert_array_equal(np.float32(values), np.float32(golden(seed, name)), name)

    check("uniform", stream.uniform(10, -1, 1))
    np.testing.assert_allclose(stream.normal(9), golden(seed, "normal"), rtol=1e-6)
    check("uniform2", stream.uniform(3, 0, 0.5))
    np.testing.assert_allclose(stream.normal(6), golden(seed, "randn"), rtol=1e-6)
    np.testing.assert_allclose(stream.normal(40), golden(seed, "normal40"), rtol=1e-6)
    np.testing.assert_allclose(stream.normal(5), golden(seed, "normal5"), rtol=1e-6)
    check("bernoulli", stream.bernoulli(24, 0.5))
    check("bernoulli02", stream.bernoulli(24, 0.2))
    check("randperm", stream.randperm(12) + 1)


@pytest.mark.parametrize("parts", [(4, 4), (3, 5), (1, 1, 6), (0, 7, 1)])
def test_normal_numbers_drawn_in_parts_are_those_drawn_at_once(parts):
    """A pair's second half waits for the next draw, and no longer."""
    stream = TorchRandom(3)
    drawn = np.concatenate([stream.normal(n) for n in parts])
    np.testing.assert_array_equal(drawn, TorchRandom(3).normal(8))


@pytest.mark.parametrize("seed", [1, 7, 12345])
def test_far_draws_doubles_and_integers(seed):
    stream = TorchRandom(seed)
    stream.uniform(10_000)
    expected = golden(seed, "after10000")
    np.testing.assert_array_equal(np.float32(stream.uniform(4, -1, 1)), np.float32(expected))
    fresh = TorchRandom(seed)
    np.testing.assert_allclose(fresh.uniform(4, -1, 1), golden(seed, "double_uniform"), rtol=1e-15)
    drawn = [fresh.random(1, 1000), fresh.random(1, 6), fresh.random(1, 6)]
    assert drawn == GOLDEN[f"seed_{seed}"]["random"]


@pytest.mark.parametrize("seed", [1, 7, 12345])
def test_luajit_math_random(seed):
    numbers = LuaJITRandom(seed)
    assert [numbers.below(1000) + 1 for _ in range(20)] == GOLDEN[f"seed_{seed}"]["math_random"]
    floats = [numbers.random() for _ in range(5)]
    np.testing.assert_allclose(floats, GOLDEN[f"seed_{seed}"]["math_random_float"], rtol=1e-15)


def test_seeds_that_no_double_holds_are_refused():
    for seed in (2**1023, -(2**1023)):
        assert 0 <= LuaSource(seed).numbers.random() < 1
    for seed in (2**1023 + 1, -(10**400)):
        with pytest.raises(ValueError, match=r"a whole number of at most 2\*\*1023 in size"):
            LuaSource(seed)
    with pytest.raises(TypeError):
        LuaSource(1.5)


@pytest.mark.parametrize("make", [LuaSource, TorchSource])
def test_state_continues_every_kind_of_draw(make):
    source = make(5)
    source.normal_(torch.empty(3), 0, 1)  # leaves half a pair behind
    source.indices_(torch.empty(4, dtype=torch.int64), 10)
    state = source.state()

    def draws(from_source):
        return [
            from_source.normal_(torch.empty(4), 1, 2),
            from_source.uniform_(torch.empty(2, 3), -1, 1),
            from_source.bernoulli_(torch.empty(9), 0.3),
            from_source.indices_(torch.empty(5, dtype=torch.int64), 7),
            from_source.permutation(8),
        ]

    expected = draws(source)
    other = make(99)
    other.set_state(state)
    for a, b in zip(expected, draws(other), strict=True):
        assert torch.equal(a, b)


def test_permutation_is_one_and_handles_the_smallest_sizes():
    source = LuaSource(3)
    assert source.permutation(0).tolist() == []
    assert source.permutation(1).tolist() == [0]
    assert sorted(source.permutation(1000).tolist()) == list(range(1000))


def test_a_chance_is_taken_up_to_and_with_its_bound(monkeypatch):
    """TH asks whether a uniform number is at most p."""
    monkeypatch.setattr(TorchRandom, "_unit", lambda self, n: np.array([0.25, 0.5, 0.75]))
    assert TorchRandom(1).bernoulli(3, 0.5).tolist() == [1, 1, 0]


def test_fair_coins_are_bits_of_torchs_numbers():
    """All of their bits, whatever the tensor's size and kind; a saved state goes on with them."""
    source = TorchSource(3)
    drawn = source.bernoulli_(torch.empty(31 * 4000), 0.5).view(4000, 31)
    assert set(drawn.unique().tolist()) == {0, 1}
    assert abs(drawn.mean() - 0.5) < 4.5 * 0.5 / drawn.numel() ** 0.5
    assert (drawn.mean(0) - 0.5).abs().max() < 4.5 * 0.5 / 4000**0.5
    near = drawn[:, 1:] * drawn[:, :-1]  # neighbours in a number, and of the next one
    assert (near.mean(0) - 0.25).abs().max() < 4.5 * 0.44 / 4000**0.5
    assert abs((drawn[1:, 0] * drawn[:-1, -1]).mean() - 0.25) < 4.5 * 0.44 / 4000**0.5
    state = source.state()
    shape = (2, 3, 5, 7)
    first = source.bernoulli_(torch.empty(shape, dtype=torch.float64).transpose(1, 3), 0.5)
    assert 0.3 < first.mean() < 0.7
    assert source.set_state(state)
    assert torch.equal(source.bernoulli_(torch.empty(2, 7, 5, 3), 0.5).double(), first)
    assert source.bernoulli_(torch.empty(0, 4), 0.5).shape == (0, 4)
    assert source.bernoulli_(torch.empty(()), 0.5).item() in (0, 1)


def test_coins_fall_on_the_sources_device():
    with torch.device("meta"):  # as torch.set_default_device
        assert TorchSource(3).bernoulli_(torch.empty(40, device="cpu"), 0.5).sum() > 0


def test_other_coins_fall_as_often_as_said():
    source = TorchSource(3)
    for p in (0.0, 0.2, 0.8, 1.0):
        assert abs(source.bernoulli_(torch.empty(20000), p).mean() - p) <= 4.5 * 0.4 / 20000**0.5
