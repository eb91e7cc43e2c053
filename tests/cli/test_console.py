"""`eyescream`: one name for every command; and what commands print where nobody watches."""

import fcntl
import importlib
import os
import pty
import struct
import subprocess
import sys
import termios
import tomllib

import click
import pytest
from click.testing import CliRunner

from eyescream_py.cli.main import COMMANDS, main
from eyescream_py.system import interrupts
from tests.commands import ROOT, run


def test_the_installed_command_is_this_one(monkeypatch, capsys):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["eyescream"].partition(":")
    monkeypatch.setattr("sys.argv", ["eyescream", "--help"])
    monkeypatch.setattr(interrupts, "quiet", lambda: None)  # of this process
    with pytest.raises(SystemExit) as ended:
        getattr(importlib.reload(importlib.import_module(module)), name)()
    assert not ended.value.code
    said = CliRunner().invoke(main, ["--help"], prog_name="eyescream").output
    assert capsys.readouterr().out.split() == said.split()  # lines break where the window ends


def test_every_command_is_listed_and_answers():
    listing = CliRunner().invoke(main, ["--help"]).output
    for name, (_, text) in COMMANDS.items():
        assert name in listing
        assert text in " ".join(listing.split())
        assert isinstance(main.get_command(click.Context(main), name), click.Command)
        for called in (name, name.replace("-", "_")):  # as scripts and packages are called
            assert CliRunner().invoke(main, [called, "--help"]).exit_code == 0


def test_an_unknown_command_is_refused():
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2
    for typed, meant in (
        ("trian", "train"),
        ("train.py", "train"),
        ("dataset", "generate-dataset"),
    ):
        assert f"'{meant}'" in CliRunner().invoke(main, [typed]).output


def test_the_list_and_the_help_of_evaluate_load_no_torch():
    code = (
        "import sys; from eyescream_py.cli.main import main\n"
        "for words in (['--help'], *([c, '--help'] for c in ('train', 'evaluate', 'movie'))):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert "generate-dataset" in run("-c", code).stdout


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("srez train", "--train_time"),
        ("srez make-data", "--seed"),
        ("image-model make-data", "--unpaired"),
        ("ganless-hd train", "--resume"),
        ("mln train", "--wavelet"),
        ("torch7 convert", "--long-size"),
    ],
)
def test_siblings_answer_under_the_one_name(words, flag):
    done = CliRunner().invoke(main, [*words.split(), "--help"], prog_name="eyescream")
    assert done.exit_code == 0, done.output
    assert f"eyescream {words}" in done.output
    assert flag in done.output


def test_the_package_is_the_command():
    assert run("-m", "eyescream_py", "--help").stdout.startswith("Usage: python -m eyescream_py ")


BAR = (
    "import time; from eyescream_py.system.progress import Progress\n"
    "with Progress(30, 'things') as p:\n"
    "    for _ in range(30): p.update(1); time.sleep(0.02)\n"
)


def test_a_bar_is_drawn_on_a_terminal_without_colours():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", BAR], cwd=ROOT, stderr=theirs, env={**os.environ, "NO_COLOR": "1"}
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 4096):
                seen += chunk
        except OSError:  # how a terminal says that its program has ended
            pass
        assert process.wait() == 0
    os.close(ours)
    assert b"30/30" in seen
    assert b"\x1b[3" not in seen


def test_nothing_is_drawn_into_a_pipe():
    done = run("-c", BAR)
    assert (done.stdout, done.stderr) == ("", "")
