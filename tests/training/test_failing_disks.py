"""Disks that are full, forbidden, or not what they seem, by faults put under the file functions."""

import errno
import json
import os

import pytest

from eyescream_py import torch7
from eyescream_py.game.group import Alone
from eyescream_py.system import files
from eyescream_py.system.errors import UserError
from eyescream_py.system.saves import MOST_FAILED
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.run import Run, RunOptions
from eyescream_py.training.save_folder import prepare_folder
from tests.small_runs import SCRIPTS, ToyTask, invoke, pictures, small_run, use_small_networks

REASONS = {
    errno.ENOSPC: "No space left on device",
    errno.EACCES: "Permission denied",
    errno.EROFS: "Read-only file system",
    errno.EIO: "Input/output error",
    errno.EDQUOT: "Disk quota exceeded",
}


class Disk:
    """While `broken`, the chosen function fails on checkpoints' files."""

    def __init__(self, monkeypatch, function, number):
        self.broken, self.failures = False, 0
        original = open if function == "open" else getattr(os, function)

        def faulty(target, *args, **kwargs):
            if self.broken and (function == "fsync" or "toy.net" in str(target)):
                self.failures += 1
                raise OSError(number, os.strerror(number), str(target))
            return original(target, *args, **kwargs)

        monkeypatch.setattr(files if function == "open" else os, function, faulty, raising=False)


def options(tmp_path, **more):
    chosen = {"save": tmp_path, "save_freq": 2, "epochs": 6, "log_every": 0, "network": "",
              "on_nan": "stop", **more}  # fmt: skip
    return RunOptions(**chosen)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and ".net" in p.name}


@pytest.mark.parametrize("number", REASONS)
@pytest.mark.parametrize("function", ["open", "fsync", "replace", "link"])
def test_training_goes_on_and_saves_at_the_next_turn(
    function, number, tmp_path, monkeypatch, capsys
):
    """Broken in epoch 4, where it should save; mended before epoch 5 ends."""
    disk = Disk(monkeypatch, function, number)
    seen = {}

    class Task(ToyTask):
        def iteration(self, n, log):
            super().iteration(n, log)
            disk.broken = self.epochs_begun == 4
            if self.epochs_begun == 5 and not seen:
                seen.update(contents(tmp_path))

        def content(self, epoch):
            if epoch == 4:
                disk.before = contents(tmp_path)
            return super().content(epoch)

    Run(Task(), options(tmp_path), StopSignal()).go()
    said = capsys.readouterr().out
    assert torch7.load(tmp_path / "toy.net")["epoch"] == 6
    assert not list(tmp_path.glob(".*"))
    if function == "link":  # the previous one is copied where it cannot be linked
        assert "Could not save" not in said
        return
    assert disk.failures >= 1
    assert f"Could not save {tmp_path / 'toy.net'}: {REASONS[number]}; training goes on" in said
    assert said.count("saving network") == 4  # epochs 2, 4 (failed), 5 (again), 6
    assert seen == disk.before  # not a byte of the previous checkpoint was touched


class Follower(Alone):
    """One of two processes, which is told whether the other could save."""

    size, leads = 2, False

    def __init__(self, *saved):
        self.saved = list(saved)

    def agreed(self, work):
        return self.saved.pop(0)


def test_of_several_processes_all_know_of_a_save_that_failed(tmp_path):
    """Else they would part: one would go back to the last checkpoint, the others to none."""
    group = Follower(False, True, True)  # epochs 2, 3 (again), 4
    run = Run(ToyTask(), options(tmp_path, epochs=4), StopSignal(), group)
    seen, save = [], run._save

    def saving():
        save()
        seen.append((run.at.epoch - 1, run._good))

    run._save = saving
    run.go()
    assert seen == [(2, None), (3, run.path), (4, run.path)]
    assert not group.saved
    assert not run.path.exists()


def test_a_rename_that_fails_leaves_both_files_complete(tmp_path, monkeypatch):
    Run(ToyTask(), options(tmp_path, epochs=4), StopSignal()).go()
    disk = Disk(monkeypatch, "replace", errno.EIO)
    disk.broken = True
    with pytest.raises(UserError, match=r"could not save .*Input/output error"):
        Run(ToyTask(), options(tmp_path, epochs=5, network="toy.net"), StopSignal()).go()
    assert torch7.load(tmp_path / "toy.net")["epoch"] == 4
    assert torch7.load(tmp_path / "toy.net.old")["epoch"] == 2


def test_what_never_could_be_saved_ends_the_run(tmp_path, monkeypatch, capsys):
    disk = Disk(monkeypatch, "replace", errno.ENOSPC)
    disk.broken = True
    with pytest.raises(UserError, match=r"could not save .*free the place") as error:
        Run(ToyTask(), options(tmp_path, save_freq=1, epochs=0), StopSignal()).go()
    assert error.value.exit_code == 2
    assert capsys.readouterr().out.count("Could not save") == MOST_FAILED - 1


