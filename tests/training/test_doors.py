"""Two runs in one folder, closed terminals, removed folders, output that cannot be written."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from eyescream_py import torch7
from eyescream_py.results.story import grid_name
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import JsonLines, read_json_lines
from eyescream_py.system.locks import Lock
from eyescream_py.system.signals import StopSignal
from eyescream_py.training import c2f
from eyescream_py.training.logs import Logs
from eyescream_py.training.run import Run, RunOptions
from tests.commands import ROOT
from tests.small_runs import FILES, SCRIPTS, ToyTask, invoke, pictures, small_run


def options(save, **more):
    chosen = {"save": str(save), "save_freq": 1, "epochs": 2, "log_every": 0, "network": "",
              "on_nan": "stop", **more}  # fmt: skip
    return RunOptions(**chosen)


def run_in_background(data, save, *flags, shell=""):
    """The real script in a process of its own, which a closed terminal ends: under nohup too."""
    command = [sys.executable, "train.py", *SCRIPTS["train"], f"--save={save}",
               f"--dataset={data}", *flags]  # fmt: skip
    if shell:
        command = ["bash", "-c", shell, *command]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip


def epochs_of(save, trainer="adversarial"):
    lines = read_json_lines(save / "metrics.jsonl")
    return [line["epoch"] for line in lines if line["trainer"] == trainer]


def wait_for_another_epoch(save, process):
    deadline, before = time.monotonic() + 300, len(epochs_of(save))
    while len(epochs_of(save)) == before:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), "train")


def test_two_runs_in_one_folder_and_a_closed_terminal(data, tmp_path):
    """While one process trains, another is refused its file, a third trainer writes beside it; then
    its terminal closes: SIGHUP, twice as terminals send it."""
    first = run_in_background(data, tmp_path, "--saveFreq=100000")
    wait_for_another_epoch(tmp_path, first)
    refused = invoke("train", *SCRIPTS["train"], f"--save={tmp_path}", f"--dataset={data}")
    assert refused.exit_code == 2
    assert f"process {first.pid} (" in refused.output
    assert "another --save" in refused.output
    small_run("train_c2f", tmp_path, pictures(tmp_path.parent, "train_c2f"), "--epochs=1")
    wait_for_another_epoch(tmp_path, first)
    os.killpg(first.pid, signal.SIGHUP)
    os.killpg(first.pid, signal.SIGHUP)
    said, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    assert "Stopped by SIGHUP: saved" in said
    assert "Traceback" not in errors
    assert torch7.load(tmp_path / FILES["train"])["resume"]["position"]["epoch"] >= 1
    ours = epochs_of(tmp_path)
    assert ours == list(range(1, len(ours) + 1))
    assert epochs_of(tmp_path, "adversarial_c2f_2_to_4") == [1]
    assert not list(tmp_path.glob(".*"))


def test_nohup_is_meant():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_that_cannot_be_written_costs_nothing(data, tmp_path):
    """A closed pipe at the real script; a full disk and both at once: tests/system/test_voice.py"""
    shell = '"$0" "$@" | head -2; exit ${PIPESTATUS[0]}'
    process = run_in_background(data, tmp_path, "--epochs=3", shell=shell)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors.count("Broken pipe") == 1
    assert "Traceback" not in errors
    assert torch7.load(tmp_path / FILES["train"])["epoch"] == 3
    assert epochs_of(tmp_path) == [1, 2, 3]


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


def test_an_earlier_run_s_best_network_is_kept_too(tmp_path):
    data = pictures(tmp_path, "train_c2f")
    best = (tmp_path / FILES["train_c2f"]).with_suffix(".bestnet")
    small_run("train_c2f", tmp_path, data, "--epochs=1")
    before = best.read_bytes()
    small_run("train_c2f", tmp_path, data, "--epochs=1", "--seed=5")
    (dated,) = tmp_path.glob(f"{best.stem}_20*.bestnet")
    assert dated.read_bytes() == before != best.read_bytes()


def test_a_run_from_elsewhere_keeps_the_best_network_that_stands_there(tmp_path, monkeypatch):
    """It comes with a best score of its own, which is that of no file in the folder."""
    scores = iter([3.0, 1.0, 2.0, 1.5])
    monkeypatch.setattr(c2f, "parzen_score", lambda *args: next(scores))
    data, here, there = pictures(tmp_path, "train_c2f"), tmp_path / "here", tmp_path / "there"
    best = (here / FILES["train_c2f"]).with_suffix(".bestnet")
    small_run("train_c2f", there, data, "--epochs=1")
    small_run("train_c2f", here, data, "--epochs=1", "--seed=5")
    before = best.read_bytes()
    small_run("train_c2f", here, data, f"--network={there / FILES['train_c2f']}", "--epochs=2")
    small_run("train_c2f", here, data, f"--network={FILES['train_c2f']}", "--epochs=3")
    (dated,) = here.glob(f"{best.stem}_20*.bestnet")
    assert dated.read_bytes() == before != best.read_bytes()
    assert torch7.load(best)["epoch"] == 3


def test_a_run_from_elsewhere_does_not_go_on_with_an_earlier_run_s_log(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    Run(ToyTask(), options(here, epochs=3), StopSignal()).go()
    Run(ToyTask(lr=0.2), options(there, epochs=1), StopSignal()).go()
    before = (here / "metrics.jsonl").read_text()
    other = options(here, epochs=3, network=str(there / "toy.net"))
    Run(ToyTask(lr=0.2), other, StopSignal()).go()
    assert epochs_of(here, "toy") == [2, 3]
    assert (here / "metrics.jsonl.old").read_text() == before


def test_upscalers_of_a_chain_share_a_folder(tmp_path):
    """As 16 to 32 and 32 to 64 in `logs`: neither takes the other's grids for an earlier run's."""
    data = pictures(tmp_path, "train_c2f")
    small_run("train_c2f", tmp_path, data, "--epochs=1")
    small_run("train_c2f", tmp_path, data, "--epochs=1", "--coarseSize=3")
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == ["c2f_2_to_4_epoch_000001.png", "c2f_3_to_4_epoch_000001.png"]


class DrawingTask(ToyTask):
    def save_pictures(self, folder, epoch):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / grid_name(self.series, epoch)).write_text(f"{self.optimizer.param_groups}")


def test_an_earlier_run_s_pictures_are_kept_in_a_dated_folder(tmp_path, capsys):
    Run(DrawingTask(), options(tmp_path, epochs=3), StopSignal()).go()
    pictures = tmp_path / "pictures"
    before = {p.name: p.read_text() for p in pictures.glob("toy_epoch_*.png")}
    assert len(before) == 3
    (pictures / "c2f_epoch_000001.png").write_text("another trainer's")
    Run(DrawingTask(lr=0.2), options(tmp_path), StopSignal()).go()
    (dated,) = (p for p in pictures.iterdir() if p.is_dir())
    assert {p.name: p.read_text() for p in dated.iterdir()} == before
    assert f"The pictures of another run, 3 in all, are now in {dated}." in capsys.readouterr().out
    again = options(tmp_path, epochs=3, network="toy.net")
    Run(DrawingTask(lr=0.2), again, StopSignal()).go()
    assert sorted(p.name for p in pictures.glob("*.png")) == [
        "c2f_epoch_000001.png", *sorted(before),
    ]  # fmt: skip
    assert len([p for p in pictures.iterdir() if p.is_dir()]) == 1


def test_in_a_renamed_folder_s_place_another_run_s_pictures_are_kept(tmp_path):
    """Another run began there, and has ended, before this one saves again."""
    save, theirs = tmp_path / "run", "toy_epoch_000002.png"

    class Task(DrawingTask):
        def end_epoch(self, epoch, seconds):
            if epoch == 2:
                save.rename(tmp_path / "moved")
                (save / "pictures").mkdir(parents=True)
                (save / "toy.net").write_bytes(b"another's")
                (save / "pictures" / theirs).write_text("another's")
            return super().end_epoch(epoch, seconds)

    Run(Task(), options(save, epochs=3), StopSignal()).go()
    kept = {p.read_bytes() for p in (*save.glob("toy_20*.net"), *save.glob("pictures/*/*"))}
    assert kept == {b"another's"}
    assert len(list(save.glob("pictures/toy_*/*"))) == 1
    assert {p.name for p in save.glob("pictures/*.png")} == {theirs, "toy_epoch_000003.png"}


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
    assert "metrics.jsonl was removed or renamed: it is written anew" in said
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


def epochs_by_trainer(path):
    return [(r["trainer"], r["epoch"]) for r in read_json_lines(path)]


def test_lines_of_two_runs_do_not_mix_where_one_has_the_others_place(tmp_path, capsys):
    """The first one's folder was renamed, and the second began under the old name."""
    save, moved = tmp_path / "run", tmp_path / "moved"
    save.mkdir()

    def logs():
        lock = Lock(save / "a.net")
        return lock, Logs(save, "a", (1, 0), keep=False, losses=True, lock=lock)

    def epoch(logs, number):
        logs.epoch(number, 1.0, {})
        logs.of_iteration(number, 1)("D", 0.5)

    lock, first = logs()
    epoch(first, 1)
    save.rename(moved)
    save.mkdir()
    theirs, second = logs()
    other = JsonLines(save / "metrics.jsonl", lambda record: record["trainer"] != "b")
    with contextlib.closing(other):
        other.write({"trainer": "b", "epoch": 1})
        epoch(first, 2)
        epoch(second, 7)
        assert epochs_by_trainer(save / "metrics.jsonl") == [("b", 1), ("a", 7)]
        for name in ("metrics.jsonl", "losses.jsonl"):
            assert epochs_by_trainer(moved / name) == [("a", 1), ("a", 2)]
        second.close()
        theirs.release()
        assert capsys.readouterr().out == ""
        epoch(first, 3)  # from here on the place is its own again
        other.write({"trainer": "b", "epoch": 2})
    first.close()
    ours = [("a", number) for number in (1, 2, 3)]
    assert epochs_by_trainer(save / "metrics.jsonl") == [("b", 1), *ours, ("b", 2)]
    assert epochs_by_trainer(save / "metrics.jsonl.old") == [("b", 1), ("a", 7)]
    assert epochs_by_trainer(save / "losses.jsonl") == ours
    assert epochs_by_trainer(save / "losses.jsonl.old") == [("a", 7)]
    assert capsys.readouterr().out.count("may be another run's by now") == 2
    lock.release()


