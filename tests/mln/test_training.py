import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eyescream_py.mln import checkpoints, reconstruction, training
from eyescream_py.mln.__main__ import _closing_comparison
from eyescream_py.mln.data import Examples
from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.networks import build_network
from eyescream_py.mln.protocol import Protocol, network_shape
from eyescream_py.mln.reconstruction import Score
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, phantoms, random_images, small_params, spiral_protocol

PLOTS = Plots.open(False, "", 0, "")


def run_of(folder: Path, protocol: Protocol | None = None, **keys: object) -> training.Run:
    params = small_params(learning_rate_start=0.01, **keys)
    return training.new_run(
        params, protocol or spiral_protocol(), phantoms(), folder, lambda text: None
    )


def trained(run: training.Run, batches: int) -> str:
    return training.train(run, PLOTS, lambda text: None, batches)


def test_training_lowers_the_loss_and_leaves_its_files(tmp_path: Path) -> None:
    run = run_of(tmp_path, summary_period=1e-9)
    assert trained(run, 20) == "20 batches done"
    losses = run.progress.losses
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    names = {path.name for path in run.folder.iterdir()}
    assert {"ParamsUsed.txt", "batch000000_out.png", "TrainSummary_000020.mat"} <= names
    assert f"batch000019_out_{losses[19]:06.4f}.png" in names
    assert (run.checkpoint_folder / "checkpoint_new.safetensors").is_file()
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["batch"] for record in records] == [10, 20]


def test_the_rate_falls_with_the_batches(tmp_path: Path) -> None:
    run = run_of(tmp_path, learning_rate_half_life=1000)
    trained(run, 20)
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["lr"] for record in records] == pytest.approx(
        [0.01 * 0.5 ** (done / 1000) for done in (9, 19)], rel=1e-9
    )
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(records[-1]["lr"])


def test_a_checkpoint_keeps_what_a_run_has_done(tmp_path: Path) -> None:
    run = run_of(tmp_path, QuickFailureTimeM=1e-9, QuickFailureThresh=100)
    trained(run, 3)
    kept = checkpoints.load_checkpoint(run.checkpoint_folder / training.CHECKPOINT_NAME)
    assert kept.progress == run.progress
    assert kept.progress.seconds > 0
    assert kept.progress.quick_check_done


@pytest.mark.parametrize("bank", [{}, {"BankSize": 8, "BankK": 3, "noise_level": 0.01}])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, bank: dict) -> None:
    whole = run_of(tmp_path / "whole", **bank)
    trained(whole, 9)
    part = run_of(tmp_path / "part", **bank)
    trained(part, 4)
    resumed = training.resumed_run(
        part.checkpoint_folder / training.CHECKPOINT_NAME, part.params, part.protocol, phantoms()
    )
    assert resumed.folder == part.folder
    trained(resumed, 9)
    assert resumed.progress.losses == whole.progress.losses
    for one, two in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("start", ["regression", "covariance"])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_linear_starts_begin_below_random_weights(tmp_path: Path, start: str, sweeps: int) -> None:
    keys = {"nTimeSegments": 3, "InitChannels": 3, "InitExamples": 40, "InitSweeps": sweeps}
    run = run_of(tmp_path, Init=start, **keys)
    test = run.examples.simulate([1000, 1001, 1002])
    with torch.no_grad():
        error = (run.network(test.signal) - test.label).norm() / test.label.norm()
    assert error < 0.5  # random weights give more than 1


def test_a_start_that_does_not_fit_the_segments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Init covariance: 2 channels do not divide 3 segments"):
        run_of(tmp_path, Init="covariance", InitChannels=2, nTimeSegments=3)


def test_a_resume_with_another_network_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    path = run.checkpoint_folder / training.CHECKPOINT_NAME
    with pytest.raises(UserError, match="with nNeighbors 4, the parameters ask for 5;"):
        training.resumed_run(path, replace(run.params, neighbours=5), run.protocol, phantoms())


@pytest.mark.parametrize("other", ["shorter", "turned"])
def test_a_resume_with_another_trajectory_is_refused(tmp_path: Path, other: str) -> None:
    """Its table of neighbours would name samples that are not there, or lie elsewhere."""
    run = run_of(tmp_path)
    trained(run, 1)
    path, k = run.checkpoint_folder / training.CHECKPOINT_NAME, run.protocol.trajectory
    changed = replace(run.protocol, trajectory=k[:, :-40] if other == "shorter" else k[::-1])
    with pytest.raises(UserError, match=f"--resume {path}: was trained for another trajectory"):
        training.resumed_run(path, run.params, changed, phantoms())


