"""The types of options: numbers and paths."""

import os

import click
import pytest
from click.testing import CliRunner

from eyescream_py.system.numbers import COUNT, FINITE, MOMENTUM, SEED, SHARE
from eyescream_py.system.places import PATH


@click.command()
@click.option("--number", type=FINITE, default=0.0)
@click.option("--momentum", type=MOMENTUM, default=0.0)
@click.option("--share", type=SHARE, default=1.0)
@click.option("--seed", type=SEED, default=0)
@click.option("--count", type=COUNT, default=1)
@click.option("--place", type=PATH, default="")
def command(**values):
    click.echo(repr(values))


@pytest.mark.parametrize(
    "typed",
    ["--number=nan", "--number=inf", "--number=-inf", "--number=1e400", "--number=1e39",
     "--momentum=1", "--momentum=-0.1", "--share=1.01", "--share=nan", "--seed=-1",
     "--seed=1180591620717411303424", "--seed=" + "9" * 5000, "--count=0", "--count=1e9",
     "--count=4294967296", "--place="],
)  # fmt: skip
def test_refused_with_one_line_that_names_the_flag(typed):
    done = CliRunner().invoke(command, [typed])
    assert done.exit_code == 2
    assert typed.partition("=")[0] in done.output.splitlines()[-1]


def test_taken():
    done = CliRunner().invoke(
        command, ["--number=-3e38", "--share=1", "--seed=4611686018427387904"]
    )
    assert done.exit_code == 0, done.output


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/photos" in CliRunner().invoke(command, ["--place=~/photos"]).output
    assert "'place': ''" in CliRunner().invoke(command, []).output
    assert CliRunner().invoke(command, ["--place=~nobody-at-all/x"]).exit_code == 2
    assert os.path.expanduser("~") in CliRunner().invoke(command, ["--place", "~"]).output
