"""Two runs in one folder, closed terminals, removed folders, output that cannot be written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from eyescream_py import torch7
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import JsonLines, read_json_lines
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.run import Run, RunOptions
from tests.commands import ROOT
from tests.small_runs import FILES, SCRIPTS, ToyTask, invoke, pictures, records, small_run


def options(save, **more):
    chosen = {"save": str(save), "save_freq": 1, "epochs": 2, "log_every": 0, "network": "",
              "on_nan": "stop", **more}  # fmt: skip
    return RunOptions(**chosen)


def run_in_background(data, save, shell="", **more):
    """The real script, which trains until it is stopped."""
    words = ["train.py", *SCRIPTS["train"], "--saveFreq=1000", f"--save={save}",
             f"--dataset={data}"]  # fmt: skip
    command = [sys.executable, *words]
    if shell:
        command = ["bash", "-c", shell, *command]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}, **more,
    )  # fmt: skip


def wait_for_epochs(save, count=1, process=None):
    deadline = time.monotonic() + 120
    while len(read_json_lines(save / "metrics.jsonl")) < count:
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), "train")


def test_a_closed_terminal_saves_and_a_second_run_is_refused(data, tmp_path):
    """SIGHUP, twice as terminals send it; before it, another process wants the same file."""
    first = run_in_background(data, tmp_path)
    wait_for_epochs(tmp_path, 1, first)
    refused = invoke("train", *SCRIPTS["train"], f"--save={tmp_path}", f"--dataset={data}")
    assert refused.exit_code == 2
    assert f"process {first.pid} (" in refused.output
    assert "another --save" in refused.output
    os.killpg(first.pid, signal.SIGHUP)
    os.killpg(first.pid, signal.SIGHUP)
    said, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert "Stopped by SIGHUP: saved" in said
    assert "Traceback" not in errors
    assert torch7.load(tmp_path / FILES["train"])["resume"]["position"]["epoch"] >= 1
    assert not list(tmp_path.glob(".*"))


def test_nohup_is_meant(data, tmp_path):
    process = run_in_background(data, tmp_path, 'trap "" HUP; exec "$0" "$@"')
    wait_for_epochs(tmp_path, 1, process)
    os.killpg(process.pid, signal.SIGHUP)
    wait_for_epochs(tmp_path, len(read_json_lines(tmp_path / "metrics.jsonl")) + 2, process)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert "Stopped by SIGTERM: saved" in said


@pytest.mark.parametrize(
    ("shell", "reason"),
    [('exec "$0" "$@" --epochs=3 > /dev/full', "No space left on device"),
     ('"$0" "$@" --epochs=3 | head -2; exit ${PIPESTATUS[0]}', "Broken pipe")],
)  # fmt: skip
def test_output_that_cannot_be_written_costs_nothing(data, tmp_path, shell, reason):
    process = run_in_background(data, tmp_path, shell)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors.count(reason) == 1
    assert "Traceback" not in errors
    assert torch7.load(tmp_path / FILES["train"])["epoch"] == 3
    assert [r["epoch"] for r in records(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_an_earlier_run_s_network_is_kept_under_a_dated_name(tmp_path, capsys):
    Run(ToyTask(), options(tmp_path, epochs=3), StopSignal()).go()
    before = (tmp_path / "toy.net").read_bytes()
    capsys.readouterr()
    Run(ToyTask(lr=0.2), options(tmp_path), StopSignal()).go()
    said = capsys.readouterr().out
    assert "toy.net is of an earlier run: --network=toy.net would continue it" in said
    (dated,) = tmp_path.glob("toy_20*.net")
    assert dated.read_bytes() == before
    assert torch7.load(tmp_path / "toy.net")["epoch"] == 2
    Run(ToyTask(), options(tmp_path, epochs=4, network="toy.net"), StopSignal()).go()
    assert "earlier run" not in capsys.readouterr().out
    assert len(list(tmp_path.glob("toy_20*.net"))) == 1


def test_a_refused_start_leaves_no_lock(tmp_path):
    with pytest.raises(UserError):
        Run(ToyTask(), options(tmp_path, network="none.net"), StopSignal())
    Run(ToyTask(), options(tmp_path), StopSignal()).go()
    assert not list(tmp_path.glob(".*"))


def test_a_removed_folder_comes_back_with_its_logs(tmp_path, capsys):
    save = tmp_path / "run"

    class Task(ToyTask):
        def begin_epoch(self):
            super().begin_epoch()
            if self.epochs_begun == 3:
                shutil.rmtree(save)

    Run(Task(), options(save, epochs=4), StopSignal()).go()
    said = capsys.readouterr().out
    assert "metrics.jsonl was removed: it is written anew" in said
    assert [r["epoch"] for r in read_json_lines(save / "metrics.jsonl")] == [1, 2, 3, 4]
    assert torch7.load(save / "toy.net")["epoch"] == 4


def test_two_trainers_append_to_one_file(tmp_path):
    """The second starts, which replaces the file, while the first still writes."""
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    first.write({"trainer": "a", "epoch": 1})
    second = JsonLines(path, lambda record: record["trainer"] != "b")
    for epoch in (2, 3):
        first.write({"trainer": "a", "epoch": epoch})
        second.write({"trainer": "b", "epoch": epoch})
    first.close()
    second.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["trainer"], r["epoch"]) for r in lines] == [
        ("a", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3),
    ]  # fmt: skip


def test_different_trainers_share_a_folder(data, tmp_path):
    running = run_in_background(data, tmp_path)
    wait_for_epochs(tmp_path, 1, running)
    small_run("train_c2f", tmp_path, pictures(tmp_path.parent, "train_c2f"), "--epochs=1")
    wait_for_epochs(tmp_path, len(read_json_lines(tmp_path / "metrics.jsonl")) + 2, running)
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=60)
    lines = records(tmp_path / "metrics.jsonl")
    ours = [r["epoch"] for r in lines if r["trainer"] == "adversarial"]
    assert ours == list(range(1, len(ours) + 1))
    assert [r["epoch"] for r in lines if r["trainer"] != "adversarial"] == [1]


@pytest.mark.parametrize("flag", ["--save=", "--dataset=", "--network="])
def test_an_empty_path_is_refused(flag):
    done = invoke("train", *SCRIPTS["train"], flag)
    assert done.exit_code == 2
    assert "it is empty" in done.output


def test_home_is_the_home_folder(tmp_path, monkeypatch, data):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(data, tmp_path / "faces.t7")
    small_run("train", "~/runs", "~/faces.t7", "--epochs=1")
    assert (tmp_path / "runs" / "adversarial.net").is_file()
    assert not (tmp_path / "~").exists()
