import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from eyescream_py.ganless_hd.__main__ import main
from eyescream_py.ganless_hd.trainer import Trainer

from .conftest import save_jpeg


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["make-data"]])
def test_help_needs_no_torch(command):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "eyescream_py.ganless_hd", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: python -m eyescream_py.ganless_hd" in result.stdout
    assert "| torch" not in result.stderr


def test_published_defaults():
    options = {option.name: option.default for option in main.commands["train"].params}
    published = {"nthread": 3, "loadSize": 600, "imgSize": 512, "batchSize": 12}
    assert published.items() <= options.items()
    assert options["itersPerEpoch"] == 10000
    assert options["averaging"] == "last"
    assert options["pearson"] == "global"


def test_make_data_train_resume_and_sample(tmp_path, tiny_flags):
    data = tmp_path / "data"
    assert invoke("make-data", data, "--count", 5, "--size", 96).exit_code == 0
    flags = [*tiny_flags, "--dataroota", data]
    result = invoke("train", *flags, "--epochs", 1, "--heldout", 2)
    assert result.exit_code == 0, result.output
    assert "13 photographs to train on, 2 held out" in result.output
    result = invoke("train", "--out", tmp_path / "run", "--resume", "--epochs", 2)
    assert result.exit_code == 0, result.output
    networks = sorted((tmp_path / "run" / "saves").glob("autoEncoder-*"))
    assert len(networks) == 2
    result = invoke("train", "--out", tmp_path / "run", "--resume")
    assert "batches were trained before, none is left to train" in result.output
    photo = data / "scene_00000.jpg"
    result = invoke("sample", photo, "--network", networks[0], "--out", tmp_path / "s", "--gpu", -1)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "s" / "scene_00000-sheet.png").is_file()


def test_a_used_out_is_refused_in_one_line_and_kept(tmp_path, tiny_flags):
    flags = [*tiny_flags, "--itersPerEpoch", 2, "--epochs", 1]
    assert invoke("train", *flags).exit_code == 0
    run, state = tmp_path / "run", tmp_path / "run" / "saves" / "latest.safetensors"
    for told in ("holds a run already; give --resume", "holds an earlier run's autoEncoder-"):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        result = invoke("train", *flags)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: --out={run}: {told}")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        state.unlink(missing_ok=True)


def test_small_photographs_are_counted(tmp_path, tiny_flags):
    (tmp_path / "more").mkdir()
    save_jpeg(tmp_path / "more" / "small.jpg", 50, 60)
    flags = [*tiny_flags, "--dataroota", tmp_path / "more", "--max-steps", 2]
    result = invoke("train", *flags, "--small", "skip")
    assert "1 picture skipped, as a side is under 64 pixels: " in result.output
    assert "10 photographs to train on" in result.output
    result = invoke("train", *flags, "--out", tmp_path / "other")
    assert "enlarged to 72" in result.output
    assert "11 photographs to train on" in result.output


def test_sample_never_overwrites_what_it_reads(tmp_path):
    photo = save_jpeg(tmp_path / "me.png", 80, 80)
    before = photo.read_bytes()
    result = invoke("sample", photo, "--network", __file__, "--out", tmp_path)
    assert result.exit_code == 2
    assert "me.png, give another folder" in result.stderr
    sheet = save_jpeg(tmp_path / "colours-sheet.png", 80, 80)
    flags = ["--network", __file__, "--drawn", "--colors", sheet, "--out", tmp_path]
    result = invoke("sample", tmp_path / "colours.jpg", *flags)
    assert "colours-sheet.png, give another folder" in result.stderr
    assert photo.read_bytes() == before


def test_too_little_memory_is_one_line(tiny_flags, monkeypatch):
    def refuse(*arguments):
        torch.empty(1 << 55, dtype=torch.uint8)

    monkeypatch.setattr(Trainer, "train_batch", refuse)
    result = invoke("train", *tiny_flags)
    assert result.exit_code == 2
    assert "not enough memory: give a smaller --batchSize" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--imgSize", "65", "--dataroota", "x"], "--imgSize=65: give a multiple of 64"),
        (["train", "--dataroota", "/none/such"], "no such folder"),
        (["train"], "--dataroota: give at least one folder"),
        (["sample", "a/x.jpg", "b/x.jpg", "--network", __file__], "x-sheet.png, x.png: several"),
        (["sample", "x.jpg", "--dark-lines", "--network", __file__], "go with --drawn"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path):
    out = [] if arguments[0] == "sample" else ["--out", tmp_path / "run", "--noplot"]
    result = invoke(*arguments, *out)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_run_that_is_refused_leaves_no_features_behind(tmp_path, tiny_flags):
    other = tmp_path / "photo.jpg"
    save_jpeg(other, 64, 64)  # no network
    result = invoke("train", *tiny_flags, "--init", other)
    assert result.exit_code == 2
    assert f"--init={other}: " in result.stderr
    assert not (tmp_path / "run").exists()
