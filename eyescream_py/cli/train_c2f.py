"""`train_c2f.py`: train a network that refines coarse faces (`train_c2f.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import options
from eyescream_py.system.signals import BEFORE_TRAINING, stoppable


@click.command(context_settings={"max_content_width": 100})
@options.run_options(save_freq=30, batch_size=32, threads=4, gpu=0, window=3)
@options.number("--D_sgd_lr", "D_sgd_lr", 0.02, "SGD learning rate of D.", options.NOT_NEGATIVE)
@options.number("--G_sgd_lr", "G_sgd_lr", 0.02, "SGD learning rate of G.", options.NOT_NEGATIVE)
@options.number("--D_sgd_momentum", "D_sgd_momentum", 0.0, "SGD momentum of D.", options.MOMENTUM)
@options.number("--G_sgd_momentum", "G_sgd_momentum", 0.0, "SGD momentum of G.", options.MOMENTUM)
@options.game_options(D_L1=1e-7, D_L2=0.0)
@options.number(
    "--coarseSize", "coarse_size", 16, "Size of the coarse pictures.", click.IntRange(1)
)
@options.number("--fineSize", "fine_size", 32, "Size of the refined pictures.", click.IntRange(1))
@click.option("--grayscale", is_flag=True, help="One channel instead of three.")
@options.seed_option()
@options.aws_option()
@options.own_options()
@options.rng_option()
@options.number(
    "--validation",
    "validation",
    500,
    "Pictures kept for validation (at most a tenth of the files unless given).",
    int,
)
@options.number(
    "--parzenImages", "parzen_images", 200, "Validation pictures per Parzen score.", int
)
@options.ema_option()
@click.option(
    "--G_arch",
    "G_arch",
    type=click.Choice(["default", "b", "c", "d"]),
    default="default",
    show_default=True,
    help="Generator.",
)
@click.option(
    "--D_arch",
    "D_arch",
    type=click.Choice(["default", "b", "c"]),
    default="default",
    show_default=True,
    help="Discriminator.",
)
def main(**values: Any) -> None:
    """Train a generator (G) that adds to an enlarged coarse face the detail of a finer one."""
    table, typed = options.lua_table(), options.typed_flags()
    with stoppable(BEFORE_TRAINING) as stop:
        from eyescream_py.training.c2f import PairOptions, train

        train(PairOptions(**values, typed=typed, table=table), stop)
