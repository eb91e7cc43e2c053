"""Runs on a processor whose iterations are recorded equal those by Python alone, bit for bit."""

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.game import capture
from eyescream_py.system import tape
from eyescream_py.training.game import GameTask
from tests.small_runs import FILES, assert_same, pictures, records, signal_at, small_run
from tests.training.test_resume import CASES, use_small_networks

RECORDED = [name for name, (_, *options) in CASES.items() if "--rng=lua" not in options]
# without lines of losses, which are of iterations by Python
QUIET = ("--log_every=0", "--epochs=3")
# lines of some iterations, a shorter last batch, steps of either player that are not one each
MIXED = {
    "steps": ("train", "--D_iterations=2", "--G_iterations=2", "--shared_pictures", "--D_r1=1",
              "--D_r1_every=3", "--G_ema_power=3"),
    "views": ("train", "--D_augment=colour,mirror", "--D_spectral=0.5", "--D_maxAcc=0.6",
              "--lr_fall=0.3", "--precision=bf16", "--D_optmethod=adagrad"),
    "double": ("train_c2f", "--G_iterations=2", "--precision=fp64", "--G_sgd_momentum=0.5",
               "--G_optmethod=sgd"),
    "decoded": ("train_autoencoder", "--coefL1=1e-4", "--coefL2=1e-3", "--precision=bf16"),
    "denoised": ("train_denoiser", "--coefL2=1e-3", "--AE_clamp=0.01", "--precision=bf16"),
}  # fmt: skip
UNEVEN = ("--log_every=5", "--epochs=3", "--batchSize=8")


def unheard(tensor, *args, **kwargs):
    raise AssertionError("no operator tells a recording of this")


@pytest.fixture
def made(monkeypatch):
    """Whether recordings could be made, each time. Nothing in them reads numbers unnoticed."""
    made, record = [], tape.record

    def counted(work):
        with monkeypatch.context() as meanwhile:
            for reads in ("tolist", "numpy", "__array__"):
                meanwhile.setattr(torch.Tensor, reads, unheard)
            recording = record(work)
        made.append(recording is not None)
        return recording

    monkeypatch.setattr(tape, "record", counted)
    return made


def assert_same_file(script, a, b):
    assert_same(torch7.load(a / FILES[script]), torch7.load(b / FILES[script]))
    assert records(a / "metrics.jsonl") == records(b / "metrics.jsonl")


@pytest.mark.parametrize("case", RECORDED)
def test_a_recorded_run_and_one_by_python(case, made, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    script, *options = CASES[case]
    data, a, b = pictures(tmp_path, script), tmp_path / "a", tmp_path / "b"
    small_run(script, a, data, *options, *QUIET)
    assert made
    assert all(made)
    recordings = len(made)
    small_run(script, b, data, *options, *QUIET, "--no_capture")
    assert len(made) == recordings
    assert_same_file(script, a, b)


@pytest.mark.parametrize("case", MIXED)
def test_recorded_iterations_among_others(case, made, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    script, *options = MIXED[case]
    options += [] if script in ("train_autoencoder", "train_denoiser") else ["--N_epoch=18"]
    data, a, b = pictures(tmp_path, script, 40), tmp_path / "a", tmp_path / "b"
    small_run(script, a, data, *options, *UNEVEN)
    assert made
    assert all(made)
    small_run(script, b, data, *options, *UNEVEN, "--no_capture")
    assert_same_file(script, a, b)
    assert records(a / "losses.jsonl") == records(b / "losses.jsonl")


def test_a_recorded_run_goes_back_to_its_file(made, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data, folders = pictures(tmp_path, "train"), (tmp_path / "a", tmp_path / "b")
    for folder, more in zip(folders, ((), ("--no_capture",)), strict=True):
        found = iter(["", "fallen", "", ""])
        monkeypatch.setattr(GameTask, "collapse", lambda task, found=found: next(found))
        options = ("--on_nan=rollback", "--saveFreq=1", "--G_ema=0.9", *QUIET, *more)
        assert "half the learning rate" in small_run("train", folder, data, *options)
    assert made == [True]
    assert_same_file("train", *folders)


@pytest.mark.parametrize(
    ("case", "step", "place"),
    [("adam", capture.CapturedIteration, "epoch 2, iteration 4"),
     ("c2f_sgd", capture.CapturedIteration, "epoch 2, iteration 4"),
     ("autoencoder", capture.RecordedStep, "epoch 3, iteration 1")],
)  # fmt: skip
def test_a_recorded_run_goes_on_after_a_signal(case, step, place, made, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    script, *options = CASES[case]
    data, a, b = pictures(tmp_path, script), tmp_path / "a", tmp_path / "b"
    small_run(script, a, data, *options, *QUIET)
    with monkeypatch.context() as patch:
        signal_at(patch, step, "__call__", 9)
        said = small_run(script, b, data, *options, *QUIET)
    assert f"at {place}" in said
    small_run(script, b, data, *options, *QUIET, f"--network={FILES[script]}")
    assert made == [True] * (2 if script == "train_autoencoder" else 3)
    assert_same_file(script, a, b)
