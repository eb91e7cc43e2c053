"""What every command line of the package does around its work.

`@click.command(cls=Command)` and `@click.group(cls=Group)`, whose commands are of the same kind:
lines that cannot be written never end a command, and what the system refuses is one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from eyescream_py.system.errors import UserError
from eyescream_py.system.numbers import bounded
from eyescream_py.system.voice import make_unfailing, printable


class Command(click.Command):
    """A command whose lines, its help and errors included, never end it; its plain integers are
    those that checkpoints can hold."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            param.type = bounded(param.type)

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)

    def invoke(self, context: click.Context) -> Any:
        with system_in_words():
            return super().invoke(context)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)


@contextlib.contextmanager
def system_in_words() -> Iterator[None]:
    """What the system refuses (a full disk, rights, no folder for temporary files) as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(_in_words(error)) from error


def _in_words(error: OSError) -> str:
    if "temporary directory" in str(error.strerror):  # Python's words where /tmp and others fail
        return "no folder for temporary files can be written; set TMPDIR to one that can"
    where = f"{printable(error.filename)}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
