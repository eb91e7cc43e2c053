"""The sides that benchmarks compare compute the same; what they are given wrongly is said."""

import importlib
import itertools

import pytest
import torch
from click.testing import CliRunner

from benchmarks import operator_times, srez, train_step
from benchmarks.plain_port import PlainFaces, PlainPairs
from benchmarks.sides import medians, turns
from eyescream_py.data.dataset import Dataset
from eyescream_py.data.pairs import coarse_and_diff
from eyescream_py.game import precision
from eyescream_py.srez.batches import with_inputs
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import build_networks
from eyescream_py.srez.steps import train_step as srez_step
from eyescream_py.torch7.random import TorchSource

CPU = torch.device("cpu")
BATCH = 4


@pytest.fixture
def in_double():
    """As Adam divides a slope by its own size, roundings of single precision would show."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noise(tensor):
    """The same row everywhere, so that it does not matter in which order rows are drawn."""
    row = torch.rand(
        tensor[0].shape, generator=torch.Generator().manual_seed(2), dtype=tensor.dtype
    )
    return tensor.copy_(2 * row - 1)


class SameNoise(TorchSource):
    def uniform_(self, tensor, low, high):
        return noise(tensor)


def without_dropout(networks):
    for layer in (layer for net in networks for layer in net.modules()):
        if "Dropout" in type(layer).__name__:
            layer.p = 0.0


def both_sides(case):
    """(game, plain) of a case, with the same weights, noise and one picture again and again."""
    channels, size, coarse = train_step.CASES[case]
    torch.manual_seed(1)
    picture = torch.randint(0, 256, (1, channels, size, size), dtype=torch.uint8)
    data, source = Dataset(picture.repeat(6, 1, 1, 1), "one"), SameNoise(0, CPU)
    networks = train_step._networks(case, source, False)
    rows = torch.arange(len(data))
    if coarse:
        pairs = (part.double() for part in coarse_and_diff(data, rows, coarse))
        plain = PlainPairs(*pairs, BATCH)
        plain.noise = lambda n: noise(torch.empty(n, 1, size, size))
    else:
        plain = PlainFaces(data.floats(rows).double(), BATCH)
        plain.noise = lambda n: noise(torch.empty(n, 100))
    without_dropout([*networks, plain.D, plain.G])
    for theirs, ours in zip((plain.D, plain.G), networks, strict=True):
        theirs.load_state_dict(ours.state_dict())
    for optimizer in (plain.D_opt, plain.G_opt):  # Lua's epsilon is added before the correction
        optimizer.param_groups[0]["eps"] /= 0.001**0.5
    fp64 = precision.choose("fp64", CPU)
    game = train_step.make_game(case, networks, data, BATCH, source, fp64, False, False)
    game.feed.dtype = torch.float64
    for name in ("diff", "coarse", "noise", "ones") if coarse else ():
        setattr(game.feed, name, getattr(game.feed, name).double())
    return game, plain


@pytest.mark.parametrize("case", ["16px gray", "c2f 16>32 gray"])
def test_both_sides_of_a_training_iteration_compute_the_same(case, in_double):
    game, plain = both_sides(case)
    game.iteration(BATCH)
    plain.iteration()
    for learner, network in ((game.G, plain.G), (game.D, plain.D)):
        for ours, theirs in zip(learner.network.parameters(), network.parameters(), strict=True):
            assert (ours - theirs).norm() <= 1e-6 * theirs.norm()
    slopes = [p.grad for p in plain.G.parameters()]
    for ours, theirs in zip(game.G.optimizer.gradients, slopes, strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_both_sides_of_srez_have_the_same_losses_for_three_steps(in_double):
    options = Options(width=1 / 16, batch_size=2, sample_size=32)
    rng = torch.Generator().manual_seed(0)
    batch = with_inputs(torch.rand(2, 3, 32, 32, generator=rng), options, rng)
    ours = build_networks(options, CPU)
    plain = srez.plain_side(ours, options)
    for _ in range(3):
        theirs, mine = plain(batch), srez_step(ours, batch, options)
        for name, value in theirs.items():
            assert float(mine[name]) == pytest.approx(float(value), rel=1e-6)


def test_sides_take_turns_and_warm_ups_do_not_count():
    seen, now = [], iter(range(100))
    sides = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    times = turns(sides, 2, clock=lambda: float(next(now)))
    assert seen == ["a", "b"] * 3
    assert [len(values) for values in times.values()] == [2, 2]
    assert medians(sides, 1, clock=lambda: 0.0, warm_up=0) == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("dataset", ["--path=NOWHERE"], "NOWHERE"),
        ("faces_found", ["--real=NOWHERE"], "NOWHERE"),
        ("features", ["NOWHERE", "--net=NOWHERE"], "NOWHERE"),
        ("ganless_equal_time", ["NOWHERE"], "NOWHERE"),
        ("ganless_features", ["."], "latest.safetensors"),
        ("growth", ["--output=NOWHERE/a.md"], "no folder NOWHERE"),
        ("image_model", ["run", "NOWHERE", "OUT"], "NOWHERE"),
        ("image_model_report", ["NOWHERE"], "NOWHERE holds no results"),
        ("mln", ["operators", "--data=NOWHERE"], "NOWHERE"),
        ("mln_masks", ["run", "--data=NOWHERE", "--images=NOWHERE", "--out=rows"], "NOWHERE"),
        ("mln_masks", ["table", "NOWHERE"], "NOWHERE"),
        ("mln_scan", ["maps", "--data=NOWHERE"], "NOWHERE"),
        ("operator_times", ["--only=nothing"], "'nothing' is in none of 16px gray"),
        ("operators", ["--only=nothing"], "'nothing' is in none of 16px gray"),
        ("torch7", ["--output=NOWHERE/a.md"], "no folder NOWHERE"),
        ("train_step", ["--gpu=99"], "--gpu=99"),
    ],
)
def test_what_is_missing_is_said_in_a_line_before_anything_is_measured(
    name, words, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(importlib.import_module(f"benchmarks.{name}").main, words)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert says in " ".join(done.output.split())


def test_operators_of_an_iteration_are_timed_by_name_and_shapes():
    """By a clock that goes on by a second at each look; with the step in C, where there is one."""
    found = operator_times.times("16px gray", "fp32", 2, itertools.count().__next__)
    assert found["uniform_", "8x100"] == 1000  # noise of D's step
    steps = [ms for (name, _), ms in found.items() if name in ("adam", "_fused_adam_")]
    assert steps == [2000]  # D's and G's
