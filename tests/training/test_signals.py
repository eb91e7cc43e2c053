"""Ctrl-C and SIGTERM where there is no step to finish: loading, decoding, sampling."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from eyescream_py import torch7
from eyescream_py.game.adversarial import Game
from eyescream_py.results import grids as sample_grids
from eyescream_py.training import game, reconstruct
from tests.commands import ROOT
from tests.picture_files import write_faces
from tests.small_runs import (
    FILES,
    SCRIPTS,
    invoke,
    pictures,
    signal_at,
    small_run,
    use_small_networks,
)

HOMES = {
    "train": game,
    "train_c2f": game,
    "train_autoencoder": reconstruct,
    "train_denoiser": reconstruct,
}
SIGNALS = [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]


@pytest.mark.parametrize(("number", "name"), SIGNALS)
@pytest.mark.parametrize("script", HOMES)
def test_while_pictures_are_loaded(script, number, name, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, script)
    signal_at(monkeypatch, HOMES[script], "load_dataset", 1, number)
    done = invoke(script, *SCRIPTS[script], f"--save={tmp_path / 'run'}", f"--dataset={data}")
    assert done.exit_code == 0
    last = done.output.splitlines()[-1]
    assert last == f"Stopped by {name} before the training began: nothing to save."
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "name"), SIGNALS)
def test_while_grids_are_written(number, name, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    small_run("train", tmp_path / "run", pictures(tmp_path, "train"), "--epochs=1")
    signal_at(monkeypatch, sample_grids, "save_grid", 3, number)
    out = tmp_path / "samples"
    done = invoke(
        "sample", f"--save_base={tmp_path / 'run'}", f"--save_c2f32={tmp_path}", "--gpu=-1",
        f"--writeto={out}", "--threads=1",
    )  # fmt: skip
    assert done.exit_code == 0
    assert f"Stopped by {name} before all grids were written" in done.output
    assert len(list(out.iterdir())) == 2
    for path in out.iterdir():
        Image.open(path).load()


def test_a_second_signal_does_not_wait_and_loses_nothing(tmp_path, monkeypatch, request):
    """The one who presses twice gets out of a save, which then did not happen."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell: none
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, previous))
    use_small_networks(monkeypatch)
    data, run = pictures(tmp_path, "train"), tmp_path / "run"
    small_run("train", run, data, "--epochs=1")
    before = (run / FILES["train"]).read_bytes()

    signal_at(monkeypatch, Game, "iteration", 1, signal.SIGINT)
    signal_at(monkeypatch, torch7, "save", 1, signal.SIGINT)
    done = invoke("train", *SCRIPTS["train"], f"--save={run}", f"--dataset={data}")
    assert done.exit_code == 130
    assert "Stopped by Ctrl-C." in done.output
    assert (run / FILES["train"]).read_bytes() == before
    assert not list(run.glob(".*.tmp"))


DECODE = """
import sys
from eyescream_py.data import decode
from eyescream_py.cli.train import main
decode.BLOCK = 4
decode.WORTH_PROCESSES = 10
decode.usable_cores = lambda: 2
if __name__ == "__main__":
    main(sys.argv[1:])
"""


@pytest.mark.parametrize(("number", "name"), SIGNALS)
def test_while_processes_decode(number, name, tmp_path):
    """The whole process group is signalled, as by a terminal or a service manager."""
    (tmp_path / "decode.py").write_text(DECODE)
    write_faces(tmp_path / "faces", 100)
    process = subprocess.Popen(
        [sys.executable, "decode.py", "--scale=8", "--grayscale", "--noplot", "--gpu=-1",
         "--threads=1", f"--save={tmp_path / 'run'}", f"--dataset={tmp_path / 'faces'}"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while "filepaths" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    workers = wait_for_children(process.pid)
    os.killpg(process.pid, number)
    said += process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert f"Stopped by {name} before the training began: nothing to save." in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "run").exists()
    deadline = time.monotonic() + 300
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)


def wait_for_children(pid):
    """Process ids of the first children that a process starts."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            if len(children := file.read().split()) >= 2:
                return children
        time.sleep(0.01)
    raise AssertionError("no worker was started")
