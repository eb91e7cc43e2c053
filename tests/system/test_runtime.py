"""Devices, threads, signals and the line-by-line files."""

import json
import os
import signal

import pytest
import torch

from eyescream_py.system import device, json_lines, signals
from eyescream_py.system.device import choose_device, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import JsonLines, read_json_lines
from eyescream_py.system.signals import StopSignal


def test_a_negative_gpu_is_the_cpu(capsys):
    assert choose_device(-1, typed=True) == torch.device("cpu")
    assert capsys.readouterr().out == ""


def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(0, typed=False) == torch.device("cpu")
    assert capsys.readouterr().out.count("\n") == 1
    with pytest.raises(UserError, match=r"--gpu=0.*give --gpu=-1"):
        choose_device(0, typed=True)


def test_threads(monkeypatch, capfd):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert set_threads(1000, typed=False) == cores
    assert set_threads(cores, typed=True) == cores
    assert capfd.readouterr().err == ""
    assert set_threads(cores + 1, typed=True) == cores + 1
    assert capfd.readouterr().err.startswith(
        f"--threads={cores + 1}: this process has {cores} core"
    )
    assert asked == [cores, cores, cores + 1]
    for wrong in (0, -1, device.MAX_THREADS + 1):
        with pytest.raises(UserError, match=f"--threads={wrong}"):
            set_threads(wrong, typed=True)


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_the_first_signal_is_a_flag_and_handlers_come_back(number, name):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.name == name
        assert signal.getsignal(number) == before  # a second one is the system's
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_with_nothing_to_finish_a_signal_ends_the_program(number, capsys):
    steps = []

    def work():
        with StopSignal("before anything: nothing to save"):
            try:
                os.kill(os.getpid(), number)
                steps.append("went on")
            finally:
                steps.append("cleaned up")

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 0
    assert steps == ["cleaned up"]
    assert capsys.readouterr().out.endswith("before anything: nothing to save.\n")


def test_too_little_memory_is_one_line():
    with pytest.raises(UserError, match="not enough memory"), signals.stoppable(""):
        torch.empty(1 << 55, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="something else"), signals.stoppable(""):
        raise RuntimeError("something else")


def test_lines_are_there_at_once(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.write({"epoch": 1})
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"epoch": 1}
    lines.close()


def test_resuming_cuts_back_and_drops_broken_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    broken = '{"epoch": 2\n\n[1]\n"text"\n' + "[" * 100_000 + '\n\xff{"epoch":'
    path.write_text('{"epoch": 1}\n' + broken + '\n{"epoch": 3}\n{"epoch": 4}\n{"ep')
    lines = JsonLines(path, keep=lambda r: r["epoch"] < 4)
    lines.write({"epoch": 4, "new": True})
    lines.close()
    assert read_json_lines(path) == [{"epoch": 1}, {"epoch": 3}, {"epoch": 4, "new": True}]


def test_a_folder_in_the_place_of_the_lines_delays_them_but_loses_none(tmp_path, capsys):
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.write({"epoch": 1})
    (tmp_path / "m.jsonl").unlink()
    (tmp_path / "m.jsonl").mkdir()
    for epoch in (2, 3):
        lines.write({"epoch": epoch})
    assert capsys.readouterr().out == (
        f"Could not write {tmp_path}/m.jsonl: Is a directory; training goes on, trying again.\n"
    )
    (tmp_path / "m.jsonl").rmdir()
    lines.write({"epoch": 4})
    lines.close()
    assert read_json_lines(tmp_path / "m.jsonl") == [{"epoch": n} for n in (1, 2, 3, 4)]


def test_a_full_disk_delays_lines_but_loses_none(tmp_path, capsys):
    lines = JsonLines(tmp_path / "m.jsonl")
    real = lines._file

    class Full:
        fileno = real.fileno

        def write(self, data):
            if len(data) > 5:
                return real.write(data[:5])  # half a line is what full disks take
            raise OSError(28, "No space left on device")

    lines.write({"epoch": 1})
    lines._file = Full()
    lines.write({"epoch": 2})
    lines.write({"epoch": 3})
    assert capsys.readouterr().out.count("No space left on device") == 1
    lines._file = real
    lines.write({"epoch": 4})
    lines._file = Full()
    lines.write({"epoch": 5})  # full anew, which is told anew
    assert capsys.readouterr().out.count("No space left on device") == 1
    lines._file = real
    lines.close()
    assert [r["epoch"] for r in read_json_lines(tmp_path / "m.jsonl")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("keep", "keep_old", "left", "old"),
    [(None, False, [], True), (lambda r: r["n"] > 1, False, [2], False),
     (lambda r: r["n"] > 1, True, [2], True)],
)  # fmt: skip
def test_what_a_new_log_leaves_of_an_earlier_one(keep, keep_old, left, old, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n')
    JsonLines(path, keep, keep_old=keep_old).close()
    assert [record["n"] for record in read_json_lines(path)] == left
    earlier = [record["n"] for record in read_json_lines(tmp_path / "m.jsonl.old")]
    assert earlier == ([1, 2] if old else [])


def test_what_a_full_disk_delays_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_UNWRITTEN", 100)
    lines = JsonLines(tmp_path / "m.jsonl")

    class Full:
        fileno = lines._file.fileno

        def write(self, data):
            raise OSError(28, "No space left on device")

    lines._file = Full()
    for epoch in range(50):
        lines.write({"epoch": epoch})
    assert len(lines._unwritten) < 120


def test_a_missing_file_is_empty_and_a_folder_an_error(tmp_path):
    assert read_json_lines(tmp_path / "none.jsonl") == []
    with pytest.raises(IsADirectoryError):
        read_json_lines(tmp_path)


def test_numbers_of_any_length_are_read(tmp_path):
    digits = "9" * 401
    (tmp_path / "m.jsonl").write_text(f'{{"epoch": {digits}, "loss": -{digits}, "n": 7}}\n')
    assert read_json_lines(tmp_path / "m.jsonl") == [
        {"epoch": float("inf"), "loss": -float("inf"), "n": 7}
    ]
