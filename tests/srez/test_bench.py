import dataclasses
import os
import signal

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from eyescream_py.srez import bench, training
from eyescream_py.srez.batches import Batches
from eyescream_py.srez.bench import averaged, cell_name, grid, main, run_bench, tracking
from eyescream_py.srez.options import Options
from eyescream_py.srez.report import DivergedError
from eyescream_py.system.errors import UserError


def test_grid_is_every_combination_in_folders_of_their_own():
    cells = grid(Options(summary_dir="b"), "gan,wgangp", "resnet,deconv", "batch,none")
    assert len(cells) == 8
    assert len({cell.checkpoint_dir for cell in cells}) == 8
    assert cell_name(cells[-1]) == "wgangp-deconv-none"
    assert cells[-1].train_dir == "b/wgangp-deconv-none/train"
    with pytest.raises(UserError):
        grid(dataclasses.replace(Options(), width=0), "gan", "resnet", "batch")


def test_names_given_twice_make_one_combination():
    cells = grid(Options(), "gan,dcgan,wgan", "resnet", "layer,layer")
    assert [cell_name(cell) for cell in cells] == ["gan-resnet-layer", "wgan-resnet-layer"]


def records_of(estimates, distances):
    """Two batches' estimates around each of `estimates`, then a record of quality."""
    records = []
    for i, (estimate, distance) in enumerate(zip(estimates, distances, strict=True)):
        for offset in (-1, 1):
            records.append({"batch": i, "wasserstein_estimate": estimate + offset})
        records.append({"batch": i, "detail_swd": distance})
    return records


def test_estimates_are_averaged_between_summaries():
    points = averaged(records_of([3, 5], [20, 10]))
    assert [(p["wasserstein_estimate"], p["detail_swd"]) for p in points] == [(3, 20), (5, 10)]


def test_tracking_is_the_rank_correlation_from_the_peak_on():
    rising, falling = [1, 4, 9], [8, 6, 3, 2, 1]
    distances = [90, 80, 70, 60, 40, 50, 20, 10]  # from the peak on: 70 60 40 50 20 10
    points = averaged(records_of(rising + falling, distances))
    # ranks 6 5 3 4 2 1 against 6 5 4 3 2 1: 1 - 6 * (1 + 1) / (6 * 35)
    assert tracking(points, "detail_swd") == pytest.approx(1 - 12 / 210)
    assert tracking(points[:6], "detail_swd") is None
    shaken = [18 - i // 2 + (0.4 if i % 2 else -0.4) for i in range(20)]  # pairs fall: ten spans
    falling = averaged(records_of([30 - i for i in range(20)], shaken))
    assert tracking(falling, "detail_swd") == pytest.approx(1)
    assert tracking([], "detail_swd") is None
    assert tracking(averaged(records_of([3] * 8, distances)), "detail_swd") is None


def test_a_small_study(faces_folder, tmp_path):
    out = tmp_path / "study"
    arguments = [
        "--dataset", str(faces_folder), "--out_dir", str(out), "--objectives", "gan,wgangp",
        "--architectures", "deconv", "--norms", "layer", "--max_batches", "20", "--width", "0.0625",
        "--sample_size", "32", "--batch_size", "4", "--test_vectors", "4", "--summary_period", "10",
        "--gpu", "-1", "--threads", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "gan-deconv-layer",
        "wgangp-deconv-layer",
        "bicubic",
    ]
    assert lines[2].split("|")[2].strip() == "20"
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(10**6)) > 10
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_a_run_that_diverges_is_named_and_the_study_goes_on(tiny, tmp_path, monkeypatch):
    whole = training.run_train

    def run(options, *arguments, **named):
        if options.gen_architect == "resnet":
            raise DivergedError(10, "losses")
        return whole(options, *arguments, **named)

    monkeypatch.setattr(training, "run_train", run)
    cells = grid(
        dataclasses.replace(tiny, summary_dir=str(tmp_path)), "gan", "resnet,deconv", "layer"
    )
    rows = run_bench(cells, tmp_path, torch.device("cpu"))
    assert "losses are no numbers" in rows[0]["failed"]
    assert rows[1]["psnr"] > 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "no numbers" in lines[2]
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| bicubic")


def test_ctrl_c_ends_the_study_and_not_only_one_run(tiny, tmp_path, monkeypatch):
    original = Batches.batch

    def interrupting(self, number):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, number)

    monkeypatch.setattr(Batches, "batch", interrupting)
    cells = grid(
        dataclasses.replace(tiny, summary_dir=str(tmp_path)), "gan,wgan", "deconv", "layer"
    )
    rows = run_bench(cells, tmp_path, torch.device("cpu"))
    assert [(row["cell"], row["batches"]) for row in rows] == [("gan-deconv-layer", 1)]
    assert not (tmp_path / "wgan-deconv-layer").exists()


def test_a_long_training_is_not_silent(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SECONDS_BETWEEN_LINES", 0.0)
    base = dataclasses.replace(tiny, summary_dir=str(tmp_path), max_batches=10)
    run_bench(grid(base, "gan", "deconv", "layer"), tmp_path, torch.device("cpu"))
    assert "gan-deconv-layer: Progress[100%]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ["--objectives", "gan,lsgan"],
        ["--architectures", "unet"],
        ["--norms", "spectral"],
        ["--width", "0"],
        ["--minutes", "0"],
    ],
)
def test_unknown_names_are_refused_before_any_work(tmp_path, wrong):
    result = CliRunner().invoke(main, ["--out_dir", str(tmp_path / "o"), *wrong])
    assert result.exit_code == 2
    assert wrong[0] in result.output
    assert not (tmp_path / "o").exists()
