"""`eyescream`: every command of the package under one name."""

from __future__ import annotations

import click

from eyescream_py.cli.lazy import LazyGroup

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
    "srez": ("cli.srez", "Enlarge faces four times; docs/srez.md."),
    "image-model": ("image_model.__main__", "Depth maps to faces; docs/image_model.md."),
    "ganless-hd": ("ganless_hd.__main__", "Contours to paintings; docs/ganless_hd.md."),
    "mln": ("mln.__main__", "MR images from few, inexact measurements; docs/mln.md."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def main() -> None:
    """Face generators after the Lua Torch program of 2015; COMMAND --help lists its flags."""
