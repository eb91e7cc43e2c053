"""Option declarations that several scripts share, under the Lua program's names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
VIEWS = ("colour", "translation", "cutout", "mirror")
OPTIMIZERS = click.Choice(["adam", "adagrad", "sgd"])


def group(*decorators: Decorator) -> Decorator:
    """Several option decorators as one, listed in `--help` in the order given."""

    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return apply


LARGEST = 3.4e38  # what single precision holds


class Finite(click.ParamType):
    """A float that is a number, from `least` up to and without `below`."""

    name = "float"

    def __init__(self, least: float = -math.inf, below: float = math.inf) -> None:
        self.least, self.below = least, below

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(click.FLOAT.convert(value, param, ctx))
        if not abs(number) < LARGEST:
            self.fail(f"{value} is no number of single precision.", param, ctx)
        if not self.least <= number < self.below:
            below = f" and below {self.below:g}" if self.below < math.inf else ""
            self.fail(f"{value} is not at least {self.least:g}{below}.", param, ctx)
        return number


NOT_NEGATIVE = Finite(0)
SEED = click.IntRange(0, 2**62)
MOMENTUM = Finite(0, 1)


def number(
    flag: str, name: str, default: float, text: str, kind: Any = None, **more: Any
) -> Decorator:
    kind = kind or Finite()
    return click.option(
        flag, name, default=default, type=kind, show_default=True, help=text, **more
    )


def run_options(save_freq: int, batch_size: int, threads: int, gpu: int, window: int) -> Decorator:
    """Where a run reads, writes, shows and computes."""
    return group(
        number("--batchSize", "batch_size", batch_size, "Pictures per step of G.", int),
        click.option(
            "--save", default="logs", show_default=True, help="Folder for what the run writes."
        ),
        number(
            "--saveFreq", "save_freq", save_freq, "Save every so many epochs.", click.IntRange(1)
        ),
        click.option(
            "--network", default="", help="Continue from this .net file (as given, else in --save)."
        ),
        click.option("--noplot", is_flag=True, help="No Visdom windows."),
        number(
            "--threads", "threads", threads, "CPU threads (never more than cores by default).", int
        ),
        number("--gpu", "gpu", gpu, "CUDA device, -1 for the CPU.", int),
        number("--window", "window", window, "Number of the first plot window.", int),
    )


def own_options() -> Decorator:
    """Flags that the Lua program had not."""
    return group(
        click.option(
            "--dataset", default=None,
            help="Folder of pictures, or a .t7 file with an (N,C,H,W) tensor.",
        ),
        number(
            "--epochs", "epochs", 0, "Epochs in all, resumed ones included; 0: until Ctrl-C.",
            click.IntRange(0),
        ),
        number(
            "--log_every", "log_every", 0, "A line in SAVE/losses.jsonl every so many iterations.",
            click.IntRange(0),
        ),
        click.option(
            "--visdom_server", default="127.0.0.1", show_default=True, help="Where Visdom listens.",
        ),
        number("--visdom_port", "visdom_port", 8097, "Port of Visdom.", click.IntRange(1, 65535)),
        click.option(
            "--visdom_env", default="", help="Visdom environment (default: the name of --save).",
        ),
        click.option(
            "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp64"]), default="auto",
            show_default=True, help="Arithmetic; auto: bf16 where the machine has it natively.",
        ),
        click.option(
            "--on_nan", type=click.Choice(["stop", "rollback"]), default="stop", show_default=True,
            help="When losses are no numbers: stop, or go back and halve the learning rate.",
        ),
    )  # fmt: skip


def rng_option() -> Decorator:
    return click.option(
        "--rng", type=click.Choice(["torch", "lua"]), default="torch", show_default=True,
        help="Random numbers: torch's, or the streams of Lua Torch (replays a Lua run; CPU only).",
    )  # fmt: skip


def seed_option() -> Decorator:
    return number("--seed", "seed", 1, "Seed of the random numbers.", SEED)


def ema_option() -> Decorator:
    return number(
        "--G_ema",
        "G_ema",
        0.0,
        "Decay of an averaged G, 0.999 for example (0: none).",
        click.FloatRange(0, 1, max_open=True),
    )


class Views(click.ParamType):
    """Kinds of views, separated by commas: `colour,translation`."""

    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        kinds = tuple(kind.strip() for kind in value.split(",") if kind.strip())
        for kind in kinds:
            if kind not in VIEWS:
                self.fail(f"{kind!r} is none of {', '.join(VIEWS)}.", param, ctx)
        return kinds


def taming_options() -> Decorator:
    """What holds D back, none of it known to the Lua program."""
    return group(
        number(
            "--D_smooth", "D_smooth", 0.0, "D is to say 1 minus this of real pictures.",
            Finite(0, 0.5),
        ),
        click.option(
            "--D_augment", "D_augment", default="", type=Views(), metavar="LIST",
            help=f"D sees pictures changed at random, some of: {','.join(VIEWS)}.",
        ),
        number("--D_r1", "D_r1", 0.0, "Weight of R1, on D's slope at real pictures.", NOT_NEGATIVE),
        number(
            "--D_spectral", "D_spectral", 0.0,
            "Bound of the spectral norm of each of D's layers (0: none).", NOT_NEGATIVE,
        ),
    )  # fmt: skip


def aws_option() -> Decorator:
    return click.option(
        "--aws", is_flag=True, help="Read pictures from /mnt/datasets/out_aug_64x64."
    )


def game_options(D_L1: float, D_L2: float) -> Decorator:
    """Penalties, steps, clamps and optimizers of both players."""
    return group(
        number("--G_L1", "G_L1", 0.0, "L1 penalty on G's weights.", NOT_NEGATIVE),
        number("--G_L2", "G_L2", 0.0, "L2 penalty on G's weights.", NOT_NEGATIVE),
        number("--D_L1", "D_L1", D_L1, "L1 penalty on D's weights.", NOT_NEGATIVE),
        number("--D_L2", "D_L2", D_L2, "L2 penalty on D's weights.", NOT_NEGATIVE),
        number("--D_iterations", "D_iterations", 1, "D steps per iteration.", click.IntRange(1)),
        number("--G_iterations", "G_iterations", 1, "G steps per iteration.", click.IntRange(1)),
        number(
            "--D_clamp",
            "D_clamp",
            1.0,
            "Bound of each gradient element of D (0: none).",
            NOT_NEGATIVE,
        ),
        number(
            "--G_clamp",
            "G_clamp",
            5.0,
            "Bound of each gradient element of G (0: none).",
            NOT_NEGATIVE,
        ),
        click.option(
            "--D_optmethod",
            "D_optmethod",
            type=OPTIMIZERS,
            default="adam",
            show_default=True,
            help="Optimizer of D.",
        ),
        click.option(
            "--G_optmethod",
            "G_optmethod",
            type=OPTIMIZERS,
            default="adam",
            show_default=True,
            help="Optimizer of G.",
        ),
        number("--noiseDim", "noise_dim", 100, "Length of the noise vector.", click.IntRange(1)),
        number("--N_epoch", "n_epoch", 1000, "Pictures per epoch, -1 for all.", int),
    )


def typed_flags() -> frozenset[str]:
    """Names of the parameters that the person gave, as against defaults."""
    context = click.get_current_context()
    from_person = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    return frozenset(n for n in context.params if context.get_parameter_source(n) in from_person)


def lua_table() -> dict[str, Any]:
    """The options under their flags' names, as the Lua program saved them as `opt`."""
    context = click.get_current_context()
    table = {}
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        value = ",".join(value) if isinstance(value, tuple) else value
        table[parameter.opts[-1].lstrip("-")] = "" if value is None else value
    return table
