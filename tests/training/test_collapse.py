"""A game in which nothing more is learned is noticed, and only then."""

import importlib
import re

import pytest
import torch

from eyescream_py.game.adversarial import Game
from eyescream_py.training import game
from eyescream_py.training.game import GameTask, mean_deviation
from eyescream_py.training.reconstruction import ReconstructionTask
from tests.small_runs import SCRIPTS, invoke, pictures, records, small_run, use_small_networks

LINES = ("certain of every picture", "are all alike", "gradients are all 0")


def told(output):
    return [line for line in output.splitlines() if any(words in line for words in LINES)]


def after(monkeypatch, epoch, damage):
    """Do `damage` to the game at the start of an epoch."""
    original = GameTask.begin_epoch
    begun = []

    def begin(self):
        original(self)
        begun.append(1)
        if len(begun) == epoch:
            with torch.no_grad():
                damage(self.game)

    monkeypatch.setattr(GameTask, "begin_epoch", begin)


def certain(game):
    game.D.network[-2].weight.zero_()
    game.D.network[-2].bias.fill_(60.0)


def forget(game):
    for p in game.G.network.parameters():
        p.zero_()


def test_a_D_that_is_certain_of_everything_is_told_once(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    after(monkeypatch, 2, certain)
    data = pictures(tmp_path, "train")
    output = small_run("train", tmp_path, data, "--epochs=4", "--saveFreq=1")
    assert len(told(output)) == 1
    assert "--on_nan=rollback" in told(output)[0]
    assert len(records(tmp_path / "metrics.jsonl")) == 4  # it goes on: it may recover


def test_gradients_of_nothing_are_told(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    dead = Game.generator_step

    def without_slope(self, n, log=None):
        dead(self, n, log)
        for p in self.G.optimizer.parameters:
            p.grad.zero_()

    monkeypatch.setattr(Game, "generator_step", without_slope)
    output = small_run("train", tmp_path, pictures(tmp_path, "train"), "--epochs=1")
    assert "G's gradients are all 0" in told(output)[0]


@pytest.mark.parametrize("script", ["train", "train_c2f"])
def test_a_G_that_forgets_to_vary_is_told(script, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    # alike from the start, then of a fifth of the real ones' spread, of less, and alike again
    drawn = iter([(0.004, 0.2), (0.04, 0.2), (0.01, 0.2), (0.001, 0.2)])
    monkeypatch.setattr(GameTask, "spread", lambda self: next(drawn))
    monkeypatch.setattr(f"eyescream_py.training.{place(script)}.spread", GameTask.spread)
    output = small_run(script, tmp_path, pictures(tmp_path, script), "--epochs=4")
    (line,) = told(output)
    assert line.startswith("G's pictures are all alike (0.5% of the real ones' spread)")


def test_a_G_that_forgets_right_after_a_resume_is_told(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    drawn = iter([(0.1, 0.2), (0.001, 0.2)])
    monkeypatch.setattr("eyescream_py.training.face_task.FaceTask.spread", lambda self: next(drawn))
    data = pictures(tmp_path, "train")
    assert told(small_run("train", tmp_path, data, "--epochs=1")) == []
    output = small_run("train", tmp_path, data, "--epochs=2", "--network=adversarial.net")
    assert told(output)[0].startswith("G's pictures are all alike")


def place(script):
    return "face_task.FaceTask" if script == "train" else "c2f.PairTask"


def test_the_spread_of_a_G_without_weights_is_none(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    spreads = []
    collapse = GameTask.collapse

    def looked_at(self):
        with torch.no_grad():
            spreads.append(self.spread())
            forget(self.game)
            spreads.append(self.spread())
        return collapse(self)

    monkeypatch.setattr(GameTask, "collapse", looked_at)
    for script in ("train", "train_c2f"):
        small_run(script, tmp_path / script, pictures(tmp_path, script), "--epochs=1")
        (made, real), (nothing, same) = spreads
        assert made > 0 == nothing
        assert real == same > 0
        spreads.clear()


def test_rollback_goes_back_before_the_collapse(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    after(monkeypatch, 3, certain)
    output = small_run(
        "train", tmp_path, pictures(tmp_path, "train"), "--epochs=4", "--saveFreq=1",
        "--on_nan=rollback",
    )  # fmt: skip
    assert "epoch 3: D was certain of every picture" in output
    assert "back to" in output
    assert [r["epoch"] for r in records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize(("script", "epochs"), [("train", 3), ("train_c2f", 1)])
def test_healthy_runs_hear_nothing(script, epochs, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, script)
    for seed in range(10):
        save = tmp_path / str(seed)
        output = small_run(script, save, data, f"--epochs={epochs}", f"--seed={seed}")
        assert told(output) == []


def test_one_picture_has_no_spread(recwarn):
    assert mean_deviation(torch.rand(1, 3, 4, 4)) == 0
    assert mean_deviation(torch.tensor([[0.0], [1.0]])) == 0.5
    assert not recwarn.list


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_advised_can_be_typed(script, tmp_path, monkeypatch):
    """Against numbers that are none, a D that is always right, and a game that stands still."""
    use_small_networks(monkeypatch)
    command = importlib.import_module(f"eyescream_py.cli.{script}").main
    flags = {name for param in command.params for name in param.opts}
    data = pictures(tmp_path, script)
    monkeypatch.setattr(game, "SATURATED_EPOCHS", 1)
    hint = GameTask._hint_at_saturation
    monkeypatch.setattr(GameTask, "_hint_at_saturation", lambda task, share: hint(task, 1.0))
    monkeypatch.setattr(GameTask, "collapse", lambda task: "It stands still")
    said = [small_run(script, tmp_path, data, "--epochs=1")]
    for task in (GameTask, ReconstructionTask):
        monkeypatch.setattr(task, "is_finite", lambda task: False)
    given = *SCRIPTS[script], f"--save={tmp_path}", f"--dataset={data}", "--epochs=1"
    said.append(invoke(script, *given).stderr)
    lines = [
        line for line in "".join(said).splitlines()
        if re.search("It stands still|D has been right|no longer a finite", line)
    ]  # fmt: skip
    assert len(lines) == (3 if script in ("train", "train_c2f") else 1)
    for line in lines:
        named = set(re.findall(r"--\w+", line))
        assert named <= flags
        assert named - {"--on_nan", "--saveFreq"}
