"""Commands that are quoted for people, run from where they stand."""

import os
import shlex
import subprocess
import sys

import pytest

from eyescream_py.system import places
from eyescream_py.system.places import as_module, as_script
from tests.commands import ROOT


def elsewhere(command: str, folder) -> str:
    """The help of a quoted command, typed into a shell in `folder` by this Python."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    typed = command.replace("python ", f"{shlex.quote(sys.executable)} ") + " --help"
    done = subprocess.run(
        ["/bin/sh", "-c", typed], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("quoted", [lambda: as_module("torch7"), lambda: as_script("train_c2f")])
def test_a_quoted_command_works_from_the_checkout_and_from_elsewhere(quoted, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "Usage:" in elsewhere(quoted(), ROOT)
    assert str(ROOT) not in quoted()
    monkeypatch.chdir(tmp_path)
    assert "Usage:" in elsewhere(quoted(), tmp_path)


def test_names_of_quoted_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert as_module() == "python -m eyescream_py"
    assert as_module("mln") == "python -m eyescream_py.mln"
    assert as_script("dataset/generate_dataset") == "python dataset/generate_dataset.py"
    monkeypatch.setattr(places, "_CHECKOUT", tmp_path)  # as where it is installed
    assert as_module("mln") == "python -m eyescream_py.mln"
    assert as_script("dataset/generate_dataset") == "eyescream generate-dataset"
    (tmp_path / "train.py").touch()
    assert as_module("mln") == f"PYTHONPATH={tmp_path} python -m eyescream_py.mln"
    assert as_script("train") == f"python {tmp_path}/train.py"


def test_in_a_folder_that_was_removed_they_are_quoted_in_full(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert as_script("train") == f"python {shlex.quote(str(ROOT / 'train.py'))}"


def test_the_own_cache_is_never_below_the_present_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert places.own_cache() == tmp_path / ".cache" / "eyescream_py"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert places.own_cache() == tmp_path / "x" / "eyescream_py"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(OSError, match="no home folder"):
        places.own_cache()
