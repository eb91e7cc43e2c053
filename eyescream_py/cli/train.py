"""`train.py`: train a generator of faces against a discriminator (`train.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import continued, idle, options, recipes
from eyescream_py.cli.trainer import Trainer
from eyescream_py.networks.names import D_SMALL, G_SMALL
from eyescream_py.system.numbers import MOMENTUM, NOT_NEGATIVE, RATE
from eyescream_py.system.signals import BEFORE_TRAINING, stoppable


@click.command(cls=Trainer, context_settings={"max_content_width": 100})
@options.run_options(save_freq=30, batch_size=16, threads=8, gpu=0, window=3)
@options.number("--G_SGD_lr", 0.02, "SGD learning rate of G.", NOT_NEGATIVE)
@options.number("--G_SGD_momentum", 0.0, "SGD momentum of G.", MOMENTUM)
@options.number("--D_SGD_lr", 0.02, "SGD learning rate of D.", NOT_NEGATIVE)
@options.number("--D_SGD_momentum", 0.0, "SGD momentum of D.", MOMENTUM)
@options.number("--G_adam_lr", -1.0, "Adam learning rate of G (-1: 0.001).", RATE)
@options.number("--D_adam_lr", -1.0, "Adam learning rate of D (-1: 0.001).", RATE)
@options.game_options(D_L1=0.0, D_L2=1e-4)
@options.number("--D_maxAcc", 1.01, "D learns only while its mean accuracy of late is below this.")
@options.scale_option()
@options.seed_option()
@options.gray_option()
@options.place("--autoencoder", "", "Autoencoder .net whose decoder stands before G.")
@options.switch("--denoise", "Show denoised samples too (train_denoiser.py).")
@options.count(
    "--weightsVisFreq", "Show D's activity every so many batches (0: never).", "weights_vis_freq"
)
@options.aws_option()
@options.own_options()
@recipes.option
@options.rng_option()
@options.count(
    "--evaluate_every", "Measure the distance to real pictures every so many epochs (0: never)."
)
@options.average_option()
@options.taming_options()
@options.pace_options()
@options.choice("--G_arch", ("mlp", "upsampling", *G_SMALL), "Generator.")
@options.choice("--D_arch", ("default", "b", *D_SMALL), "Discriminator.")
@options.count(
    "--G_planes",
    "Widest layer of --G_arch=conv or deep (0: 128; 256 where it doubles 4 times, as at 64 px).",
)
@options.count(
    "--D_planes",
    "Widest layer of --D_arch=small, deep or residual (0: 128, or 16 * 2 to the number of halvings "
    "where that is more: 256 at 64 px).",
)
def main(**values: Any) -> None:
    """Train a generator (G) and a discriminator (D) of faces; Ctrl-C saves and stops.

    Without a data set folder the faces embedded in scikit-image are used. The flags are those of
    the Lua Torch program; --dataset and the flags after it are additions.
    """
    values, typed = continued.follow(values, options.typed_flags(), recipes.follow)
    table = options.lua_table()
    idle.tell_of_game(values)
    with stoppable(BEFORE_TRAINING, recipes.of_less_memory(values)) as stop:
        from eyescream_py.training.face_task import FaceOptions
        from eyescream_py.training.faces import train

        train(FaceOptions(**values, typed=typed, table=table), stop)
