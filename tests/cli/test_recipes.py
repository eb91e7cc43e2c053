"""--recipe: defaults for what nobody typed; `lua` changes nothing."""

import click
import pytest
from click.testing import CliRunner

from eyescream_py.cli import options, recipes, train
from eyescream_py.training import faces
from tests.small_runs import invoke


@pytest.fixture
def parsed():
    """Runs train.py's own options, without training; returns (values used, table saved)."""

    def run(*flags):
        seen = {}

        @click.command()
        def look(**values):
            typed = options.typed_flags()
            seen["used"] = recipes.follow(values, typed)
            table = options.lua_table()
            seen["saved"] = {p.name: table[p.opts[-1].lstrip("-")] for p in train.main.params}

        look.params = train.main.params
        result = CliRunner().invoke(look, flags)
        assert result.exit_code == 0, result.output
        return seen["used"], seen["saved"]

    return run


def test_lua_is_the_default_and_changes_nothing(parsed):
    used, saved = parsed()
    defaults = {p.name: False if p.is_flag else p.default for p in train.main.params}
    for name in recipes.RECIPES["best"]:
        assert used[name] == defaults[name]
        assert saved[name] == defaults[name], name
    assert parsed("--recipe=lua")[0] == used


def test_best_sets_what_nobody_typed(parsed):
    used, saved = parsed("--recipe=best")
    for name, value in recipes.RECIPES["best"].items():
        assert used[name] == value
        assert saved[name] == value
    assert used["noise_dim"] == 100
    assert "recipe" not in used


def test_what_is_typed_wins_even_where_it_is_the_default(parsed):
    used, saved = parsed("--recipe=best", "--D_r1=0")
    assert used["D_r1"] == 0
    assert saved["D_r1"] == 0


@pytest.mark.parametrize("decay", [0.999, 0])
def test_a_typed_average_takes_the_place_of_the_recipes(parsed, decay):
    used, saved = parsed("--recipe=best", f"--G_ema={decay}")
    assert (used["G_ema"], used["G_ema_power"], saved["G_ema_power"]) == (decay, 0, 0)
    used, _ = parsed("--recipe=best", f"--G_ema={decay}", "--G_ema_power=3")
    assert used["G_ema_power"] == 3


def test_every_recipe_names_real_parameters():
    names = {p.name for p in train.main.params}
    for recipe in recipes.RECIPES.values():
        assert set(recipe) <= names


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        (["--G_arch=mlp"], {"G_planes"}), (["--D_arch=b"], {"D_planes"}),
        (["--autoencoder=a.net"], {"G_arch", "G_planes"}), (["--G_arch=conv"], set()),
    ],
)  # fmt: skip
def test_a_recipe_widens_no_networks_but_its_own(flags, idle, parsed):
    used, saved = parsed("--recipe=large", *flags)
    defaults = {p.name: p.default for p in train.main.params}
    for name in recipes.LARGE.keys() - {flags[0][2:].partition("=")[0]}:
        expected = defaults[name] if name in idle else recipes.LARGE[name]
        assert used[name] == saved[name] == expected


@pytest.mark.parametrize(
    ("flags", "advice"),
    [([], "--scale, --batchSize or --noiseDim"),
     (["--recipe=best", "--G_planes=4096"], "--G_planes, --scale, --batchSize or --noiseDim"),
     (["--recipe=large"],
      "--G_planes, --D_planes, --scale, --batchSize or --noiseDim, or --recipe=best")],
)  # fmt: skip
def test_where_memory_runs_out_what_a_recipe_made_large_is_named(flags, advice, monkeypatch):
    def greedy(options, stop):
        raise MemoryError

    monkeypatch.setattr(faces, "train", greedy)
    done = invoke("train", *flags)
    assert done.exit_code == 2
    assert (
        done.output.splitlines()[-1]
        == f"Error: there is not enough memory: give a smaller {advice}"
    )
