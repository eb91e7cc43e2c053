"""Commands that train, make-data, and those of `use_commands` and `prepare_commands`."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eyescream_py.image_model import flags
from eyescream_py.image_model.options import (
    GENERATORS,
    GanOptions,
    ImageOptions,
    ModelOptions,
    RunOptions,
    SemiOptions,
)
from eyescream_py.image_model.prepare_commands import PREPARATIONS
from eyescream_py.image_model.use_commands import USES
from eyescream_py.system.commands import Command, Group
from eyescream_py.system.errors import UserError
from eyescream_py.system.memory import demand_batch
from eyescream_py.system.numbers import FILES
from eyescream_py.system.places import PATH
from eyescream_py.system.voice import say

if TYPE_CHECKING:
    import numpy as np
    import torch

    from eyescream_py.image_model.checkpoints import Checkpoint
    from eyescream_py.image_model.loop import Learner

Options = TypeVar("Options")


class ImageCommand(Command):
    """One of the package's commands."""

    remedy = "give a smaller --batch_size or --image_size"


class ImageGroup(Group):
    """The package's group."""

    command_class = ImageCommand


@click.group(cls=ImageGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Depth maps to faces: an image-to-image GAN with replay, reconstruction and a paired stage."""


def _pick(kind: type[Options], values: dict[str, Any], **more: Any) -> Options:
    """An options object from those of `values` that it has."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in names}, **more)


def _image_options(values: dict[str, Any]) -> ImageOptions:
    norm = flags.norm(values["batch_norm"], values["norm"])
    side, batch = values["image_size"], values["batch_size"]
    demand_batch(f"--batch_size={batch}", batch, (int(values["channels"]), side, side))
    return _pick(ImageOptions, {**values, "channels": int(values["channels"]), "norm": norm})


def _check_norm(image: ImageOptions, dense: bool, replay: bool = False) -> None:
    flags.check_norm(image.norm, image.batch_size, image.image_size, dense, replay)


def _gan_options(values: dict[str, Any]) -> GanOptions:
    gan = _pick(GanOptions, values, objective=flags.objective(values["l2gan"], values["wgan"]))
    if gan.diff_low > gan.diff_high:
        raise UserError("--diff_low must not be greater than --diff_high")
    if gan.use_replay and gan.cache_size < values["batch_size"]:
        raise UserError("--cache_size must be at least --batch_size")
    if not gan.use_replay and (gan.cache_path or gan.reuse_replay):
        raise UserError("--cache_path and --reuse_replay need --use_replay")
    return gan


def _run_options(values: dict[str, Any], done: int) -> RunOptions:
    """`done` steps stand behind the run: one that was stopped in its decay goes on in it."""
    if values["decay_steps"] > done + values["max_steps"]:
        raise UserError(
            f"--decay_steps={values['decay_steps']}: give at most --max_steps (with --load, plus "
            "the steps it has done)"
        )
    return _pick(RunOptions, values, command_line=shlex.join(sys.argv))


def _start(values: dict[str, Any]) -> tuple[torch.device, np.random.Generator]:
    """Device and random generator, both torch's and ours seeded."""
    import numpy as np
    import torch

    device = flags.chosen_device(values)
    torch.manual_seed(values["seed"])
    return device, np.random.default_rng(values["seed"])


def _read(path: str | None, kind: str) -> Checkpoint | None:
    from eyescream_py.image_model.checkpoints import read_checkpoint

    return read_checkpoint(path, (kind,)) if path is not None else None


def _train(
    learner: Learner,
    checkpoint: Checkpoint | None,
    values: dict[str, Any],
    prepare: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Resume, open the windows, and run; `prepare` is told the run's folder first."""
    from eyescream_py.image_model.checkpoints import check_settings_agree
    from eyescream_py.image_model.loop import Run, new_run_folder, resume
    from eyescream_py.plots.client import PlotFlags
    from eyescream_py.plots.windows import Plots

    start = checkpoint.step if checkpoint else 0
    options = _run_options(values, start)
    if checkpoint is not None:
        check_settings_agree(checkpoint, learner.settings)
        resume(learner, checkpoint)
    folder = new_run_folder(options.log_dir)
    plots = Plots.open(
        not values["noplot"],
        values["plot_server"],
        values["plot_port"],
        f"image_model_{folder.name}",
        flags=PlotFlags("--plot_server", "--plot_port"),
    )
    try:
        prepare(folder)
        Run(learner, options, folder, plots).train(start)
    finally:
        learner.close()
        plots.close()


@main.command()
@flags.domain_options
@flags.pair_option
@flags.augmentation_options
@click.option(
    "--use_nd_L1", "use_nd_l1", is_flag=True, help="Take the pairs of --L1 from --nd_dir."
)
@click.option("--use_nd_gan", is_flag=True, help="Take the GAN's batches from --nd_dir too.")
@click.option(
    "--gen_arch", type=click.Choice(GENERATORS), default="U", show_default=True,
    help="The seed's generators, or pix2pix's U-Net, which sees the whole picture.",
)  # fmt: skip
@click.option("--L1", "l1", is_flag=True, help="Add L1 to the photo that belongs to a depth map.")
@click.option("--pair_list", type=PATH, metavar="FILE",
              help="Take the pairs of --L1 from --synth_dir and --real_dir: on each line a name in "
              "the one, a tab, and a name in the other.")  # fmt: skip
@click.option("--L1_weight", "l1_weight", type=flags.WEIGHT, default=1.0, show_default=True)
@flags.perception_options
@click.option("--self_l1", type=flags.WEIGHT, default=0.0, show_default=True, metavar="WEIGHT",
              help="Add L1 between a depth map and its own picture.")  # fmt: skip
@click.option("--no_gan", is_flag=True, help="No discriminator: L1 or reconstruction alone.")
@click.option("--use_recon", is_flag=True, help="Add the reconstruction of x from G(x).")
@click.option(
    "--rlr", type=flags.RATE, default=1e-6, show_default=True, help="Reconstruction's rate."
)
@click.option(
    "--llr", type=flags.RATE, default=1e-3, show_default=True, help="Rate of the L1 steps."
)
@flags.gan_options
@flags.image_options
@flags.run_options
@flags.device_options
def train(**values: Any) -> None:
    """Train a generator from depth maps to photos."""
    from eyescream_py.image_model.replay import open_for_run
    from eyescream_py.image_model.training import ImageModel, check_options, load_domains

    options = _pick(ModelOptions, values, use_gan=not values["no_gan"])
    image, gan = _image_options(values), _gan_options(values)
    check_options(options, image)
    _check_norm(image, options.use_gan or options.gen_arch == "NU", gan.use_replay)
    if gan.use_replay and not options.use_gan:
        raise UserError("--use_replay is for the discriminator, which --no_gan leaves out")
    flags.say_what_is_idle(values, options.use_gan)
    checkpoint = _read(values["load"], "image-model")
    device, rng = _start(values)
    domains = load_domains(options, image, rng, device)
    capture = not values["no_capture"]
    learner = ImageModel(options, image, gan, domains, rng, device, capture)

    def open_cache(folder: Path) -> None:
        if learner.game is not None:
            shape = image.channels, image.image_size, image.image_size
            learner.game.replay = open_for_run(gan, shape, folder, checkpoint)

    _train(learner, checkpoint, values, open_cache)


@main.command("semi-stage1")
@flags.pair_option
@click.option("--routes", type=click.Choice(["cross", "all"]), default="cross", show_default=True,
              help="cross: each domain to the other; all: to itself too.")  # fmt: skip
@click.option("--llr", type=flags.RATE, default=1e-3, show_default=True)
@flags.image_options
@flags.run_options
@flags.device_options
def semi_stage1(**values: Any) -> None:
    """Train the cross-encoder on pairs: one encoder, a decoder for each domain."""
    from eyescream_py.image_model.data import load_pairs
    from eyescream_py.image_model.semi import CrossEncoder

    options, image = _pick(SemiOptions, values), _image_options(values)
    _check_norm(image, dense=False)
    flags.say_what_is_idle(values)
    checkpoint = _read(values["load"], "cross-encoder")
    device, rng = _start(values)
    pairs = load_pairs(options.nd_dir, "--nd_dir", image.image_size, image.channels, rng)
    capture = not values["no_capture"]
    learner = CrossEncoder(options, image, pairs.to(device), rng, device, capture)
    _train(learner, checkpoint, values)


@main.command("semi-stage2")
@click.option(
    "--load_encoder", type=PATH, metavar="FILE", help="Checkpoint of semi-stage1 (a new run)."
)
@click.option("--decoder", type=click.Choice(["real", "fresh"]), default="real", show_default=True,
              help="Start from stage 1's photo decoder, or afresh.")  # fmt: skip
@click.option("--alpha", type=flags.WEIGHT, default=1.0, show_default=True,
              help="Weight of mean|E(fake) - E(x)|.")  # fmt: skip
@flags.domain_options
@flags.gan_options
@flags.image_options
@flags.run_options
@flags.device_options
def semi_stage2(**values: Any) -> None:
    """Train a new decoder behind the frozen encoder, against a discriminator, unpaired."""
    from eyescream_py.image_model.data import load_folder
    from eyescream_py.image_model.replay import open_for_run
    from eyescream_py.image_model.semi import FrozenEncoderGan

    options, image, gan = _pick(SemiOptions, values), _image_options(values), _gan_options(values)
    _check_norm(image, dense=True, replay=gan.use_replay)
    if (values["load_encoder"] is None) == (values["load"] is None):
        raise UserError("give --load_encoder to begin, or --load to go on with stage 2")
    flags.say_what_is_idle(values)
    checkpoint = _read(values["load"], "semi")
    stage1 = _read(values["load_encoder"], "cross-encoder")
    device, rng = _start(values)
    shape = image.image_size, image.channels
    synth = load_folder(options.synth_dir, "--synth_dir", *shape, rng).to(device)
    real = load_folder(options.real_dir, "--real_dir", *shape, rng).to(device)
    capture = not values["no_capture"]
    learner = FrozenEncoderGan(options, image, gan, synth, real, rng, device, capture)
    if stage1 is not None:
        learner.start_from(stage1, options.decoder)

    def open_cache(folder: Path) -> None:
        planes = image.channels, image.image_size, image.image_size
        learner.game.replay = open_for_run(gan, planes, folder, checkpoint)

    _train(learner, checkpoint, values, open_cache)


@main.command("make-data")
@click.option(
    "--output_dir",
    type=PATH,
    default="Data",
    show_default=True,
    help="Folders Faces_* are made in it.",
)
@click.option("--image_size", type=click.IntRange(16, 512), default=128, show_default=True)
@click.option("--unpaired", type=FILES, default=400, show_default=True,
              help="Depth maps, and photos of other people.")  # fmt: skip
@click.option("--pairs", type=FILES, default=400, show_default=True)
@click.option("--tests", type=FILES, default=40, show_default=True, help="Held-out pairs.")
@click.option("--meshes", type=click.IntRange(0, 999_999), default=0, show_default=True,
              help="PLY files for prepare-depth.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def make_data(**values: Any) -> None:
    """Make parametric heads: depth maps and photos, unpaired and paired."""
    from eyescream_py.image_model.make_data import make_data as make

    numbers = (
        values[key] for key in ("image_size", "unpaired", "pairs", "tests", "meshes", "seed")
    )
    make(values["output_dir"], *numbers)
    say(f"Wrote heads to {values['output_dir']}")


for command in (*USES, *PREPARATIONS):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m eyescream_py.image_model")
