"""`train_denoiser.py`: train a network that takes noise out of faces (`train_denoiser.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import continued, idle, options
from eyescream_py.cli.trainer import Trainer
from eyescream_py.system.numbers import NOT_NEGATIVE
from eyescream_py.system.signals import BEFORE_TRAINING, stoppable


@click.command(cls=Trainer, context_settings={"max_content_width": 100})
@options.run_options(save_freq=50, batch_size=128, threads=8, gpu=0, window=10, of="")
@options.weight_penalties()
@options.number("--AE_clamp", 1.0, "Bound of each gradient element (0: none).", NOT_NEGATIVE)
@options.scale_option(16)
@options.seed_option()
@options.gray_option()
@options.aws_option()
@options.rng_option()
@options.own_options()
def main(**values: Any) -> None:
    """Train a denoiser in two stages; train.py --denoise shows its work on G's pictures."""
    values, typed = continued.follow(values, options.typed_flags())
    table = options.lua_table()
    idle.tell_of_reconstruction(values)
    with stoppable(BEFORE_TRAINING, "--scale or --batchSize") as stop:
        from eyescream_py.training.reconstruct import DenoiserOptions, train_denoiser

        train_denoiser(DenoiserOptions(**values, typed=typed, table=table), stop)
