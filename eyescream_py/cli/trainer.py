"""The kind of command that several processes can run together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import click

from eyescream_py.system.commands import Command
from eyescream_py.system.ranks import is_first, several


class Trainer(Command):
    """A command whose processes, where there are several, meet before anything can fail: then one
    that fails tells the others."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            with _help_of_the_first():
                return super().make_context(*args, **options)
        except click.ClickException as error:  # flags that only this process may have been given
            if several():
                _quieten_torch()
                from eyescream_py.training.meeting import tell_the_others

                tell_the_others(error)
            raise

    def invoke(self, context: click.Context) -> Any:
        if not several():  # no need of torch yet
            return super().invoke(context)
        _quieten_torch()
        from eyescream_py.training.meeting import met

        with context.scope(), met():
            return super().invoke(context)


@contextlib.contextmanager
def _help_of_the_first() -> Iterator[None]:
    """Let --help, which is printed while flags are read, be that of one process."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _quieten_torch() -> None:
    """Before torch is imported: each process that loses another would print frames of C++."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
