"""What every command line of the package does around its work: output that cannot fail.

`@click.command(cls=Command)` and `@click.group(cls=Group)`; a Group makes its commands of the same
kind.
"""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.system.voice import make_unfailing


class Command(click.Command):
    """A command whose lines, its help and errors included, never end it."""

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)
