"""How commands declare their flags, and the flags that several of them share, under the Lua
program's names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from eyescream_py.system.numbers import FINITE, MOMENTUM, NOT_NEGATIVE, SEED, Finite
from eyescream_py.system.places import PATH, TYPED

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
AUGMENTATIONS = ("colour", "translation", "cutout", "mirror")
OPTIMIZERS = ("adam", "adagrad", "sgd")
AT_LEAST_1 = click.IntRange(1)
NOT_BELOW_0 = click.IntRange(0)


def group(*decorators: Decorator) -> Decorator:
    """Several option decorators as one, listed in `--help` in the order given."""

    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return apply


def _option(flags: str, name: str = "", **attributes: Any) -> Decorator:
    """`flags` are separated by spaces; the parameter is named like the last one if not `name`."""
    names = flags.split()
    return click.option(*names, name or names[-1].lstrip("-"), **attributes)


def number(flags: str, default: float, text: str, kind: Any = FINITE, name: str = "") -> Decorator:
    """A flag that takes a number of `kind`; `name`: its parameter, where not the flag's."""
    return _option(flags, name, default=default, type=kind, show_default=True, help=text)


def words(flags: str, default: str | None, text: str) -> Decorator:
    """A flag that takes text."""
    return _option(flags, default=default, show_default=bool(default), help=text)


def place(flags: str, default: str | None, text: str) -> Decorator:
    """A file or folder; `~` is the home folder."""
    return _option(flags, default=default, type=PATH, show_default=bool(default), help=text)


def switch(flags: str, text: str) -> Decorator:
    """A flag without a value."""
    return _option(flags, is_flag=True, help=text)


def choice(flags: str, choices: Sequence[str], text: str) -> Decorator:
    """The first of `choices` is the default."""
    kind = click.Choice(list(choices))
    return _option(flags, type=kind, default=choices[0], show_default=True, help=text)


def run_options(
    save_freq: int, batch_size: int, threads: int, gpu: int, window: int, of: str = " of G"
) -> Decorator:
    """Where a run reads, writes, shows and computes; `of`: which network's step takes a batch."""
    return group(
        number("--batchSize", batch_size, f"Pictures per step{of}.", int, "batch_size"),
        place("--save", "logs", "Folder for what the run writes."),
        number("--saveFreq", save_freq, "Save every so many epochs.", AT_LEAST_1, "save_freq"),
        place("--network", "", "Continue from this .net file (as given, else in --save)."),
        switch("--noplot", "No Visdom windows."),
        threads_option(threads),
        gpu_option(gpu),
        number("--window", window, "Number of the first plot window.", int),
    )


def threads_option(default: int = 8, flags: str = "--threads") -> Decorator:
    """`--threads`: processor threads of torch."""
    return number(flags, default, "CPU threads (never more than cores by default).", int)


def gpu_option(default: int = 0, flags: str = "--gpu") -> Decorator:
    """`--gpu`: the number of a CUDA device, -1 for the CPU."""
    return number(flags, default, "CUDA device, -1 for the CPU.", int)


def seed_option() -> Decorator:
    """`--seed`: of every random number of the run."""
    return number("--seed", 1, "Seed of the random numbers.", SEED)


def gray_option() -> Decorator:
    """`--grayscale`: one channel instead of three."""
    return switch("--grayscale", "One channel instead of three.")


def aws_option() -> Decorator:
    """`--aws`: the Lua program's folder of pictures on its cloud machines."""
    return switch("--aws", "Read pictures from /mnt/datasets/out_aug_64x64.")


def scale_option(default: int = 32) -> Decorator:
    """`--scale`: height and width of the pictures in pixels."""
    return number("--scale", default, "Height and width of the pictures.", AT_LEAST_1)


def weight_penalties() -> Decorator:
    """Those of the two trainers without a game."""
    return group(
        number("--coefL1", 0.0, "L1 penalty on the weights.", NOT_NEGATIVE, "coef_l1"),
        number("--coefL2", 0.0, "L2 penalty on the weights.", NOT_NEGATIVE, "coef_l2"),
    )


def own_options() -> Decorator:
    """Flags that the Lua program did not have."""
    on_nan = (
        "When losses become nan or inf: stop, or go back to the last save and on at half the "
        "learning rate (then also when D or G no longer learns)."
    )
    return group(
        place("--dataset", None, "Folder of pictures, or a .t7: an (N,C,H,W) tensor, {data=...}."),
        count("--epochs", "Epochs in all, resumed ones included; 0: until Ctrl-C."),
        count("--log_every", "Losses to SAVE/losses.jsonl every so many iterations (0: never)."),
        visdom_options("--save's name and a few letters"),
        choice(
            "--precision", ("auto", "fp32", "bf16", "fp64"),
            "Arithmetic; auto: bf16 where that is quicker (CPUs try it out first, and keep to it "
            "in runs that go on).",
        ),
        switch("--strict", "On CUDA: no TF32, which rounds the factors of fp32 products."),
        switch("--fast", "On CUDA: allow algorithms whose sums differ from run to run."),
        switch("--no_capture", "To rule out a cause, slower: iterations by Python, none replayed."),
        switch("--no_fuse", "Likewise: torch's own kernels, none that joins several."),
        choice("--on_nan", ("stop", "rollback"), on_nan),
    )  # fmt: skip


