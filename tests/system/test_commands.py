import click
import numpy as np
import pytest
from click.testing import CliRunner

from eyescream_py.system.commands import Command, Group


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


def test_too_little_memory_is_one_line():
    @click.command(cls=Command)
    def greedy():
        np.empty(2**62, np.uint8)

    done = CliRunner().invoke(greedy, [])
    assert done.exit_code == 2
    assert done.output == "Error: there is not enough memory: give smaller numbers or pictures\n"
