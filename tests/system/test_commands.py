import os
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner

from eyescream_py.system import commands
from eyescream_py.system.commands import Command, Group
from eyescream_py.system.errors import UserError
from eyescream_py.system.places import PATH
from tests.commands import ROOT


@click.group(cls=Group)
def group():
    pass


@group.command()
@click.argument("path")
def inner(path):
    open(path).close()


@click.command(cls=Command)
@click.argument("path")
def alone(path):
    open(path).close()


@pytest.mark.parametrize(("command", "first"), [(group, ["inner"]), (alone, [])])
def test_what_the_system_refuses_is_one_line(command, first, tmp_path):
    done = CliRunner().invoke(command, [*first, str(tmp_path / "none\x1b")])
    assert done.exit_code == 2
    assert done.output == f"Error: {tmp_path}/none\\x1b: No such file or directory\n"


def test_too_little_memory_for_a_library_is_one_line():
    """As glibc puts it under `ulimit -v 300000`."""

    @click.command(cls=Command)
    def importing():
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    done = CliRunner().invoke(importing, [])
    assert done.exit_code == 2
    assert done.output.startswith("Error: there is not enough memory to load libtorch_cpu.so; free")


def test_too_little_memory_is_one_line():
    @click.command(cls=Command)
    def greedy():
        np.empty(2**62, np.uint8)

    done = CliRunner().invoke(greedy, [])
    assert done.exit_code == 2
    assert done.output == "Error: there is not enough memory: give smaller numbers or pictures\n"


def test_too_little_memory_for_onednn_is_one_line():
    """As torch puts it under `ulimit -v 1000000`."""

    @click.command(cls=Command)
    def convolving():
        raise RuntimeError("could not create a primitive")

    done = CliRunner().invoke(convolving, [])
    assert done.exit_code == 2
    assert done.output == "Error: there is not enough memory: give smaller numbers or pictures\n"


@click.command(cls=Command)
@click.option("-s", "--save")
@click.option("--scale")
@click.option("--gray", is_flag=True)
def old_habits(save, scale, gray):
    click.echo(save)


@pytest.mark.parametrize(
    ("args", "says"),
    [(["-save", "x"], "No such option '-save'. Did you mean '--save'?"),
     (["-save=x"], "No such option '-save'. Did you mean '--save'?"),
     (["-gray"], "No such option '-gray'. Did you mean '--gray'?"),
     (["-help"], "No such option '-help'. Did you mean '--help'?"),
     (["-x"], "No such option '-x'."),
     (["-scale=32"], "No such option '-scale'. Did you mean '--scale'?"),
     (["-x", "-save", "x"], "No such option '-save'. Did you mean '--save'?"),
     (["--gray", "true"], "Got unexpected extra argument (true); --gray takes no value"),
     (["--gray", "--save", "x", "true"], "Got unexpected extra argument (true)")],
)  # fmt: skip
def test_flags_as_torch_has_them_are_told_from_ours(args, says):
    done = CliRunner().invoke(old_habits, args)
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == f"Error: {says}"


def test_a_letter_keeps_its_value():
    for args in (["-s", "x"], ["-sx"], ["-s=x"]):
        assert CliRunner().invoke(old_habits, args).output.strip("=\n") == "x"


@click.command(cls=Command)
@click.option("--load", type=PATH)
@click.option("--dataset", type=PATH, multiple=True)
@click.option("--out", type=PATH, default="somewhere")
@click.option("--word", default="")
@click.argument("says")
def refusing(says, **places):
    raise UserError(says)


@pytest.mark.parametrize(
    ("args", "says", "line"),
    [(["--load=a.pth"], "a.pth: is damaged", "--load=a.pth: is damaged"),
     (["--load=./a"], "a: is damaged", "--load=a: is damaged"),
     (["--load", "x: y"], "x: y: cut short", "--load=x: y: cut short"),
     (["--load=a\x1b"], "a\x1b: cut short", r"--load=a\x1b: cut short"),
     (["--load=run"], "run/a.pth: cut short", "--load=run: run/a.pth: cut short"),
     (["--load=run"], "running: cut short", "running: cut short"),
     (["--load=run", "--out=run/a"], "run/a/b: is full", "--out=run/a: run/a/b: is full"),
     (["--dataset=a", "--dataset=b"], "b: no pictures", "--dataset=b: no pictures"),
     (["--load=."], "epoch 3: no numbers", "epoch 3: no numbers"),
     (["--load=a"], "a step of it failed", "a step of it failed"),
     (["--word=a"], "a: what", "a: what"),
     (["--word=0"], "word 0: give 1", "--word 0: give 1"),
     (["--word=0"], "x.txt and the flags: word 0: give 1", "--word 0: give 1"),
     ([], "x.txt: word 0: give 1", "x.txt: word 0: give 1"),
     ([], "somewhere: is full", "somewhere: is full"),
     (["--load=a", "--"], "--load=a: gone", "--load=a: gone")],
)  # fmt: skip
def test_an_error_about_a_file_names_the_flag_that_led_to_it(args, says, line):
    done = CliRunner().invoke(refusing, [*args, says])
    assert (done.exit_code, done.stderr) == (2, f"Error: {line}\n")


