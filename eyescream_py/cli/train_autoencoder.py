"""`train_autoencoder.py`: train an autoencoder of gray faces (`train_autoencoder.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import options
from eyescream_py.system.signals import BEFORE_TRAINING, stoppable


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "-s", "--save", default="logs", show_default=True, help="Folder for what the run writes."
)
@options.number("--saveFreq", "save_freq", 50, "Save every so many epochs.", click.IntRange(1))
@click.option(
    "-n", "--network", default="", help="Continue from this .net file (as given, else in --save)."
)
@click.option("-p", "--plot", is_flag=True, help="Show windows in Visdom.")
@click.option(
    "-r",
    "--learningRate",
    "learning_rate",
    default=0.02,
    type=options.NOT_NEGATIVE,
    show_default=True,
    help="Learning rate of SGD only.",
)
@click.option(
    "-b", "--batchSize", "batch_size", default=128, show_default=True, help="Pictures per step."
)
@click.option(
    "-m",
    "--momentum",
    default=0.0,
    type=options.MOMENTUM,
    show_default=True,
    help="Momentum of SGD only.",
)
@options.number("--coefL1", "coef_l1", 0.0, "L1 penalty on the weights.", options.NOT_NEGATIVE)
@options.number("--coefL2", "coef_l2", 0.0, "L2 penalty on the weights.", options.NOT_NEGATIVE)
@click.option(
    "-t",
    "--threads",
    default=8,
    show_default=True,
    help="CPU threads (never more than cores by default).",
)
@click.option("-g", "--gpu", default=-1, show_default=True, help="CUDA device, -1 for the CPU.")
@click.option(
    "-d", "--noiseDim", "noise_dim", default=256, show_default=True, help="Length of the code."
)
@options.number("--K", "K", 1, "Never used by the Lua program.", int)
@click.option(
    "-w", "--window", default=3, show_default=True, help="Number of the first plot window."
)
@options.number("--hidden_G", "hidden_G", 8000, "Never used by the Lua program.", int)
@options.number("--hidden_D", "hidden_D", 1600, "Never used by the Lua program.", int)
@options.number("--scale", "scale", 32, "Height and width of the pictures.", click.IntRange(1))
@options.own_options()
@options.seed_option()
@click.option(
    "--optmethod", type=options.OPTIMIZERS, default="adam", show_default=True, help="Optimizer."
)
def main(plot: bool, **values: Any) -> None:
    """Train an autoencoder of gray faces; train.py --autoencoder puts its decoder before G."""
    table, typed = options.lua_table(), options.typed_flags()
    with stoppable(BEFORE_TRAINING) as stop:
        from eyescream_py.training.reconstruct import AutoencoderOptions, train_autoencoder

        values["noplot"] = not plot
        train_autoencoder(AutoencoderOptions(**values, typed=typed, table=table), stop)
