"""The kind of command that several processes can run together."""

from __future__ import annotations

import os
from typing import Any

import click

from eyescream_py.system.commands import Command


class Trainer(Command):
    """A command whose processes, where there are several, meet before anything can fail: then one
    that fails tells the others."""

    def invoke(self, context: click.Context) -> Any:
        if os.environ.get("WORLD_SIZE", "1") == "1":  # alone: no need of torch yet
            return super().invoke(context)
        # before torch is imported: each process that loses another would print frames of C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from eyescream_py.training.meeting import met

        with context.scope(), met():
            return super().invoke(context)
