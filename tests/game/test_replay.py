"""Runs of the real Lua program, followed loss for loss by the command line with --rng lua."""

import json

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.torch7.random import LuaSource
from tests.golden_data import GOLDEN, read
from tests.small_runs import invoke

FACES = ("--scale=16", f"--dataset={GOLDEN / 'train_images.t7'}")
PAIRS = (f"--dataset={GOLDEN / 'train_images_32.t7'}", "--parzenImages=20", "--validation=20")
REPLAY = ("--gpu=-1", "--noplot", "--rng=lua", "--log_every=1", "--grayscale", "--threads=1")
DEFAULT = ("--batchSize=8", "--N_epoch=40", "--epochs=2")
VARIED = (
    "--batchSize=8", "--N_epoch=30", "--epochs=2", "--D_optmethod=sgd", "--G_optmethod=adagrad",
    "--D_iterations=2", "--D_L1=1e-5", "--G_L2=1e-4", "--D_maxAcc=0.6", "--D_clamp=0.5",
    "--D_SGD_lr=0.05", "--D_SGD_momentum=0.5",
)  # fmt: skip
GATED = ("--batchSize=4", "--N_epoch=40", "--epochs=2", "--D_maxAcc=0.55", "--seed=3")
C2F = ("--batchSize=8", "--N_epoch=24", "--epochs=1")


pytestmark = pytest.mark.timeout(900)


def replay(script, folder, *args):
    done = invoke(script, *REPLAY, f"--save={folder}", *args)
    assert done.exit_code == 0, (done.output, done.exception)
    lines = (folder / "losses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_follows(records, golden, rtol, only=None):
    """The same networks trained and skipped in the same order; the losses of the first `only`."""
    assert len(records) == len(golden)
    for i, (record, (network, loss)) in enumerate(zip(records, golden, strict=True)):
        assert record["network"] == network, i
        assert record["skipped"] == (loss == "skipped"), i
        if not record["skipped"] and (only is None or i < only):
            assert record["loss"] == pytest.approx(loss, rel=rtol), i


def assert_ends_alike(checkpoint, golden, rtol):
    """Final parameters by their sums, and the stream's next four draws."""
    for name in ("D", "G"):
        network = torch7.to_module(checkpoint[name], dtype=torch.float64)
        flat = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        assert flat.numel() == golden[name]["n"]
        assert float(flat.abs().sum()) == pytest.approx(golden[name]["abs"], rel=rtol)
        assert float(flat.square().sum()) == pytest.approx(golden[name]["sq"], rel=rtol)
        slack = rtol * golden[name]["abs"]
        assert float(flat.sum()) == pytest.approx(golden[name]["sum"], abs=slack)
    source = LuaSource(0)
    source.set_state(checkpoint["resume"]["state"]["random"])
    draws = source.uniform_(torch.empty(4), -1, 1)
    assert torch.equal(draws, torch.tensor(golden["noise"]["data"], dtype=torch.float32))


@pytest.mark.parametrize(("name", "args"), [("default", DEFAULT), ("gated", GATED)])
def test_double_precision_follows_every_loss(name, args, tmp_path):
    golden = read(f"trajectory_{name}_f64.json")
    records = replay("train", tmp_path, *FACES, "--precision=fp64", *args)
    assert_follows(records, golden["losses"], 1e-9)
    assert_ends_alike(torch7.load(tmp_path / "adversarial.net"), golden, 1e-8)


def test_c2f_in_double_precision(tmp_path):
    golden = read("trajectory_c2f_default_f64.json")
    records = replay("train_c2f", tmp_path, *PAIRS, "--precision=fp64", *C2F)
    assert_follows(records, golden["losses"], 1e-9)
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert metrics["parzen"] == pytest.approx(golden["parzen"][0], rel=1e-9)
    assert_ends_alike(torch7.load(tmp_path / "adversarial_c2f_16_to_32.net"), golden, 1e-8)


def test_single_precision_follows_the_first_losses(tmp_path):
    golden = read("trajectory_default.json")
    records = replay("train", tmp_path, *FACES, *DEFAULT, "--epochs=1")
    assert len(records) == 20
    assert_follows(records, golden["losses"][:20], 1e-5, only=8)


def test_single_precision_follows_varied_whole(tmp_path):
    golden = read("trajectory_varied.json")
    records = replay("train", tmp_path, *FACES, *VARIED)
    assert_follows(records, golden["losses"], 1e-5)


def test_a_stopped_replay_goes_on_with_the_same_losses(tmp_path):
    """All of Lua's losses, as a run that is not stopped makes them (training/test_resume.py)."""
    golden = read("trajectory_varied_f64.json")
    first = (*VARIED, "--epochs=1", "--precision=fp64")
    replay("train", tmp_path, *FACES, *first)
    records = replay(
        "train", tmp_path, *FACES, *VARIED, "--precision=fp64", "--network=adversarial.net"
    )
    assert_follows(records, golden["losses"], 1e-9)
    assert_ends_alike(torch7.load(tmp_path / "adversarial.net"), golden, 1e-8)
