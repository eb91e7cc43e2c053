"""Disks that are full for a while or for ever, and folders removed in mid-run: all four siblings do
as the main trainers do.
"""

import errno
import os
import shutil
from pathlib import Path

import pytest

from eyescream_py.system import files
from tests.siblings import SIBLINGS, checkpoints, train

SAVES = 3  # of a run: after the batches 2, 4 and 6


def at_each_save(monkeypatch, name, action):
    """Call `action(number from 1)` whenever a checkpoint is about to take its name."""
    replace, pattern = os.replace, Path(SIBLINGS[name].checkpoint).name
    seen = []

    def watched(source, target):
        if Path(target).match(pattern):
            seen.append(target)
            action(len(seen))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)


def full(numbers):
    def action(number):
        if number in numbers:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return action


def assert_goes_on(name, data, run):
    """The newest checkpoint is whole: a training continues it."""
    newest = checkpoints(name, run)[-1]
    done = train(name, data, run, *SIBLINGS[name].goes_on(newest))
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_save_that_fails_is_made_up_for(name, sibling_data, tmp_path, monkeypatch):
    at_each_save(monkeypatch, name, full([1, 2]))
    done = train(name, sibling_data, tmp_path)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.output.count("Could not save") == 2
    assert "No space left on device; training goes on and tries again." in done.output
    assert len(checkpoints(name, tmp_path)) == 1
    assert not [path for path in tmp_path.rglob(".*") if path.suffix == ".tmp"]
    monkeypatch.undo()
    assert_goes_on(name, sibling_data, tmp_path)


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_last_save_that_fails_is_an_error(name, sibling_data, tmp_path, monkeypatch):
    at_each_save(monkeypatch, name, full(range(2, 99)))
    done = train(name, sibling_data, tmp_path)
    assert done.exit_code == 2, (done.output, done.exception)
    assert "Could not save" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: could not save ")
    assert line.endswith(f"No space left on device; free the place or give another "
                         f"{SIBLINGS[name].save}")  # fmt: skip
    assert len(checkpoints(name, tmp_path)) == 1


@pytest.mark.parametrize("name", SIBLINGS)
def test_what_never_could_be_saved_ends_the_run(name, sibling_data, tmp_path, monkeypatch):
    at_each_save(monkeypatch, name, full(range(1, 99)))
    done = train(name, sibling_data, tmp_path)
    assert done.exit_code == 2
    assert done.stdout.count("Could not save") == SAVES - 1
    assert "could not save" in done.stderr


@pytest.mark.parametrize("name", SIBLINGS)
def test_pictures_that_cannot_be_written_stop_no_training(
    name, sibling_data, tmp_path, monkeypatch
):
    replace = os.replace

    def watched(source, target):
        if Path(target).suffix in (".png", ".html", ".mat"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)
    done = train(name, sibling_data, tmp_path)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.output.count("No space left on device; training goes on") >= SAVES
    assert_goes_on(name, sibling_data, tmp_path)


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_folder_removed_in_mid_run_is_made_again(name, sibling_data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    removed = []

    def remove_once(number):
        if number == 2:
            removed.append(shutil.rmtree(run))

    at_each_save(monkeypatch, name, remove_once)
    done = train(name, sibling_data, run)
    monkeypatch.undo()
    assert removed
    assert done.exit_code == 0, (done.output, done.exception)
    assert "was removed" in done.output
    assert_goes_on(name, sibling_data, run)
