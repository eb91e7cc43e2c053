"""An epoch that was stopped: its time, its pictures and its rates when it goes on."""

from eyescream_py import torch7
from eyescream_py.system.json_lines import read_json_lines
from eyescream_py.system.signals import StopSignal
from tests.small_runs import ToyTask
from tests.training.test_training import run, stored


def test_each_epoch_has_its_own_rate_also_after_a_resume(tmp_path):
    task, again = ToyTask(), ToyTask()
    told = []
    task.learn_at = again.learn_at = told.append
    run(tmp_path, task, epochs=2)
    run(tmp_path, again, epochs=4, network="toy.net")
    assert told == [1, 2, 3, 4]


def interrupted(tmp_path, after=2, **options):
    """A run that was stopped in its first epoch, after so many iterations; its checkpoint."""
    task, stop = ToyTask(), StopSignal()
    original, done = task.iteration, []

    def iteration(n, log):
        original(n, log)
        done.append(n)
        if len(done) == after:
            stop.requested, stop.name = True, "SIGTERM"

    task.iteration = iteration
    run(tmp_path, task, stop, **options)
    return stored(tmp_path)


def test_an_epochs_time_goes_on_where_it_was_stopped(tmp_path):
    content = interrupted(tmp_path)
    assert content["resume"]["position"]["seconds"] > 0
    content["resume"]["position"]["seconds"] = 100.0
    torch7.save(tmp_path / "toy.net", content)
    run(tmp_path, epochs=2, network="toy.net")
    first, second = (line["seconds"] for line in read_json_lines(tmp_path / "metrics.jsonl"))
    assert first > 100 > second


def test_an_epoch_that_is_shorter_now_starts_anew(tmp_path, capsys):
    interrupted(tmp_path)
    task = ToyTask(iterations=1)
    run(tmp_path, task, epochs=1, network="toy.net")
    assert "The epoch is shorter with these options" in capsys.readouterr().out
    assert task.epochs_begun == 1


def test_an_interrupted_epoch_of_a_whole_schedule_keeps_its_pictures(tmp_path):
    interrupted(tmp_path)
    task = ToyTask()
    run(tmp_path, task, epochs=1, network="toy.net")
    assert task.epochs_begun == 0


def test_a_run_that_is_stopped_as_it_ends_does_not_say_that_it_could_go_on(tmp_path, capsys):
    content = interrupted(tmp_path, after=4, epochs=1)
    assert content["resume"]["position"]["epoch"] == 2
    assert "Stopped by" not in capsys.readouterr().out
    interrupted(tmp_path, after=4, epochs=2)
    assert "Stopped by SIGTERM: saved" in capsys.readouterr().out