def test_a_resume_from_outside_a_run_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs")
    trained(run, 1)
    copied = tmp_path / "mine" / "copied.safetensors"
    copied.parent.mkdir()
    (run.checkpoint_folder / training.CHECKPOINT_NAME).rename(copied)
    with pytest.raises(UserError, match="put it back into its run's folder, "):
        training.resumed_run(copied, run.params, run.protocol, phantoms())
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "mine"}


def test_the_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    trained(run, 2)
    path = run.checkpoint_folder / training.CHECKPOINT_NAME
    assert checkpoints.load_checkpoint(path).progress.batch == 2
    assert checkpoints.load_checkpoint(f"{path}.old").progress.batch == 1


def test_not_a_number_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    kept = run.checkpoint_folder / training.CHECKPOINT_NAME
    with torch.no_grad():
        run.network.i_layer.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=f"^the loss is no longer .* 1 batch; {kept} holds the"):
        trained(run, 5)
    with pytest.raises(
        UserError, match=r"^network/k_layer\.weight is no longer a finite number after 1 ba"
    ):
        trained(run, 1)  # nothing left to learn: the save at the end
    assert checkpoints.load_checkpoint(kept).progress.batch == 1


def test_a_moment_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    moments = run.optimizer.state[run.network.i_layer.weight]
    moments["exp_avg_sq"].fill_(float("inf"))
    with pytest.raises(UserError, match=r"^optimizer:adam/\d+/exp_avg_sq is no longer a finite"):
        trained(run, 1)
    kept = run.checkpoint_folder / training.CHECKPOINT_NAME
    moments = checkpoints.load_checkpoint(kept).tensors
    assert all(bool(tensor.isfinite().all()) for tensor in moments.values())


def test_a_rate_that_is_far_too_high_is_told_and_nothing_is_saved(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.params = replace(run.params, learning_rate=1e30)
    with pytest.raises(UserError, match="nothing was saved; a new run with a smaller --learning_"):
        trained(run, 4)
    assert list(run.checkpoint_folder.iterdir()) == []


def test_quick_failure_looks_once_after_its_minutes(tmp_path: Path) -> None:
    run = run_of(tmp_path, QuickFailureTimeM=1e-9, QuickFailureThresh=1e-6)
    assert trained(run, 5).startswith("quick failure: loss")
    assert run.progress.batch == 1
    run = run_of(tmp_path / "fine", QuickFailureTimeM=1e-9, QuickFailureThresh=100)
    assert trained(run, 5) == "5 batches done"
    assert run.progress.quick_check_done


def test_train_time_ends_the_run(tmp_path: Path) -> None:
    run = run_of(tmp_path, train_time=1e-9)
    assert trained(run, 50) == "the 1e-09 min are over"
    assert run.progress.batch == 1


def test_the_scan_stands_in_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path)
    run.scan = random_images(1, 3, run.protocol.trajectory.shape[1])
    batch = run.examples.batch(0, 4)
    seen = []
    monkeypatch.setattr(
        training, "batch_picture", lambda out, label: seen.append(out) or np.zeros((2, 2), np.uint8)
    )
    with torch.no_grad():
        output = run.network(batch.signal)
        training.show_picture(run, batch, output, 0.5, PLOTS)
        torch.testing.assert_close(seen[0][0], run.network(run.scan)[0, 0])
    torch.testing.assert_close(seen[0][1:], output[1:, 0])


def test_saved_weights_start_another_network(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 2)
    summary = str(run.folder / "TrainSummary_000002.mat")
    name = "gene_GEN_L007_PixelwiseMultC_weightR_0"
    assert read_mat(summary, [name])[name].shape == (SIDE, SIDE, 12, 1)
    other = run_of(tmp_path / "b", InitForRFN=summary, InitForLFN=summary)
    torch.testing.assert_close(other.network.k_layer.weight, run.network.k_layer.weight)
    torch.testing.assert_close(other.network.i_layer.weight, run.network.i_layer.weight)
    with pytest.raises(UserError, match=r"InitForRFN .* the network needs"):
        run_of(tmp_path / "c", nNeighbors=5, InitForRFN=summary)
    assert not list((tmp_path / "c").rglob("*_train"))
    assert not list((tmp_path / "c").rglob("*_checkpoint"))


def test_broken_checkpoints_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    path = run.checkpoint_folder / training.CHECKPOINT_NAME
    with pytest.raises(UserError, match="no such file"):
        checkpoints.load_checkpoint(tmp_path / "none")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load_checkpoint(cut)
    tensors = load_file(path)
    foreign = tmp_path / "foreign.safetensors"
    save_file(tensors, foreign)
    with pytest.raises(UserError, match="not written by this program"):
        checkpoints.load_checkpoint(foreign)


