"""Runs on a processor whose iterations are recorded equal those by Python alone, bit for bit."""

import pytest

from eyescream_py import torch7
from eyescream_py.game import capture
from eyescream_py.system import tape
from tests.small_runs import FILES, assert_same, pictures, records, signal_at, small_run
from tests.training.test_resume import CASES, use_small_networks

RECORDED = [
    name for name, (script, *options) in CASES.items()
    if script in ("train", "train_c2f") and "--rng=lua" not in options
]  # fmt: skip
# without lines of losses, which are of iterations by Python
QUIET = ("--log_every=0", "--epochs=3")


@pytest.fixture
def made(monkeypatch):
    """Whether recordings could be made, each time."""
    made, record = [], tape.record

    def counted(work):
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


@pytest.mark.parametrize("case", ["adam", "c2f_sgd"])
def test_a_recorded_run_goes_on_after_a_signal(case, made, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    script, *options = CASES[case]
    data, a, b = pictures(tmp_path, script), tmp_path / "a", tmp_path / "b"
    small_run(script, a, data, *options, *QUIET)
    with monkeypatch.context() as patch:
        signal_at(patch, capture.CapturedIteration, "__call__", 9)
        said = small_run(script, b, data, *options, *QUIET)
    assert "at epoch 2, iteration 4" in said
    small_run(script, b, data, *options, *QUIET, f"--network={FILES[script]}")
    assert made == [True] * 3
    assert_same_file(script, a, b)
