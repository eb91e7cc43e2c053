"""Ctrl-C while a program is still being imported, while it works, and when it is done."""

import os
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from eyescream_py.system.commands import Command
from eyescream_py.system.interrupts import CODE, quiet
from tests.commands import ROOT

PROGRAMS = [
    *(f"{name}.py" for name in ("train", "train_c2f", "train_autoencoder", "train_denoiser")),
    "sample.py", "dataset/generate_dataset.py", "-m eyescream_py", "-m eyescream_py.cli.evaluate",
    *(f"-m eyescream_py.{room}" for room in ("torch7", "image_model", "ganless_hd", "mln")),
    *(f"-m eyescream_py.srez{part}" for part in ("", ".bench", ".make_data", ".download_data")),
]  # fmt: skip
# stands in for the first module of others' that a program imports
INTERRUPTING = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"


def started(program, folder, click_holds):
    (folder / "click.py").write_text(click_holds)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *program.split(), "--help"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": paths},
        # a shell's background jobs ignore Ctrl-C, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_while_it_is_imported_a_program_ends_without_a_word(program, tmp_path):
    done = started(program, tmp_path, INTERRUPTING)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


# torch7 stands alone: it imports nothing of the package
@pytest.mark.parametrize("program", [name for name in PROGRAMS if "torch7" not in name])
def test_a_program_without_its_packages_says_so_in_one_line(program, tmp_path):
    done = started(program, tmp_path, "import no_such_package.at_all\n")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "lacks the package no_such_package: pip install" in done.stderr


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name.endswith(".py")])
def test_an_isolated_python_finds_the_package_beside_the_script(program):
    done = subprocess.run(
        [sys.executable, "-I", program, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_any_other_error_keeps_its_traceback(tmp_path):
    program = "from eyescream_py.system.interrupts import quiet; quiet(); import eyescream_py.none"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield lambda: signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_a_command_that_works_puts_things_in_order_and_says_so(handler, tmp_path):
    @click.command(cls=Command)
    def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            (tmp_path / "tidy").touch()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    quiet()
    assert handler() is signal.SIG_DFL
    done = CliRunner().invoke(main)
    assert done.exit_code == CODE == 130
    assert done.stderr == "Stopped by Ctrl-C.\n"
    assert (tmp_path / "tidy").exists()
    assert handler() is signal.SIG_DFL  # quiet again while the interpreter ends


def test_what_is_ignored_stays_ignored_and_a_library_is_left_alone(handler):
    @click.command(cls=Command)
    def main():
        click.echo(handler())

    for one in (signal.SIG_IGN, signal.default_int_handler):
        signal.signal(signal.SIGINT, one)
        assert CliRunner().invoke(main).output == f"{one}\n"
        assert handler() is one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet()
    assert handler() is signal.SIG_IGN
