"""Every option of every command of the package: no number that is none gets in."""

import ast
import contextlib
import importlib
import pkgutil
from pathlib import Path

import click
import pytest

import eyescream_py
from eyescream_py.plots.client import PlotFlags
from eyescream_py.system.commands import Command, Group

# no commands are in them, and Triton comes only with a torch for CUDA
BODIES = ("convolutions", "folds", "kernels", "slopes")
TRITONS = {"eyescream_py.system.gpu_kernels"} | {f"eyescream_py.system.triton_{x}" for x in BODIES}


def all_commands() -> dict[str, click.Command]:
    """Of every module; a group's commands with it."""
    found = {}
    for module in pkgutil.walk_packages(eyescream_py.__path__, "eyescream_py."):
        if module.name in TRITONS:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, click.Command):
                found[f"{module.name}.{name}"] = value
    return found


def number_options() -> dict[str, tuple[click.Parameter, click.ParamType]]:
    """Those that take a text for a float: "module.command --flag" -> the option and its type."""
    options = {}
    for name, command in all_commands().items():
        for option in command.params:
            kinds = option.type.types if isinstance(option.type, click.Tuple) else [option.type]
            for kind in kinds:
                if isinstance(kind, click.types.FloatParamType) or kind.name.startswith("float"):
                    options[f"{name} {option.opts[0]}"] = (option, kind)
    return options


NUMBERS = number_options()


def test_the_sweep_sees_the_commands():
    assert len(all_commands()) > 30
    assert len(NUMBERS) > 100
    for part in ("cli.train.main --G_ema", "srez.bench.main --minutes", "mln", "ganless_hd"):
        assert any(part in name for name in NUMBERS)


@pytest.mark.parametrize("typed", ["nan", "-nan", "inf", "-inf", "1e400", "1e39", "9" * 400])
def test_no_float_option_takes_what_is_no_number(typed):
    taken = []
    for name, (option, kind) in NUMBERS.items():
        with contextlib.suppress(click.BadParameter):
            kind.convert(typed, option, None)
            taken.append(name)
    assert taken == []


def test_every_command_prints_without_failing_and_refuses_in_one_line():
    """All but torch7's own, which is a package that imports nothing of ours."""
    plain = [
        name
        for name, command in all_commands().items()
        if not isinstance(command, Command | Group) and ".torch7." not in name
    ]
    assert plain == []


@pytest.mark.parametrize("typed", ["1e9", "9" * 20, "-" + "9" * 400, "9" * 5000, "\u00b2", "nan"])
def test_no_integer_option_takes_what_no_checkpoint_holds(typed):
    taken, seen = [], 0
    for name, command in all_commands().items():
        for option in command.params:
            if option.type.name.startswith("integer"):
                seen += 1
                with contextlib.suppress(click.BadParameter):
                    option.type.convert(typed, option, click.Context(command))
                    taken.append(f"{name} {option.opts[0]}")
    assert seen > 150
    assert taken == []


# Texts that are no paths: what is not here has to be one.
TEXTS = {
    "--visdom_server", "--visdom_env", "--server", "--env", "--plot_server", "--plot-server",
    "--rows", "--SessionNameBase", "--kGrid", "--Init", "--EchoTimes", "--on_finish", "--input",
    "--objectives", "--architectures", "--norms", "--url", "--checksum", "--D_augment",
}  # fmt: skip
OTHER_KINDS = ("boolean", "integer", "float", "choice")


def path_parameters() -> dict[str, tuple[click.Command, click.Parameter]]:
    """Options and arguments of every command: "module.command --flag" -> both."""
    found = {}
    for name, command in all_commands().items():
        for param in command.params:
            inside = ".torch7." in name and param.opts[0] == "--network"  # keys within a file
            other = param.type.name.split()[0] in OTHER_KINDS or param.opts[0] in TEXTS
            if not (other or inside):
                found[f"{name} {param.opts[0]}"] = command, param
    return found


def typed_as(command: click.Command, param: click.Parameter, text: str) -> click.Context:
    """What a command makes of `text` at one place, with good values at its other arguments."""
    if isinstance(param, click.Option):
        return command.make_context("x", [f"{param.opts[-1]}", text])
    good = {"integer range": "16", "float": "1", "choice": "x"}
    words = [
        text if other is param else good.get(other.type.name, "x")
        for other in command.params
        if isinstance(other, click.Argument)
    ]
    return command.make_context("x", words)


def test_home_is_the_home_folder_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    places = path_parameters()
    assert len(places) > 160
    left = [
        name
        for name, (command, param) in places.items()
        if param.type.convert("~/x", param, click.Context(command)) != str(tmp_path / "x")
    ]
    assert left == []


def test_no_path_may_be_empty():
    said = dict.fromkeys(path_parameters(), "taken")
    for name, (command, param) in path_parameters().items():
        try:
            typed_as(command, param, "")
        except click.BadParameter as error:
            hint = param.get_error_hint(click.Context(command))
            said[name] = error.format_message().replace(hint, "FLAG")
    unlike = {
        name: words for name, words in said.items() if "FLAG: give a path; it is" not in words
    }
    # the decoded pictures can be kept nowhere
    assert unlike == {"eyescream_py.srez.__main__.main --cache_dir": "taken"}


def test_the_flags_that_errors_about_plots_name_are_those_of_the_command():
    """Each sibling's folder has one call, and its names are options of a command there."""
    options: dict[str, set[str]] = {}
    for name, command in all_commands().items():
        found = (opt for param in command.params for opt in (*param.opts, *param.secondary_opts))
        options.setdefault(name.split(".")[1], set()).update(found)
    named: dict[str, tuple[str, ...]] = {}
    for path in Path(eyescream_py.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PlotFlags":
                flags = PlotFlags(*(ast.literal_eval(word) for word in node.args))
                room = "cli" if path.parent.name == "plots" else path.parent.name
                named[room] = (flags.server, flags.port, flags.off)
    assert named.keys() == {"cli", "srez", "image_model", "ganless_hd", "mln"}
    assert [room for room, names in named.items() if not set(names) <= options[room]] == []
