"""`--precision=auto` on a processor with bfloat16: chosen once, kept by the runs that go on."""

import gc
import weakref

import pytest

from eyescream_py import torch7
from eyescream_py.game import precision, trial
from eyescream_py.networks import checkpoints
from eyescream_py.training.run import Run
from tests.small_runs import FILES, assert_same, pictures, small_run, use_small_networks


def pretend(monkeypatch, native, bf16_ms):
    """A processor that multiplies bfloat16 or not, and needs so long where float32 takes 100."""
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: native)
    monkeypatch.setattr(trial, "milliseconds", lambda *given: {"fp32": 100.0, "bf16": bf16_ms})


def trained_in(folder, script):
    return torch7.load(folder / FILES[script])["resume"]["state"]["precision"]


@pytest.mark.parametrize("script", FILES)
def test_a_resumed_run_keeps_what_was_chosen(script, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, script)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small_run(script, whole, data, "--epochs=2", "--precision=bf16")

    pretend(monkeypatch, True, 50.0)
    said = small_run(script, parts, data, "--epochs=1", "--precision=auto")
    assert "--precision=auto: bf16; a pass" in said
    assert trained_in(parts, script) == "bf16"
    pretend(monkeypatch, True, 200.0)
    again = ("--epochs=2", f"--network={FILES[script]}", "--precision=auto")
    said = small_run(script, parts, data, *again)
    assert f"--precision=auto: bf16, as {FILES[script]} was trained in." in said
    assert_same(torch7.load(whole / FILES[script]), torch7.load(parts / FILES[script]))


def test_what_is_typed_or_impossible_counts_more(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data, save = pictures(tmp_path, "train"), tmp_path / "save"
    small_run("train", save, data, "--epochs=1", "--precision=bf16")
    again = ("train", save, data, f"--network={FILES['train']}")
    pretend(monkeypatch, False, 50.0)
    said = small_run(*again, "--epochs=2", "--precision=auto")
    assert "--precision=auto: fp32; the file was trained in bf16, which is slow here." in said
    assert trained_in(save, "train") == "fp32"
    pretend(monkeypatch, True, 50.0)
    assert "fp32, as adv" in small_run(*again, "--epochs=3", "--precision=auto")
    said = small_run(*again, "--epochs=4", "--precision=fp64")
    assert "--precision=auto" not in said
    assert trained_in(save, "train") == "fp64"
    pretend(monkeypatch, False, 50.0)
    assert "fp64, as adv" in small_run(*again, "--epochs=5", "--precision=auto")


def test_other_processors_and_replays_are_asked_nothing(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, "train")
    pretend(monkeypatch, False, 50.0)
    said = small_run("train", tmp_path / "a", data, "--epochs=1", "--precision=auto")
    assert "--precision=auto" not in said
    assert trained_in(tmp_path / "a", "train") == "fp32"
    pretend(monkeypatch, True, 50.0)
    said = small_run("train", tmp_path / "b", data, "--epochs=1", "--precision=auto", "--rng=lua")
    assert "--precision=auto" not in said
    assert trained_in(tmp_path / "b", "train") == "fp32"


def test_a_file_that_was_read_leaves_the_memory_before_the_run_begins(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data, save, read, go = pictures(tmp_path, "train"), tmp_path / "save", checkpoints.read, Run.go
    small_run("train", save, data, "--epochs=1")
    moments, left = [], []

    def noted(*given):
        content = read(*given)
        moments.append(weakref.ref(content["resume"]["state"]["D_optimizer"]["m"]))
        return content

    def begun(run):
        left.extend(moment() for moment in moments)
        go(run)

    monkeypatch.setattr(checkpoints, "read", noted)
    monkeypatch.setattr(Run, "go", begun)
    gc.disable()  # or it might come at a moment that hides what stays
    try:
        again = (f"--network={FILES['train']}", "--precision=auto")
        small_run("train", save, data, "--epochs=2", *again)
    finally:
        gc.enable()
    assert left == [None] * 3  # read for its sizes, for its precision, then for the rest