def test_the_best_network_of_another_run_is_left_alone(tmp_path, monkeypatch):
    save, data = tmp_path / "run", pictures(tmp_path, "train_c2f")
    best = (save / FILES["train_c2f"]).with_suffix(".bestnet")
    held, scores = contextlib.ExitStack(), iter([3.0, 2.0, 1.0])

    def score(*args):
        found = next(scores)
        if found == 2:
            save.rename(tmp_path / "moved")
            save.mkdir()
            best.write_bytes(b"another's")
            held.callback(Lock(save / FILES["train_c2f"]).release)
        if found == 1:
            assert best.read_bytes() == b"another's"
            held.close()
        return found

    monkeypatch.setattr(c2f, "parzen_score", score)
    said = small_run("train_c2f", save, data, "--epochs=3", "--saveFreq=9")
    assert said.count(f"Could not save {best}: process ") == 1
    (dated,) = save.glob(f"{best.stem}_20*.bestnet")
    assert dated.read_bytes() == b"another's"
    assert torch7.load(best)["epoch"] == 3


def test_a_file_removed_after_the_last_line_is_there_at_the_end(tmp_path):
    """As srez writes: a line each tenth batch, and the folder may go after the last one."""
    path = tmp_path / "summary" / "metrics.jsonl"
    path.parent.mkdir()
    log = JsonLines(path)
    log.write({"batch": 10})
    shutil.rmtree(path.parent)
    log.close()
    assert read_json_lines(path) == [{"batch": 10}]


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
