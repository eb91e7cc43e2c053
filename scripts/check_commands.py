"""Check the commands that the documents show: `python -m scripts.check_commands [--run [PAGE]...]`.

Every `python`, `torchrun`, `eyescream` and `make` line of a code block, and every such piece of
inline code, is parsed as its program would: the program exists, its flags do, and their values are
of their kind. With `--run` the code blocks are also run (`scripts.run_commands`).
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from scripts.check_links import ROOT, pages
from scripts.run_commands import run_pages

_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:python|torchrun|eyescream|make) [^`]+)`")
_PROGRAMS = ("python", "torchrun", "eyescream", "make")
_PLACEHOLDER = re.compile(r"[A-Z]{1,}[A-Z_0-9]*|.*(?:\||\.\.\.|[<>$]).*")


def commands(text: str) -> list[str]:
    """The command lines of a page: of blocks with their continuations joined, and inline."""
    blocks = _BLOCK.findall(text) + ["\n".join(_INDENTED.findall(_BLOCK.sub("", text)))]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(piece.split()) for piece in _INLINE.findall(_BLOCK.sub("", text))]
    found = [line.strip() for line in lines if line.split()[:1] and line.split()[0] in _PROGRAMS]
    return found + inline


def problem(line: str) -> str:
    """What is wrong with a command line; empty where nothing is."""
    try:
        words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)
        program, *rest = [word for word in words if word != "..."]
        if program == "make":
            return _make_problem(rest)
        if program == "eyescream" or line.startswith("python -m eyescream_py "):
            rest = rest if program == "eyescream" else rest[2:]
            return _click_problem(importlib.import_module("eyescream_py.cli.main").main, rest)
        if program == "torchrun":
            rest = [word for word in rest if not word.startswith("--nproc_per_node")]
        return _python_problem(rest)
    except (ValueError, ImportError, click.ClickException) as error:
        return getattr(error, "message", "") or str(error)


def _make_problem(words: list[str]) -> str:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = [word for word in words if "=" not in word and word not in targets]
    return f"no such target: {missing}" if missing else ""


def _python_problem(words: list[str]) -> str:
    if words[0] in ("-c", "SCRIPT"):
        return ""
    name, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if name in ("venv", "pytest", "http.server"):  # not ours
        return ""
    path = ROOT / (name if words[0] != "-m" else name.replace(".", "/") + ".py")
    package = ROOT / name.replace(".", "/") / "__main__.py"
    path = path if path.is_file() else package
    if not path.is_file():
        return f"there is no {name}"
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    command = getattr(importlib.import_module(module), "main", None)
    if isinstance(command, click.Command):
        return _click_problem(command, rest)
    source = path.read_text(encoding="utf-8")  # programs that read their flags in another way
    flags = [word.split("=")[0] for word in rest if word.startswith("--")]
    missing = [flag for flag in flags if f'"{flag}"' not in source]
    return f"no such option: {missing}" if missing else ""


def _click_problem(command: click.Command, words: list[str]) -> str:
    """Parse `words`, going down into groups; raises click's own error for a wrong flag or value."""
    if isinstance(command, click.Group) and any(word.startswith("--run") for word in words[:1]):
        command = importlib.import_module("eyescream_py.srez.__main__").main  # eyescream srez --run
    context = click.Context(command)
    if isinstance(command, click.Group):
        values, rest, _ = command.make_parser(context).parse_args(list(words))
        _check_values(context, values)
        if not rest:
            return ""
        below = command.get_command(context, rest[0])
        return _click_problem(below, rest[1:]) if below else f"no such command: {rest[0]}"
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    _check_values(context, values)
    return f"unexpected extra argument: {rest}" if rest else ""


def _check_values(context: click.Context, values: dict[str, object]) -> None:
    """Numbers and choices are what their options take; paths, names and placeholders pass."""
    kinds = (click.Choice, click.types.IntParamType, click.types.FloatParamType)
    for parameter in context.command.params:
        value = values.get(parameter.name or "")
        if not isinstance(parameter.type, kinds) or not isinstance(value, str):
            continue
        if not _PLACEHOLDER.fullmatch(value):
            kind: Any = parameter.type
            kind.convert(value, parameter, context)


def page_problems(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = [(line, problem(line)) for line in commands(text)]
    return [f"{page.name}: {line}: {wrong}" for line, wrong in found if wrong]


def main(arguments: list[str]) -> int:
    checked = pages()
    if arguments[:1] == ["--run"]:
        named = [ROOT / name for name in arguments[1:]]
        return run_pages(named or checked)
    problems = [line for page in checked for line in page_problems(page)]
    total = sum(len(commands(page.read_text(encoding="utf-8"))) for page in checked)
    print("\n".join(problems) or f"All {total} commands of {len(checked)} pages parse.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
