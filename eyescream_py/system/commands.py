"""What every command line of the package does around its work.

`@click.command(cls=Command)` and `@click.group(cls=Group)`, whose commands are of the same kind:
lines that cannot be written never end a command, and what the system refuses is one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from eyescream_py.system.device import memory_in_words
from eyescream_py.system.errors import UserError, remedy_of, why
from eyescream_py.system.folders import none_left_empty
from eyescream_py.system.interrupts import heard
from eyescream_py.system.numbers import bounded
from eyescream_py.system.places import TYPED
from eyescream_py.system.voice import make_unfailing, printable


class Command(click.Command):
    """A command whose lines, its help and errors included, never end it; its plain integers are
    those that checkpoints can hold. `remedy` is what to do where the memory does not suffice."""

    remedy = "give smaller numbers or pictures"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            param.type = bounded(param.type)

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)

    def invoke(self, context: click.Context) -> Any:
        memory = memory_in_words(self.remedy)
        with heard(), none_left_empty(context), system_in_words(context), memory:
            return super().invoke(context)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)


@contextlib.contextmanager
def system_in_words(context: click.Context) -> Iterator[None]:
    """What the system refuses (a full disk, rights, no folder for temporary files) as one line,
    which names the flag of `context` that led there."""
    try:
        yield
    except OSError as error:
        raise UserError(_in_words(error, context)) from error


def _in_words(error: OSError, context: click.Context) -> str:
    if "temporary directory" in str(error.strerror):  # Python's words where /tmp and others fail
        return "no folder for temporary files can be written; set TMPDIR to one that can"
    name = printable(error.filename) if error.filename else ""
    flag = _flag_of(str(error.filename), context) if name else ""
    where = ": ".join(part for part in (flag, "" if flag.endswith(f"={name}") else name) if part)
    remedy = f"; {remedy_of(error)}" if remedy_of(error) else ""
    return f"{where}: {why(error)}{remedy}" if where else f"{why(error)}{remedy}"


def _flag_of(path: str, context: click.Context) -> str:
    """`--flag=value` of the innermost path that a person typed and `path` is or lies in; "" for
    none."""
    around = (Path(path), *Path(path).parents)
    found: dict[int, str] = {}  # by how far `path` lies below
    for param in context.command.params:
        name = param.name or ""
        value = context.params.get(name)
        if (
            isinstance(param, click.Option)
            and context.get_parameter_source(name) in TYPED
            and isinstance(value, str)
            and value
            and Path(value) in around
        ):
            flag = f"{max(param.opts, key=len)}={printable(value)}"
            found.setdefault(around.index(Path(value)), flag)
    return found[min(found)] if found else ""
