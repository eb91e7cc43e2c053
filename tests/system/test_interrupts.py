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


def interrupted(program, folder):
    (folder / "click.py").write_text(INTERRUPTING)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *program.split(), "--help"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_while_it_is_imported_a_program_ends_without_a_word(program, tmp_path):
    done = interrupted(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


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
