"""`train_autoencoder.py`: train an autoencoder of gray faces (`train_autoencoder.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import continued, idle, options
from eyescream_py.cli.trainer import Trainer
from eyescream_py.system.numbers import MOMENTUM, NOT_NEGATIVE
from eyescream_py.system.signals import BEFORE_TRAINING, stoppable


@click.command(cls=Trainer, context_settings={"max_content_width": 100})
@options.place("-s --save", "logs", "Folder for what the run writes.")
@options.number("--saveFreq", 50, "Save every so many epochs.", options.AT_LEAST_1, "save_freq")
@options.place("-n --network", "", "Continue from this .net file (as given, else in --save).")
@options.switch("-p --plot", "Show windows in Visdom.")
@options.number(
    "-r --learningRate", 0.02, "Learning rate of SGD only.", NOT_NEGATIVE, "learning_rate"
)
@options.number("-b --batchSize", 128, "Pictures per step.", int, "batch_size")
@options.number("-m --momentum", 0.0, "Momentum of SGD only.", MOMENTUM)
@options.weight_penalties()
@options.threads_option(8, "-t --threads")
@options.gpu_option(-1, "-g --gpu")
@options.number("-d --noiseDim", 256, "Length of the code.", int, "noise_dim")
@options.number("--K", 1, "Never used by the Lua program.", int)
@options.number("-w --window", 3, "Number of the first plot window.", int)
@options.number("--hidden_G", 8000, "Never used by the Lua program.", int)
@options.number("--hidden_D", 1600, "Never used by the Lua program.", int)
@options.scale_option()
@options.own_options()
@options.seed_option()
@options.rng_option()
@options.choice("--optmethod", options.OPTIMIZERS, "Optimizer.")
def main(plot: bool, **values: Any) -> None:
    """Train an autoencoder of gray faces; train.py --autoencoder puts its decoder before G."""
    values, typed = continued.follow(values, options.typed_flags())
    table = options.lua_table()
    with stoppable(BEFORE_TRAINING) as stop:
        from eyescream_py.training.reconstruct import AutoencoderOptions, train_autoencoder

        values["noplot"] = not plot
        idle.tell_of_reconstruction(values, values["optmethod"])
        train_autoencoder(AutoencoderOptions(**values, typed=typed, table=table), stop)
