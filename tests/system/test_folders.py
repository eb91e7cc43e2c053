"""What a refused command made and did not use is gone; what it wrote stays."""

import errno
import os

import click
import pytest
from click.testing import CliRunner

from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.folders import make_folder, new_folder
from eyescream_py.system.places import PATH


@click.command(cls=Command)
@click.option("--out", type=PATH, required=True)
@click.option("--fault")
@click.option("--write", is_flag=True)
@click.option("--within", type=PATH)
def make(out, fault, write, within):
    make_folder(f"{out}/a/b")
    make_folder(f"{out}/a/c")
    if write:
        open(f"{out}/a/c/kept", "w").close()
    if fault == "user":
        raise UserError("no")
    if fault == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{out}/a/b/x")
    if fault == "stop":
        raise SystemExit(0)


def run(*words):
    return CliRunner().invoke(make, [str(word) for word in words])


@pytest.mark.parametrize(("fault", "code"), [("user", 2), ("full", 2), ("stop", 0)])
def test_an_end_without_work_leaves_no_folder(fault, code, tmp_path):
    assert run(f"--out={tmp_path}/new/out", f"--fault={fault}").exit_code == code
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_or_are_used_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    run(f"--out={tmp_path}/mine", "--fault=user")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    run(f"--out={tmp_path}/mine", "--fault=user", "--write")
    assert sorted(p.name for p in (tmp_path / "mine").rglob("*")) == ["a", "c", "kept"]


def test_work_that_is_done_keeps_all_its_folders(tmp_path):
    assert run(f"--out={tmp_path}/out").exit_code == 0
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "c", "out"]


def test_a_folder_made_outside_of_commands_stays(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    make_folder(tmp_path / "a" / "b")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a" / "b", new=True)


@pytest.mark.parametrize("below", ["", "/sub"])
def test_a_file_in_a_folders_place_is_named_with_its_flag(below, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = run(f"--out={tmp_path}/file{below}")
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: --out={tmp_path}/file{below}: ")
    assert done.output.endswith(": a file stands where a folder is needed\n")


def test_a_full_disk_is_named_with_flag_file_and_remedy(tmp_path):
    done = run(f"--out={tmp_path}/o", "--fault=full")
    where = f"--out={tmp_path}/o: {tmp_path}/o/a/b/x"
    assert done.output == f"Error: {where}: No space left on device; free space there\n"


def test_of_flags_whose_folders_hold_one_another_the_inner_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for outer, inner in (("--out=o", "--within=o/a/b"), ("--within=.", "--out=o")):
        done = run(outer, inner, "--fault=full")
        assert done.output.startswith(f"Error: {inner}: o/a/b/x: No space")


def test_a_folder_s_link_to_nowhere_is_no_file(tmp_path):
    """As to a disk that is not mounted."""
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(OSError, match="run") as error:
            make_folder(folder)
        assert why(error.value) == "a link to a place that is not there"


def test_a_new_folder_may_be_there_but_holds_nothing(tmp_path):
    (tmp_path / "here").mkdir()
    assert new_folder(tmp_path / "here") == tmp_path / "here"
    assert new_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "here" / "mine").touch()
    with pytest.raises(UserError, match=r"here: is not empty"):
        new_folder(tmp_path / "here")
    with pytest.raises(UserError, match=r"mine: a file stands where a folder is needed"):
        new_folder(tmp_path / "here" / "mine")
