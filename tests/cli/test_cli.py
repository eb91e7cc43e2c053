"""Every script has the Lua program's flags with their defaults, and answers --help at once."""

import importlib.util
import json

import click
import pytest

from eyescream_py.cli.main import main
from scripts.flag_table import page
from tests.commands import ROOT, run
from tests.golden_data import GOLDEN

SPEC = {k: v for k, v in json.loads((GOLDEN / "cli.json").read_text()).items() if k != "comment"}


def command_of(script: str) -> click.Command:
    spec = importlib.util.spec_from_file_location("script_under_test", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return next(v for v in vars(module).values() if isinstance(v, click.Command))


@pytest.mark.parametrize("script", SPEC)
def test_flags_and_defaults_are_luas(script):
    options = {name: p for p in command_of(script).params for name in p.opts}
    for names, default in SPEC[script].items():
        for name in names.split(","):
            option = options[name]
            if default == "required":
                assert option.required, name
            elif default == "flag":
                assert option.is_flag, name
            else:
                value = option.default() if callable(option.default) else option.default
                assert ("" if value is None else value) == default, name


@pytest.mark.parametrize("script", SPEC)
def test_every_option_has_help(script):
    for option in command_of(script).params:
        assert option.help, option.name


def commands(group: click.Group, context: click.Context):
    """All of them, in groups of groups too."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = commands(command, context) if isinstance(command, click.Group) else [command]
        yield from inner


def test_help_says_what_an_argument_is_where_it_is_left_out():
    optional = [
        (command, param)
        for command in commands(main, click.Context(main))
        for param in command.params
        if isinstance(param, click.Argument) and isinstance(param.default, str)
    ]
    assert len(optional) >= 2
    for command, param in optional:
        assert f"default: {param.default}" in " ".join(command.help.split()), command.name


@pytest.mark.parametrize("script", SPEC)
def test_help_loads_no_torch(script):
    code = (
        "import sys, runpy\n"
        f"sys.argv = [{script!r}, '--help']\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = run("-c", code)
    assert "--help" in done.stdout


def test_docs_list_the_flags_as_they_are():
    assert (ROOT / "docs" / "flags.md").read_text() == page()
