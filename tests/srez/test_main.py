import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from eyescream_py.srez.__main__ import main
from eyescream_py.srez.checkpoints import save_checkpoint
from eyescream_py.srez.steps import build_networks


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def places(tmp_path):
    names = ("checkpoint_dir", "train_dir", "summary_dir")
    return [part for n in names for part in (f"--{n}", str(tmp_path / n))]


def test_train_evaluate_upscale_demo_end_to_end(faces_folder, tmp_path):
    shared = [*places(tmp_path), "--dataset", faces_folder, "--cache_dir", tmp_path / "cache",
              "--gpu", -1, "--threads", 1]  # fmt: skip
    small = ["--sample_size", 32, "--width", 0.0625, "--batch_size", 4, "--test_vectors", 4]
    trained = run("--run", "train", *shared, *small, "--max_batches", 10, "--summary_period", 5)
    assert trained.exit_code == 0, trained.output
    assert "Batch [  10]" in trained.output
    assert "16 faces to train on, 4 held out" in trained.output
    evaluated = run("--run", "evaluate", *shared)
    assert evaluated.exit_code == 0, evaluated.output
    assert "bicubic + noise" in evaluated.output
    out = tmp_path / "large"
    picture = faces_folder / "000001.jpg"
    upscaled = run("--run", "upscale", *shared, "--out_dir", out, picture)
    assert upscaled.exit_code == 0, upscaled.output
    assert [p.name for p in out.iterdir()] == ["000001_x4.png"]
    shown = run("--run", "demo", *places(tmp_path))
    assert shown.exit_code == 0, shown.output
    assert "2 pictures" in shown.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--run", "train", "--loss_func", "wgan", "--weigh_clip", "0"], "--weigh_clip=0"),
        (["--run", "train", "--sample_size", "65"], "--sample_size=65"),
        (["--run", "train", "--dataset", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--run", "train", "picture.jpg"], "upscale"),
        (["--run", "upscale"], "name the pictures"),
        (["--run", "dance"], "dance"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, arguments, named):
    result = run(*arguments, *places(tmp_path), "--gpu", -1, "--threads", 1)
    assert result.exit_code == 2
    assert named in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["summary_dir", "out_dir", "cache_dir"])
def test_a_file_where_a_folder_is_needed_is_named(tiny, tmp_path, faces_folder, name):
    Path(tiny.checkpoint_dir).mkdir()
    save_checkpoint(tiny.checkpoint_dir, build_networks(tiny, torch.device("cpu")), tiny, 1, 1.0)
    (tmp_path / "file").touch()
    action = ["upscale", faces_folder / "000001.jpg"] if name == "out_dir" else ["evaluate"]
    told = [*places(tmp_path), "--checkpoint_dir", tiny.checkpoint_dir, "--dataset", faces_folder]
    wrong = [f"--{name}", tmp_path / "file"]
    result = run("--run", *action, "--gpu", -1, "--threads", 1, *told, *wrong)
    assert result.exit_code == 2
    assert f"{tmp_path / 'file'}: File exists" in result.output


def test_the_fork_s_unused_flags_are_taken(tmp_path):
    result = run(
        "--run", "demo", "--output_image", 1, "--log_device_placement", True, *places(tmp_path)
    )
    assert "no sample pictures" in result.output


def test_help_comes_without_loading_torch():
    code = "import sys; from eyescream_py.srez import __main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
