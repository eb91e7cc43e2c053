"""`train_c2f.py`: train a network that refines coarse faces (`train_c2f.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import continued, idle, options
from eyescream_py.cli.trainer import Trainer
from eyescream_py.system.numbers import MOMENTUM, NOT_NEGATIVE
from eyescream_py.system.signals import BEFORE_TRAINING, stoppable


@click.command(cls=Trainer, context_settings={"max_content_width": 100})
@options.run_options(save_freq=30, batch_size=32, threads=4, gpu=0, window=3)
@options.number("--D_sgd_lr", 0.02, "SGD learning rate of D.", NOT_NEGATIVE)
@options.number("--G_sgd_lr", 0.02, "SGD learning rate of G.", NOT_NEGATIVE)
@options.number("--D_sgd_momentum", 0.0, "SGD momentum of D.", MOMENTUM)
@options.number("--G_sgd_momentum", 0.0, "SGD momentum of G.", MOMENTUM)
@options.game_options(
    D_L1=1e-7, D_L2=0.0, of_noise="Length of noise that is drawn and never used, as in Lua."
)
@options.number(
    "--coarseSize", 16, "Size of the coarse pictures.", options.AT_LEAST_1, "coarse_size"
)
@options.number("--fineSize", 32, "Size of the refined pictures.", options.AT_LEAST_1, "fine_size")
@options.gray_option()
@options.seed_option()
@options.aws_option()
@options.own_options()
@options.rng_option()
@options.number(
    "--validation",
    500,
    "Pictures kept for validation (at most a tenth of the files unless given).",
    int,
)
@options.number(
    "--parzenImages", 200, "Validation pictures per Parzen score.", int, "parzen_images"
)
@options.average_option()
@options.choice("--G_arch", ("default", "b", "c", "d"), "Generator.")
@options.choice("--D_arch", ("default", "b", "c"), "Discriminator.")
def main(**values: Any) -> None:
    """Train a generator (G) that adds to an enlarged coarse face the detail of a finer one."""
    values, typed = continued.follow(values, options.typed_flags())
    table = options.lua_table()
    idle.tell_of_game(values)
    with stoppable(BEFORE_TRAINING, "--fineSize or --batchSize") as stop:
        from eyescream_py.training.c2f import PairOptions, train

        train(PairOptions(**values, typed=typed, table=table), stop)