def visdom_options(env: str) -> Decorator:
    """`env` says which environment it is where none is typed."""
    return group(
        words("--visdom_server", "127.0.0.1", "Host that Visdom runs on."),
        number("--visdom_port", 8097, "Port of Visdom.", click.IntRange(1, 65535)),
        words("--visdom_env", "", f"Visdom environment (default: {env})."),
    )


def count(flag: str, text: str, name: str = "") -> Decorator:
    """A number of steps or epochs that may be 0."""
    return number(flag, 0, text, NOT_BELOW_0, name)


def rng_option() -> Decorator:
    """`--rng`: whose random numbers are drawn."""
    text = "Random numbers: torch's, or the streams of Lua Torch (replays a Lua run; CPU only)."
    return choice("--rng", ("torch", "lua"), text)


def use_averaged_option() -> Decorator:
    """`--ema/--no-ema`: the averaged G of a checkpoint, or the trained one."""
    return click.option(
        "--ema/--no-ema", default=True, show_default=True,
        help="Use the averaged G of --G_ema where the file has one.",
    )  # fmt: skip


def average_option() -> Decorator:
    """`--G_ema`: decay per step of an averaged G, 0 for none."""
    text = "Decay of an averaged G, 0.999 for example (0: none)."
    return number("--G_ema", 0.0, text, MOMENTUM)


class Augmentations(click.ParamType):
    """Kinds of views, separated by commas: `colour,translation`."""

    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        kinds = tuple(kind.strip() for kind in value.split(",") if kind.strip())
        for kind in kinds:
            if kind not in AUGMENTATIONS:
                self.fail(f"{kind!r} is none of {', '.join(AUGMENTATIONS)}.", param, ctx)
        return kinds


def taming_options() -> Decorator:
    """What holds D back, none of it known to the Lua program."""
    bound = "Bound of the spectral norm of each of D's layers (0: none)."
    r1 = "Weight of R1, a penalty on D's slope at real pictures: an eighth of the papers' gamma."
    return group(
        number(
            "--D_smooth", 0.0, "Label smoothing: 1 minus this is D's target of real pictures.",
            Finite(0, 0.5),
        ),
        click.option(
            "--D_augment", "D_augment", default="", type=Augmentations(), metavar="LIST",
            help=f"D sees pictures changed at random, some of: {','.join(AUGMENTATIONS)}.",
        ),
        number("--D_r1", 0.0, r1, NOT_NEGATIVE),
        number("--D_r1_every", 4, "Take R1 every so many D steps, as many times it.", AT_LEAST_1),
        number("--D_spectral", 0.0, bound, NOT_NEGATIVE),
    )  # fmt: skip


def pace_options() -> Decorator:
    """How both players learn and how G is averaged, none of it known to the Lua program."""
    return group(
        number("--adam_beta1", 0.9, "Adam's decay of the mean gradient.", MOMENTUM),
        number("--adam_beta2", 0.999, "Adam's decay of the mean square.", MOMENTUM),
        number(
            "--lr_fall", 1.0,
            "Learning rates fall to 2 % from this share of --epochs on (1: they stay).",
            Finite(0, most=1),
        ),
        switch(
            "--shared_pictures",
            "G's step (of several the first) judges the half batch that D's step has seen.",
        ),
        number(
            "--G_ema_power", 0.0,
            "Averaged G with decay (1-1/n)^POWER at iteration n (0: --G_ema decides).",
            NOT_NEGATIVE,
        ),
    )  # fmt: skip


def game_options(
    D_L1: float, D_L2: float, of_noise: str = "Length of the noise vector."
) -> Decorator:
    """Penalties, steps, clamps and optimizers of both players; `of_noise` says what --noiseDim
    is."""
    return group(
        number("--G_L1", 0.0, "L1 penalty on G's weights.", NOT_NEGATIVE),
        number("--G_L2", 0.0, "L2 penalty on G's weights.", NOT_NEGATIVE),
        number("--D_L1", D_L1, "L1 penalty on D's weights.", NOT_NEGATIVE),
        number("--D_L2", D_L2, "L2 penalty on D's weights.", NOT_NEGATIVE),
        number("--D_iterations", 1, "D steps per iteration.", AT_LEAST_1),
        number("--G_iterations", 1, "G steps per iteration.", AT_LEAST_1),
        number("--D_clamp", 1.0, "Bound of each gradient element of D (0: none).", NOT_NEGATIVE),
        number("--G_clamp", 5.0, "Bound of each gradient element of G (0: none).", NOT_NEGATIVE),
        choice("--D_optmethod", OPTIMIZERS, "Optimizer of D."),
        choice("--G_optmethod", OPTIMIZERS, "Optimizer of G."),
        number("--noiseDim", 100, of_noise, AT_LEAST_1, "noise_dim"),
        number("--N_epoch", 1000, "Pictures per epoch, -1 for all.", int, "n_epoch"),
    )


def typed_flags() -> frozenset[str]:
    """Names of the parameters that the person gave, as against defaults."""
    context = click.get_current_context()
    return frozenset(n for n in context.params if context.get_parameter_source(n) in TYPED)


def lua_table() -> dict[str, Any]:
    """The options under their flags' names, as the Lua program saved them as `opt`."""
    context = click.get_current_context()
    table = {}
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        value = ",".join(value) if isinstance(value, tuple) else value
        table[parameter.opts[-1].lstrip("-")] = "" if value is None else value
    return table
