"""Groups of commands whose modules are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from eyescream_py.system.commands import Group


class LazyGroup(Group):
    """Knows its commands by `table`, so that the list comes at once.

    `table`: name -> (module of the package whose `main` is the command, what the list says of it).
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.table = table
        # click looks there for names that are like a wrong one
        self.commands.update({name: click.Command(name) for name in table})

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = name.replace("_", "-")  # as the scripts and packages are called
        if name not in self.table:
            return None
        module = importlib.import_module(f"eyescream_py.{self.table[name][0]}")
        command: click.Command = module.main
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])
