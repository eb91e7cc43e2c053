"""`eyescream`: every command of the package under one name."""

from __future__ import annotations

import importlib

import click

from eyescream_py.system.commands import Group

# name -> (module of its click command `main`, what the list says of it)
COMMANDS = {
    "train": ("cli.train", "Train faces from noise (train.py)."),
    "train-c2f": ("cli.train_c2f", "Train the refinement of coarse faces (train_c2f.py)."),
    "train-autoencoder": ("cli.train_autoencoder", "Train an autoencoder of faces."),
    "train-denoiser": ("cli.train_denoiser", "Train a denoiser of generated faces."),
    "sample": ("cli.sample", "Write grids of generated faces; export G (sample.py)."),
    "evaluate": ("cli.evaluate", "Measure generated pictures against real ones."),
    "movie": ("cli.movie", "Contact sheet, film and loss curves of a run."),
    "generate-dataset": ("cli.generate_dataset", "Cut LFW's photos into training faces."),
    "torch7": ("torch7.__main__", "Look into Torch 7 files and convert them."),
}


class LazyGroup(Group):
    """Imports a command's module when that command is asked for, so that the list comes at once."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"eyescream_py.{COMMANDS[name][0]}")
        command: click.Command = module.main
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup)
def main() -> None:
    """Face generators after the Lua Torch program of 2015; COMMAND --help lists its flags."""