@click.command(cls=Command)
@click.option("--out", type=PATH)
@click.argument("path")
def opening(path, out):
    open(path).close()


@pytest.mark.parametrize(
    ("typed", "path", "named"),
    [("a/b", "a/b", "--out=a/b"), ("a", "a/b/c", "--out=a: a/b/c"), ("a/b", "a/b01.mat",
     "--out=a/b: a/b01.mat"), ("a/b", "a", "--out=a/b: a"), ("a/b", "a/bad", "a/bad"),
     (".", "a/b", "--out=.: a/b"), ("a/b", ".", "--out=a/b: ."), ("a", "b", "b")],
)  # fmt: skip
def test_what_the_system_refuses_names_the_flag(typed, path, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(opening, [f"--out={typed}", path])
    assert done.stderr.startswith(f"Error: {named}: ")


def test_nothing_is_done_in_a_folder_that_was_removed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = CliRunner().invoke(alone, ["x"])
    assert done.exit_code == 2
    assert "the folder that this is run in was removed" in done.output
    assert CliRunner().invoke(alone, ["--help"]).exit_code == 0


def test_matplotlib_says_nothing_of_a_home_that_takes_no_cache(tmp_path):
    """In a process of its own: it looks for its folder once."""
    (tmp_path / "file").touch()
    code = (
        "import click; from eyescream_py.system.commands import Command\n"
        "@click.command(cls=Command)\ndef main():\n from matplotlib.figure import Figure\n"
        "main()"
    )
    environment = {**os.environ, "HOME": f"{tmp_path}/file", "XDG_CONFIG_HOME": f"{tmp_path}/file"}
    environment.pop("MPLCONFIGDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("load", "typed", "expected"),
    [
        ("9.00 0.00 0.00 9/345 678", {}, {"GOMP_SPINCOUNT": "2000"}),
        ("7.90 99.0 99.0 99/345 678", {}, {}),  # it began a moment ago
        ("99.0 99.0 99.0 8/345 678", {}, {}),  # it ended a moment ago
        ("99.0 0.0 0.0 99/345 1", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ("99.0 0.0 0.0 99/345 1", {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ("much", {}, {}),
        (None, {}, {}),  # a system that does not tell
    ],
)
@pytest.mark.parametrize(("command", "first"), [(group, ["inner"]), (alone, [])])
def test_openmp_waits_asleep_where_many_want_the_processors(
    load, typed, expected, command, first, monkeypatch, tmp_path
):
    if load:
        (tmp_path / "loads").write_text(load + "\n")
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    for name in names:  # set and deleted, so that what the command sets goes again
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in typed.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(commands, "LOADS", tmp_path / "loads")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    (tmp_path / "a").touch()
    assert not CliRunner().invoke(command, [*first, str(tmp_path / "a")]).exit_code
    assert {name: os.environ[name] for name in names if name in os.environ} == expected


def test_torch_is_not_there_before_its_threads_know_how_to_wait():
    """OpenMP reads the variable when torch loads it."""
    code = (
        "import sys\n"
        "from eyescream_py.system import commands\n"
        "wait = commands._wait_asleep_where_busy\n"
        "def seen(): print('torch' in sys.modules); wait()\n"
        "commands._wait_asleep_where_busy = seen\n"
        "from eyescream_py.cli.{} import main\n"
        "main(['--help'], standalone_mode=False)\n"
    )
    for script in ("train", "train_c2f", "train_autoencoder", "train_denoiser", "sample"):
        told = subprocess.run(
            [sys.executable, "-c", code.replace("{}", script)], cwd=ROOT, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        assert told.stdout.startswith("False\n")


@pytest.mark.parametrize("kind", [click.IntRange(1), click.IntRange(1, 9), click.INT])
def test_a_word_for_a_number_is_told_without_click_s_ranges(kind):
    command = Command("c", params=[click.Option(["--size"], type=kind)])
    done = CliRunner().invoke(command, ["--size=16px"])
    assert "Error: Invalid value for '--size': '16px' is not a valid integer.\n" in done.output


@pytest.mark.parametrize("first", [[], ["inner"]])
def test_a_command_draws_without_the_backend_of_a_notebook(first):
    program = """
import click
from eyescream_py.system.commands import Command, Group
@click.command(cls=Command)
def inner():
    from matplotlib.figure import Figure
    print(type(Figure()).__name__)
outer = Group("outer", commands={"inner": inner})
import sys
(outer if sys.argv[1:] else inner)()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *first], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "module://none_of_ours.backend_inline"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "Figure\n", "")
