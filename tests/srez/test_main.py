import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from eyescream_py.cli.main import main as eyescream
from eyescream_py.srez import training
from eyescream_py.srez.__main__ import main
from eyescream_py.srez.checkpoints import save_checkpoint
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import build_networks
from scripts.check_commands import problem
from tests.commands import ROOT

FLOATS = Options.__dataclass_fields__


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
        (["--run", "train", "--dataset", __file__], "this is a file"),
        (["--run", "train", "--dataset="], "--dataset"),
        (["--run", "train", "--random_seed", "1180591620717411303424"], "--random_seed"),
        (["--run", "train", "--random_seed", "9" * 5000], "--random_seed"),
        (["--run", "train", "--batch_size", "10000000000"], "--batch_size=100"),
        (["--run", "train", "--width", "1e6"], "--width=1"),
        (["--run", "evaluate", "--features", "nonsense", "."], "two folders"),
        (["--run", "upscale", "--outscale", "nan", "a.jpg"], "--outscale"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, arguments, named):
    result = run(*arguments, *places(tmp_path), "--gpu", -1, "--threads", 1)
    assert result.exit_code == 2
    assert named in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [name for name, field in FLOATS.items() if field.type.startswith("float")]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_no_float_takes_what_is_no_number(tmp_path, name, value):
    result = run("--run", "train", f"--{name}={value}", *places(tmp_path), "--gpu", -1)
    assert result.exit_code == 2
    assert f"--{name}" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["demo", "upscale", "evaluate"])
def test_quoted_commands_parse(tmp_path, monkeypatch, action):
    monkeypatch.chdir(ROOT)
    output = run("--run", action, *places(tmp_path), "--gpu", -1, "--threads", 1).output
    (quoted,) = re.findall("`(.+?)`", output)
    assert quoted.startswith("python -m eyescream_py.srez --run=")
    assert problem(quoted) == ""


def test_home_folders_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("--run", "demo", "--train_dir=~/runs")
    assert f"--train_dir={tmp_path}/runs: no sample pictures" in result.output


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], (1e-4, 0.9, 200.0, "scaled", "running", 1)),
        (["--preset", "2016"], (2e-4, 0.999, 20.0, "scaled", "batch", 0)),
        (
            ["--preset", "2016", "--train_time", "3", "--bn=running"],
            (2e-4, 0.999, 3.0, "scaled", "running", 0),
        ),
        (["--preset", "2017"], (1e-4, 0.9, 200.0, "noise", "batch", 0)),
        (["--preset", "2017", "--input", "scaled"], (1e-4, 0.9, 200.0, "scaled", "batch", 0)),
    ],
)  # fmt: skip
def test_presets_are_defaults_that_typed_flags_override(tmp_path, monkeypatch, typed, expected):
    seen = []
    monkeypatch.setattr(training, "run_train", lambda options, *rest: seen.append(options))
    assert run("--run", "train", *typed, *places(tmp_path), "--gpu", -1).exit_code == 0
    told = seen[0]
    assert expected == (
        told.learning_rate_start, told.learning_beta2, told.train_time, told.input, told.bn,
        told.back_projection,
    )  # fmt: skip


def test_eyescream_srez_is_the_same_command(tmp_path):
    for words in (["--run", "upscale"], ["--run=upscale"], ["upscale"]):
        result = CliRunner().invoke(eyescream, ["srez", *words, *places(tmp_path)])
        assert result.exit_code == 2
        assert "name the pictures" in result.output


def test_a_full_disk_behind_the_output_does_not_end_the_training(faces_folder, tmp_path):
    command = [
        sys.executable, "-m", "eyescream_py.srez", "--run", "train", "--dataset", str(faces_folder),
        "--cache_dir=", *places(tmp_path), "--sample_size=32", "--width=0.0625", "--batch_size=2",
        "--max_batches=10", "--gpu=-1", "--threads=1",
    ]  # fmt: skip
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "checkpoint_dir" / "checkpoint.safetensors").is_file()


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
    assert f"--{name}={tmp_path / 'file'}: a file stands where a" in result.output


def test_the_fork_s_unused_flags_are_taken(tmp_path):
    result = run(
        "--run", "demo", "--output_image", 1, "--log_device_placement", True, *places(tmp_path)
    )
    assert "no sample pictures" in result.output


def test_help_comes_without_loading_torch():
    code = "import sys; from eyescream_py.srez import __main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
