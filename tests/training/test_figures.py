"""What an epoch tells of its losses, against those of its steps and the networks themselves."""

import json

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.data.dataset import load_dataset
from eyescream_py.training import reconstruction
from eyescream_py.training.game import GameTask
from eyescream_py.training.reconstruct import absolute_error
from tests.small_runs import pictures, records, small_run, use_small_networks


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_epochs_figures_are_means_over_its_own_steps(tmp_path, monkeypatch):
    """Five iterations of two steps of D and three of G, on 4 pictures each; no penalties."""
    use_small_networks(monkeypatch)
    end, right = GameTask.end_epoch, []

    def in_two_seconds(self, epoch, seconds):
        right.append(self.game.figures.confusion.counts.tolist())
        return end(self, epoch, 2.0)

    monkeypatch.setattr(GameTask, "end_epoch", in_two_seconds)
    steps = ("--D_iterations=2", "--G_iterations=3", "--D_L2=0")
    said = small_run("train", tmp_path, pictures(tmp_path, "train"), "--epochs=2", *steps)
    losses = records(tmp_path / "losses.jsonl")
    assert [r["network"] for r in losses] == list("DDGGG") * 10
    for epoch, record in enumerate(lines(tmp_path / "metrics.jsonl"), 1):
        ours = [r for r in losses if r["epoch"] == epoch]
        for network, count in (("D", 10), ("G", 15)):
            of_one = [r["loss"] for r in ours if r["network"] == network]
            assert len(of_one) == count
            assert record[f"{network}_loss"] == pytest.approx(sum(of_one) / count, rel=1e-6)
        assert record["D_trained"] == record["D_steps"] == 10
        generated, mistaken, missed, real = right[epoch - 1]
        assert generated + mistaken == missed + real == 20
        assert record["D_accuracy"] == (generated + real) / 40
        assert record["images_per_second"] == 6.0
    assert said.count("time required for this epoch = 2 s") == 2
    assert said.count("time to learn 1 sample = 166.666667 ms") == 2


def test_losses_of_given_back_pictures_are_means_over_pictures(tmp_path, monkeypatch):
    """27 train, in batches of 4 and a last one of 3; 3 validate, two at a time."""
    monkeypatch.setattr(reconstruction, "VALIDATION_BATCH", 2)
    data = pictures(tmp_path, "train_autoencoder", 30)
    said = small_run("train_autoencoder", tmp_path, data, "--epochs=2")
    losses = [r["loss"] for r in records(tmp_path / "losses.jsonl")]
    metrics = records(tmp_path / "metrics.jsonl")
    for epoch, record in enumerate(metrics):
        ours = losses[7 * epoch : 7 * epoch + 7]
        mean = (4 * sum(ours[:6]) + 3 * ours[6]) / 27
        assert record["train"] == pytest.approx([mean], rel=1e-5)
    network = torch7.to_module(torch7.load(tmp_path / "autoencoder.net")["AE"]).eval()
    held = load_dataset(str(data), 1, 4, torch.device("cpu")).floats(torch.arange(27, 30))
    expected = float(absolute_error(network(held), held).detach())
    assert metrics[1]["validation"] == pytest.approx([expected], rel=1e-5)
    assert f"validation {metrics[1]['validation'][0]:.5f}" in said


def test_the_smallest_validation_losses_are_those_of_the_whole_run(tmp_path, monkeypatch):
    found = iter([[3.0, 5.0], [4.0, 2.0], [6.0, 6.0]])
    monkeypatch.setattr(
        reconstruction.ReconstructionTask, "validation_losses", lambda self: next(found)
    )
    data = pictures(tmp_path, "train_denoiser")
    small_run("train_denoiser", tmp_path, data, "--epochs=2")
    small_run("train_denoiser", tmp_path, data, "--epochs=3", "--network=denoiser_1x6x6.net")
    state = torch7.load(tmp_path / "denoiser_1x6x6.net")["resume"]["state"]
    assert dict(state["smallest"].items()) == {"AE1_DECODER": 3.0, "AE2_DECODER": 2.0}
