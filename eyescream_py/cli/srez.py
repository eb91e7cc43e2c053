"""`eyescream srez COMMAND`: what `python -m eyescream_py.srez --run=COMMAND` and srez's other
programs do.
"""

from __future__ import annotations

import functools
from typing import Any

import click

from eyescream_py.cli.lazy import LazyGroup
from eyescream_py.system.commands import Command

ACTIONS = {
    "train": ("srez.__main__", "Learn from --dataset."),
    "demo": ("srez.__main__", "Make a film of a training's sample pictures."),
    "upscale": ("srez.__main__", "Enlarge pictures."),
    "evaluate": ("srez.__main__", "Measure the checkpoint on held-out faces."),
}
PROGRAMS = {
    "make-data": ("srez.make_data", "Draw procedural faces to train on."),
    "download-data": ("srez.download_data", "Fetch the aligned CelebA archive."),
    "bench": ("srez.bench", "Compare losses, networks and norms on equal terms."),
}


class SrezGroup(LazyGroup):
    """Makes commands of the actions of srez's one command, and takes the seeds' own command lines,
    which name the action by --run.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:  # fmt: skip
        if any(word == "--run" or word.startswith("--run=") for word in args):
            command = super().get_command(click.Context(self), "train")
            assert command is not None  # noqa: S101
            return command.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        command = super().get_command(context, name)
        if command is None or name not in ACTIONS:
            return command
        assert command.callback is not None  # noqa: S101
        return Command(
            name,
            callback=functools.partial(command.callback, action=name),
            params=[p for p in command.params if p.name != "action"],
            help=command.help,
            context_settings=command.context_settings,
        )


@click.group(cls=SrezGroup, table={**ACTIONS, **PROGRAMS})
def main() -> None:
    """Enlarge faces 4x with adversarial networks (srez and its Wasserstein fork)."""