@pytest.mark.parametrize(
    ("key", "broken"),
    [
        ("exp_avg", None), ("step", None), ("step", torch.ones(2)),
        ("exp_avg", torch.zeros(3)), ("exp_avg_sq", "whole numbers"),
    ],
)  # fmt: skip
def test_an_optimizer_that_does_not_fit_is_refused(tmp_path: Path, key, broken) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    path = run.checkpoint_folder / training.CHECKPOINT_NAME
    checkpoint = checkpoints.load_checkpoint(path)
    name = f"adam.k_layer.weight.{key}"
    whole = checkpoint.tensors.pop(name)
    if broken is not None:
        checkpoint.tensors[name] = whole.long() if isinstance(broken, str) else broken
    with pytest.raises(UserError, match=r"adam\.k_layer\.weight\.\* does not fit") as error:
        checkpoints.restore_optimizer(checkpoint, run.network, run.optimizer)
    assert error.value.message.startswith(f"{path}: ")


def test_an_optimizer_that_is_gone_is_refused_after_the_first_batch(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    checkpoint = checkpoints.load_checkpoint(run.checkpoint_folder / training.CHECKPOINT_NAME)
    for name in [name for name in checkpoint.tensors if name.startswith("adam.")]:
        del checkpoint.tensors[name]
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.restore_optimizer(checkpoint, run.network, run.optimizer)
    checkpoint.progress.batch = 0
    checkpoints.restore_optimizer(checkpoint, run.network, run.optimizer)


def test_weights_that_do_not_fit_name_the_file(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trained(run, 1)
    path = run.checkpoint_folder / training.CHECKPOINT_NAME
    checkpoint = checkpoints.load_checkpoint(path)
    checkpoint.tensors["network.k_layer.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"k_layer\.weight does not fit") as error:
        checkpoints.restore_network(checkpoint)
    assert error.value.message.startswith(f"{path}: ")


def test_the_batches_that_a_run_has_are_told(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert trained(run, 2) == "2 batches done"
    assert trained(run, 1) == "2 batches done"


@pytest.mark.parametrize("relaxed", [0, 1])
def test_a_bias_is_added_with_and_without_trained_fourier_layers(relaxed: int) -> None:
    params = small_params(CmplxBias=1, RelaxedFT=relaxed)
    net = build_network(network_shape(params, spiral_protocol()), spiral_protocol().trajectory)
    signal = torch.zeros(1, 3, 320, dtype=torch.complex64)
    assert net(signal).abs().max() == 0
    with torch.no_grad():
        net.rows.bias.fill_(1)
    assert net(signal).abs().max() > 0


def test_settings_without_effect_are_told() -> None:
    from eyescream_py.mln.params import warnings_of

    assert "WPhaseOnly" in warnings_of(small_params(WPhaseOnly=0.1))[0]
    assert not warnings_of(small_params(WPhaseOnly=0.1, RelaxedFT=1))


def test_the_closing_comparison_has_pictures_of_its_own(tmp_path: Path) -> None:
    from eyescream_py.mln.data import training_images

    stack = np.arange(40 * 20 * 20, dtype=np.float32).reshape(40, 20, 20)
    write_mat(tmp_path / "images.mat", {"HCPData": stack})
    params = small_params(DatasetMatFN=str(tmp_path / "images.mat"))
    seen, unseen = training_images(params)
    assert (len(seen), len(unseen)) == (35, 5)
    assert not set(seen[:, 0, 0]) & set(unseen[:, 0, 0])
    one, other = training_images(small_params(nToLoad=3))  # phantoms: of another seed
    assert not np.array_equal(one[1:], other[1:])


def test_the_closing_comparison_judges_by_pictures_and_draws_that_training_never_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def compare(*args: object, **more: object) -> list[Score]:
        given.extend(args[2:])
        return [Score("MLN", 0.1, 0.9, 1.0)]

    monkeypatch.setattr(reconstruction, "compare", compare)
    bank = {"BankSize": 4, "BankK": 2}  # which would repeat the first four
    run, flat = run_of(tmp_path, **bank), np.ones((2, SIDE, SIDE), np.float32)
    _closing_comparison(run, phantoms(), flat, 6, False)
    test, choose = (batch.label for batch in given)
    assert (len(test), len(choose)) == (6, 4)
    assert len(torch.view_as_real(test).unique(dim=0)) == 6
    torch.testing.assert_close(test.abs(), run.protocol.mask.expand(6, 1, -1, -1))
    assert (choose.abs() - run.protocol.mask).abs().amax((1, 2, 3)).min() > 0.1  # of training's
    for images, labels in ((flat, test), (phantoms(), choose)):
        drawn = Examples(run.params, run.protocol, images).simulate([*range(len(labels))]).label
        assert (drawn - labels).abs().amax((1, 2, 3)).min() > 0.1