def test_a_stop_that_cannot_save_says_so(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, "fsync", errno.ENOSPC)
    stop = StopSignal()

    class Task(ToyTask):
        def iteration(self, n, log):
            super().iteration(n, log)
            disk.broken = True
            stop.requested, stop.name = True, "SIGTERM"

    with pytest.raises(UserError, match="could not save"):
        Run(Task(), options(tmp_path), stop).go()


def test_a_disk_too_small_for_two_checkpoints_is_noticed_at_the_start(tmp_path, monkeypatch):
    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="cannot write 24 MB of checkpoints there: No space left"):
        prepare_folder(tmp_path, "toy.net", 24_000_000)
    assert not list(tmp_path.iterdir())


def test_how_much_room_is_asked_for(tmp_path, monkeypatch):
    """For what stands in SAVE counts only where it is continued."""
    asked, reserve = [], os.posix_fallocate

    def counted(descriptor, start, length):
        asked.append(length)
        reserve(descriptor, start, length)

    monkeypatch.setattr(os, "posix_fallocate", counted)

    def room(**more):
        asked.clear()
        Run(ToyTask(), options(tmp_path / "run", **more), StopSignal()).go()
        return asked[0]

    two = room(epochs=1)
    assert room(epochs=3) == two  # the earlier run's stays
    assert room(network="toy.net", epochs=4) == 1  # .old could go
    (tmp_path / "run/toy.net.old").rename(tmp_path / "kept")
    assert room(network="toy.net", epochs=4) == two // 2
    assert room(network=str(tmp_path / "kept"), epochs=4) == two


def test_a_file_system_that_cannot_reserve_is_no_obstacle(tmp_path, monkeypatch):
    def cannot(descriptor, start, length):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    prepare_folder(tmp_path, "toy.net", 1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["toy.net", "toy.net.old", "metrics.jsonl"])
def test_a_folder_where_a_file_should_go(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        Run(ToyTask(), options(tmp_path), StopSignal())
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_pictures_that_cannot_be_written_do_not_stop_a_training(tmp_path, monkeypatch):
    use_small_networks(monkeypatch, curves=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pictures").write_text("a file")
    said = small_run("train", tmp_path / "run", pictures(tmp_path, "train"), "--epochs=1")
    assert "Could not write pictures to" in said
    assert (tmp_path / "run/adversarial.net").is_file()


class FullDisk:
    """An open log on a disk without room."""

    def __init__(self, file):
        self.file = file
        self.fileno, self.close = file.fileno, file.close

    @property
    def closed(self):
        return self.file.closed

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_logs_that_cannot_be_written_do_not_stop_a_training(tmp_path, monkeypatch):
    use_small_networks(monkeypatch, curves=True)
    data = pictures(tmp_path, "train")
    from eyescream_py.system import json_lines

    original = json_lines.JsonLines.__init__

    def on_a_full_disk(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self._file = FullDisk(self._file)

    monkeypatch.setattr(json_lines.JsonLines, "__init__", on_a_full_disk)
    said = small_run("train", tmp_path / "run", data, "--epochs=2")
    assert said.count("No space left on device") == 2  # once for each of the two files
    assert (tmp_path / "run/adversarial.net").is_file()


def test_a_best_network_that_cannot_be_saved_does_not_stop_c2f(tmp_path):
    run = tmp_path / "run"
    (run / "adversarial_c2f_2_to_4.bestnet").mkdir(parents=True)
    said = small_run("train_c2f", run, pictures(tmp_path, "train_c2f"), "--epochs=1")
    assert "Could not save" in said
    assert json.loads((run / "metrics.jsonl").read_text())["parzen"] > 0
    assert (run / "adversarial_c2f_2_to_4.net").is_file()


def test_save_below_a_file(tmp_path, monkeypatch):
    use_small_networks(monkeypatch, curves=True)
    (tmp_path / "file").write_text("kept")
    data = pictures(tmp_path, "train")
    done = invoke("train", *SCRIPTS["train"], f"--dataset={data}", f"--save={tmp_path}/file/run")
    assert done.exit_code == 2
    assert "cannot write checkpoints" in done.output
    assert (tmp_path / "file").read_text() == "kept"


def test_a_checkpoint_given_by_its_whole_path_is_kept_too(tmp_path, monkeypatch, capsys):
    """Where one stands, failing saves do not end the run before its last epoch."""
    monkeypatch.chdir(tmp_path)
    Run(ToyTask(), options("run", epochs=1), StopSignal()).go()
    disk = Disk(monkeypatch, "open", errno.EACCES)
    network = str(tmp_path / "run" / "toy.net")
    run = Run(ToyTask(), options("run", save_freq=1, epochs=9, network=network), StopSignal())
    disk.broken = True
    with pytest.raises(UserError):
        run.go()
    assert disk.failures >= 8 > MOST_FAILED
