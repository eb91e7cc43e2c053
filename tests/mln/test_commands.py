"""The commands as a person runs them, on a protocol that `simulate` wrote."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from eyescream_py.mln.__main__ import main
from eyescream_py.mln.formats.mat import read_mat, write_mat


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mln") / "sim"
    size = ("--side", 16, "--coils", 3, "--samples", 300, "--turns", 6)
    assert run("simulate", "--out", path, *size, "--noise", 0.005).exit_code == 0
    return path


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    result = run(
        "train", "--params", folder / "Params.txt", "--out", folder / "out", "--batches", 5,
        "--gpu", -1, "--threads", 1, "--InitExamples", 60, "--nToLoad", 8, "--test-images", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| MLN |" in result.output
    assert "| CG-SENSE, 12 steps |" in result.output
    return next(folder.glob("out/*_checkpoint/checkpoint_new.safetensors"))


def test_train_then_reconstruct_the_scan(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = run(
        "reconstruct", "--checkpoint", checkpoint, "--prefix", folder / "Scan_", "--out", tmp_path,
        "--gpu", -1, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    x = read_mat(tmp_path / "OnRealData01.mat", ["x"])["x"]
    assert x.shape == (1, 16, 16, 2)
    truth = read_mat(folder / "Truth.mat", ["x"])["x"]
    error = np.linalg.norm(x[0, ..., 0] + 1j * x[0, ..., 1] - truth) / np.linalg.norm(truth)
    assert error < 0.45  # random weights give more than 1


def test_resume_goes_on_in_the_same_folders(folder: Path, checkpoint: Path) -> None:
    words = (
        "train",
        "--resume",
        checkpoint,
        "--nToLoad",
        8,
        "--test-images",
        0,
        "--gpu",
        -1,
        "--threads",
        1,
    )
    result = run(*words, "--batches", 7)
    assert result.exit_code == 0, result.output
    assert "7 batches done" in result.output
    assert len(list(folder.glob("out/*_train"))) == 1


@pytest.mark.parametrize("place", ["protocol.load_protocol", "training.new_run"])
def test_a_signal_before_the_training_ends_it_with_a_line(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(f"eyescream_py.mln.{place}", stopped)
    words = ("--params", folder / "Params.txt", "--gpu", -1, "--threads", 1, "--nToLoad", 8)
    result = run("train", *words, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    said = "Stopped by SIGTERM before the training began: nothing to save."
    assert result.output.splitlines()[-1] == said
    assert not list(tmp_path.iterdir())


def test_demo_makes_a_gif(folder: Path, checkpoint: Path) -> None:
    train_folder = next(folder.glob("out/*_train"))
    result = run("demo", train_folder)
    assert result.exit_code == 0, result.output
    assert (train_folder / "demo.gif").read_bytes()[:3] == b"GIF"


def test_estimate_b0_writes_a_map_that_training_reads(folder: Path, tmp_path: Path) -> None:
    words = ("estimate-b0", "--params", folder / "Params.txt", "--scan", folder / "Scan_01.mat")
    result = run(*words, "--out", tmp_path / "B0TS.mat", "--threads", 1, "--nSimSegments", 3)
    assert result.exit_code == 0, result.output
    found = read_mat(tmp_path / "B0TS.mat", ["TSC", "TSBF", "B0_Hz"])
    assert found["TSC"].shape == (16, 16, 3)
    assert found["TSBF"].shape == (3, 300)
    assert np.abs(found["B0_Hz"]).max() < 40  # the scan has none


def test_a_series_may_begin_with_nothing(folder: Path, tmp_path: Path) -> None:
    data = read_mat(folder / "Scan_01.mat", ["Data"])["Data"]
    write_mat(tmp_path / "s01.mat", {"Data": np.concatenate([0 * data, data, 0.5 * data])})
    words = ("--params", folder / "Params.txt", "--scan")
    late, first = (
        (*words, tmp_path / "s01.mat", "--out", tmp_path / "late"),
        (*words, folder / "Scan_01.mat", "--out", tmp_path / "first"),
    )
    for command, key in (("estimate-coils", "SensCC"), ("estimate-b0", "B0_Hz")):
        for given in (late, first):
            result = run(command, *given, "--overwrite")
            assert result.exit_code == 0, result.output
        one, other = (read_mat(tmp_path / name, [key])[key] for name in ("late", "first"))
        np.testing.assert_array_equal(one, other)
    export = run("export", *late[:-1], tmp_path / "bart", "--format", "bart")
    assert export.exit_code == 0, export.output
    files = (tmp_path / "bart_ksp", "--trajectory", tmp_path / "bart_traj")
    assert run("import", *files, "--out", tmp_path / "in").exit_code == 0
    found = read_mat(tmp_path / "in" / "Scan_01.mat", ["Data"])["Data"]
    assert not found[0].any()
    assert 0.1 < np.abs(found[1]).max() < 100


def test_the_report_is_of_the_first_row_that_shows_something(folder: Path, tmp_path: Path) -> None:
    data = read_mat(folder / "Scan_01.mat", ["Data"])["Data"]
    write_mat(tmp_path / "s01.mat", {"Data": np.concatenate([0 * data, 0 * data, data])})
    words = ("reconstruct", "--params", folder / "Params.txt", "--prefix", tmp_path / "s")
    more = ("--method", "cg", "--gpu", -1, "--reference", folder / "Truth.mat")
    result = run(*words, *more, "--out", tmp_path / "a")
    assert "s01.mat: zero before row 2, which the report is of" in result.stderr
    (record,) = json.loads((tmp_path / "a" / "report.json").read_text())
    assert record["nrmse"] < 0.9
    result = run(*words, *more, "--out", tmp_path / "b", "--rows", 2)
    assert result.exit_code == 2
    assert "--rows 2: these rows are zero; choose others" in result.stderr


PROTOCOL = ("--params", "SIM/Params.txt", "--scan", "SIM/Scan_01.mat")
WRITERS = {  # command, the file that stands in its way, the flag that replaces it
    "estimate-b0": (PROTOCOL, "--out", "x", "x", True),
    "estimate-coils": (PROTOCOL, "--out", "x", "x", True),
    "export": ((*PROTOCOL, "--format", "bart"), "--out", "x", "x_traj.cfl", True),
    "demo": (("TRAIN",), "--out", "x", "x", True),
    "simulate": (("--side", 16), "--out", "", "B0TS.mat", False),
    "import": (("SIM/none.h5",), "--out", "", "SensCC1.mat", False),
}


@pytest.mark.parametrize("command", WRITERS)
def test_no_command_replaces_a_file_unless_it_is_told_to(
    command: str, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    words, flag, out, name, replaces = WRITERS[command]
    train = str(next(folder.glob("out/*_train")))
    typed = [str(w).replace("SIM", str(folder)).replace("TRAIN", train) for w in words]
    typed = [command, *typed, flag, str(tmp_path / out)]
    (tmp_path / name).write_text("mine")
    result = run(*typed)
    assert result.exit_code == 2, result.output
    assert result.output.startswith(f"Error: {flag} {tmp_path / out}: {name} is there already; ")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    if replaces:
        assert "--overwrite" in result.output
        result = run(*typed, "--overwrite")
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--params", "none.txt"), "--params none.txt: cannot be read"),
        (("train", "--BaseNUFTDataP", "no", "--BaseTSDataP", "no"), "TrajForNUFT.mat"),
        (("reconstruct", "--prefix", "a"), "give --checkpoint, --out"),
        (("reconstruct", "--checkpoint", "no", "--prefix", "a", "--out", "b"), "no such file"),
        (("demo", "nowhere"), "holds no batch"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_2(words: tuple, message: str) -> None:
    result = run(*words, *(() if words[0] == "demo" else ("--gpu", -1)))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_scan_that_does_not_fit_is_refused_before_anything_is_written(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    write_mat(tmp_path / "bad01.mat", {"Data": np.ones((1, 2 * 250 * 3))})
    out = tmp_path / "out"
    result = run(
        "reconstruct", "--checkpoint", checkpoint, "--prefix", tmp_path / "bad", "--out", out,
        "--gpu", -1,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "with 3 coils the file has 250 samples" in result.output
    assert not out.exists()


def test_every_method_runs_and_reports_on_a_scan(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    words = (
        "reconstruct", "--checkpoint", checkpoint, "--prefix", folder / "Scan_", "--out", tmp_path,
        "--method", "all", "--reference", folder / "Truth.mat", "--gpu", -1, "--threads", 1,
    )  # fmt: skip
    result = run(*words)
    assert result.exit_code == 0, result.output
    names = ["MLN", "adjoint", "CG-SENSE", "wavelet-L1", "TV"]
    records = json.loads((tmp_path / "report.json").read_text())
    assert [record["method"] for record in records] == names
    assert records[2]["nrmse"] < records[1]["nrmse"]  # CG-SENSE is better than the adjoint
    x = read_mat(tmp_path / "OnRealData01_cg.mat", ["x"])["x"]
    truth = read_mat(folder / "Truth.mat", ["x"])["x"]
    assert np.linalg.norm(x[0, ..., 0] + 1j * x[0, ..., 1] - truth) < 0.2 * np.linalg.norm(truth)
    again = run(*words)
    assert again.exit_code == 2
    assert "give --overwrite" in again.output
    assert run(*words, "--overwrite").exit_code == 0


def test_a_network_of_another_protocol_is_refused_beside_the_other_methods(
    checkpoint: Path, tmp_path: Path
) -> None:
    size = ("--side", 17, "--coils", 2, "--samples", 290, "--turns", 6)
    assert run("simulate", "--out", tmp_path / "sim", *size).exit_code == 0
    words = (
        "reconstruct", "--checkpoint", checkpoint, "--params", tmp_path / "sim" / "Params.txt",
        "--gpu", -1, "--threads", 1, "--reference", tmp_path / "sim" / "Truth.mat",
    )  # fmt: skip
    result = run(*words, "--method", "all", "--out", tmp_path / "all")
    assert result.exit_code == 2, result.output
    assert "was trained for 300 samples, 3 coils and 16 pixels a side; the protocol has 290 " in (
        result.output
    )
    assert not (tmp_path / "all").exists()
    result = run(*words, "--method", "cg", "--out", tmp_path / "cg")  # which reads no network
    assert result.exit_code == 0, result.output
    assert read_mat(tmp_path / "cg" / "OnRealData01_cg.mat", ["x"])["x"].shape == (1, 17, 17, 2)


def test_a_method_without_training_needs_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    result = run(
        "reconstruct", "--params", folder / "Params.txt", "--out", tmp_path, "--method", "tv",
        "--format", "png", "--gpu", -1, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "OnRealData01_tv.png").is_file()


def test_a_folder_of_maps_and_trajectory_is_enough(folder: Path, tmp_path: Path) -> None:
    """Without Params.txt the coil maps say how wide the image is."""
    result = run(
        "reconstruct", "--BaseTSDataP", folder, "--BaseNUFTDataP", folder, "--prefix",
        folder / "Scan_", "--out", tmp_path, "--method", "cg", "--gpu", -1, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    side = read_mat(folder / "SensCC1.mat", ["SensCC"])["SensCC"].shape[0]
    assert read_mat(tmp_path / "OnRealData01_cg.mat", ["x"])["x"].shape[1:3] == (side, side)


UNITS = {1.0: "", 1 / 24: "cycles per pixel", 2 * np.pi / 24: "radians per pixel", 3.0: "beyond"}


@pytest.mark.parametrize("factor", UNITS)
def test_a_trajectory_in_another_unit_is_told_in_one_line(factor: float, tmp_path: Path) -> None:
    """By training and by the methods that need none, whatever reads Trajm2."""
    size = ("--side", 24, "--coils", 2, "--samples", 200, "--turns", 6)
    assert run("simulate", "--out", tmp_path / "sim", *size).exit_code == 0
    file = tmp_path / "sim" / "TrajForNUFT.mat"
    write_mat(file, {"Trajm2": factor * read_mat(file, ["Trajm2"])["Trajm2"]})
    words = ("--params", tmp_path / "sim" / "Params.txt", "--gpu", -1, "--threads", 1, "--out")
    small = ("--batches", 1, "--InitExamples", 30, "--nToLoad", 4, "--test-images", 0)
    for command, more in {"train": small, "reconstruct": ("--method", "adjoint")}.items():
        done = run(command, *words, tmp_path / command, *more)
        assert done.exit_code == 0, done.output
        told = [line for line in done.stderr.splitlines() if "max|k|" in line]
        assert len(told) == bool(UNITS[factor])
        assert all(f"{file}: max|k| is" in line and UNITS[factor] in line for line in told)


def test_equal_rows_are_told_and_rows_are_chosen(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    data = read_mat(folder / "Scan_01.mat", ["Data"])["Data"]
    write_mat(tmp_path / "s01.mat", {"Data": np.repeat(data, 4, 0)})
    words = ("reconstruct", "--checkpoint", checkpoint, "--prefix", tmp_path / "s", "--gpu", -1)
    result = run(*words, "--out", tmp_path / "a")
    assert "all 4 rows are equal; --rows 1" in result.output
    assert read_mat(tmp_path / "a" / "OnRealData01.mat", ["x"])["x"].shape[0] == 4
    assert run(*words, "--out", tmp_path / "b", "--rows", 1).exit_code == 0
    assert read_mat(tmp_path / "b" / "OnRealData01.mat", ["x"])["x"].shape[0] == 1


@pytest.mark.parametrize("b0", [0, 60])
def test_the_defaults_beat_the_adjoint_and_cg_on_their_own_simulation(
    tmp_path: Path, b0: int
) -> None:
    """As the guide shows them, but smaller and for 12 batches; Adam must not spoil the start."""
    size = ("--side", 24, "--samples", 500, "--turns", 6, "--noise", 0.03, "--segments", 3)
    assert (
        run("simulate", "--out", tmp_path / "sim", "--b0", b0, *size, "--coils", 4).exit_code == 0
    )
    result = run(
        "train", "--params", tmp_path / "sim" / "Params.txt", "--out", tmp_path, "--batches", 12,
        "--InitExamples", 60, "--nToLoad", 16, "--gpu", -1, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*_train/comparison.json")
    scores = {record["method"]: record["nrmse"] for record in json.loads(path.read_text())}
    assert scores["MLN"] < scores["CG-SENSE, 12 steps"] < 2
    assert scores["MLN"] < 0.9 * scores["adjoint"]
