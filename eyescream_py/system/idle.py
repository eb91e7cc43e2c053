"""Options that can change nothing beside a command's others: a line says so before the work."""

from __future__ import annotations

from collections.abc import Collection

import click

from eyescream_py.system.places import TYPED
from eyescream_py.system.ranks import is_first
from eyescream_py.system.voice import say

PLOTS = ("visdom_server", "visdom_port", "visdom_env", "window")  # what only windows read


def say_idle(*rules: tuple[object, str, Collection[str]]) -> None:
    """Say which options were typed in vain, each once. A rule is whether it holds, when it does in
    words ("without --D_r1"), and the parameters that nothing reads then.

    Silent where no command is in progress, and in all but the first of several processes.
    """
    context = click.get_current_context(silent=True)
    if context is None or not is_first():
        return
    told = context.meta.setdefault(__name__, set())
    for holds, when, names in rules:
        flags = [
            max((not context.params[param.name] and param.secondary_opts) or param.opts, key=len)
            for param in context.command.params
            if holds and param.name in names and context.get_parameter_source(param.name) in TYPED
        ]
        flags = [flag for flag in flags if (when, flag) not in told]
        told.update((when, flag) for flag in flags)
        if flags:
            say(f"Not used {when}: {', '.join(flags)}.")
