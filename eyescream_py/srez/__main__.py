"""`python -m eyescream_py.srez --run train|demo|upscale|evaluate`: face super-resolution and its
options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from eyescream_py.srez.options import Options

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}


def _option(name: str, kind: Any, text: str) -> Callable[..., Any]:
    shown = DEFAULTS[name] not in (None, "")
    return click.option(
        f"--{name}", name, type=kind, default=DEFAULTS[name], show_default=shown, help=text
    )


def _choice(name: str, values: str, text: str) -> Callable[..., Any]:
    return _option(name, click.Choice(values.split("|")), text)


OPTIONS = [
    _option("dataset", str, "Folder of face pictures, searched with its sub-folders."),
    _option("checkpoint_dir", str, "Where checkpoints are."),
    _option("train_dir", str, "Where sample pictures go. Must be empty or new, unless --resume."),
    _option("summary_dir", str, "Where metrics.jsonl and evaluations go."),
    _option("cache_dir", str, "Where decoded pictures are kept; '' keeps none."),
    _choice(
        "crop",
        "celeba|lfw|none",
        "Where the face is: CelebA's or LFW's fixed window, or the middle.",
    ),
    _option("test_vectors", int, "Pictures held out of training."),
    _option("test_list", str, "File that names the held-out pictures, or counts them from 1."),
    _option("train_images", int, "Train on this many pictures only, 0 for all."),
    _option("sample_size", int, "Side of the large picture, a multiple of 16 from 32 to 128."),
    _option("scale", int, "Enlargement, 2, 4 or 8."),
    _choice("input", "scaled|noise", "What the generator sees: the small picture, or noise."),
    _option("noise_dimension", int, "Side of the square of noise."),
    _option("batch_size", int, "Pictures per batch."),
    _option("random_seed", int, "Seed of everything random."),
    _option("learning_rate_start", float, "Learning rate at the start."),
    _option("learning_rate_half_life", int, "Batches until the rate is halved, 0 for never."),
    _option("learning_beta1", float, "Adam's beta1."),
    _option("learning_beta2", float, "Adam's beta2."),
    _option("epsilon", float, "Adam's epsilon."),
    _choice("optimizer", "adam|rmsprop", "Optimizer of both networks."),
    _option("gene_l1_factor", float, "f in (1-f)*adversarial + f*L1 tie to the small picture."),
    _option(
        "pixel_factor", float, "Weight of the error against the true large picture (not published)."
    ),
    _option("train_noise", float, "Deviation of the noise added to the generator's input."),
    _choice("loss_func", "dcgan|gan|wgan|wgangp", "Objective; gan is another name for dcgan."),
    _option("weigh_clip", click.IntRange(0, 1), "Clip the critic to +-0.01. Default: 1 for wgan."),
    _option("LAMBDA", float, "Weight of the gradient penalty. Default: 10 for wgangp."),
    _option("n_critic", int, "Critic updates per generator update; WGAN papers use 5."),
    _choice(
        "critic_norm",
        "batch|layer|none",
        "Critic's normalisation. Default: batch, layer for wgangp.",
    ),
    _option("gen_norm", click.IntRange(0, 1), "Batch norm in the generator."),
    _choice("gen_architect", "resnet|deconv", "Generator's stages."),
    _option("width", float, "Multiplies the generator's widths."),
    _option("critic_width", float, "Multiplies the critic's widths. Default: as --width."),
    _choice("bn", "running|batch", "Statistics of the generator's batch norm outside training."),
    _option("train_time", float, "Minutes to train, over resumptions."),
    _option("max_batches", int, "Batches to train, 0 for no limit."),
    _option("summary_period", int, "Batches between sample pictures."),
    _option("checkpoint_period", int, "Batches between checkpoints."),
    _option("on_finish", str, "Shell command to run when training came to its end."),
    click.option("--resume", is_flag=True, help="Go on from the checkpoint."),
    click.option(
        "--gpu", type=int, default=0, show_default=True, help="CUDA device, -1 for the CPU."
    ),
    click.option("--threads", type=int, default=4, show_default=True, help="CPU threads."),
    click.option(
        "--upscale_mode",
        type=click.Choice(["face", "tile"]),
        default="face",
        show_default=True,
        help="Enlarge the face in each picture, or the whole picture.",
    ),
    click.option(
        "--out_dir", default="srez/upscaled", show_default=True, help="Where enlarged pictures go."
    ),
    click.option(
        "--plot/--no-plot", default=False, show_default=True, help="Curves and pictures in Visdom."
    ),
    click.option("--server", default="http://localhost", show_default=True, help="Visdom server."),
    click.option("--port", type=int, default=8097, show_default=True, help="Visdom port."),
    click.option("--env", default="srez", show_default=True, help="Visdom environment."),
    click.option("--output_image", type=int, default=0, hidden=True),  # unused in the fork too
    click.option(
        "--log_device_placement", type=bool, default=False, hidden=True
    ),  # TensorFlow only
]


def _with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run", "action", type=click.Choice(["train", "demo", "upscale", "evaluate"]),
    default="demo", show_default=True, help="What to do.",
)  # fmt: skip
@_with_options
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.pass_context
def main(context: click.Context, action: str, images: tuple[str, ...], **values: Any) -> None:
    """Enlarge faces 4x with adversarial networks (srez and its Wasserstein fork).

    train learns from --dataset, demo makes a film of the sample pictures, upscale enlarges IMAGEs
    with the checkpoint, evaluate measures it on the held-out faces.
    """
    options = Options(**{name: values[name] for name in DEFAULTS})
    options.check()
    if images and action != "upscale":
        raise click.UsageError(
            f"--run={action} takes no IMAGE arguments; did you mean --run=upscale?"
        )
    if action == "demo":
        from eyescream_py.srez.demo import run_demo

        run_demo(options.train_dir)
        return
    typed = {
        name: context.get_parameter_source(name) == ParameterSource.COMMANDLINE for name in values
    }
    _run_with_torch(action, images, options, values, typed)


def _run_with_torch(
    action: str,
    images: tuple[str, ...],
    options: Options,
    values: dict[str, Any],
    typed: dict[str, bool],
) -> None:
    from eyescream_py.runtime import choose_device, set_threads

    set_threads(values["threads"], typed["threads"])
    device = choose_device(values["gpu"], typed["gpu"])
    if action == "train":
        _train(options, device, values)
    elif action == "evaluate":
        from eyescream_py.srez.evaluation import run_evaluate

        run_evaluate(options, device)
    else:
        from eyescream_py.srez.upscale import run_upscale

        if not typed["crop"]:  # a person's picture is rarely aligned as CelebA's are
            options = dataclasses.replace(options, crop="none")
        run_upscale(options, images, values["upscale_mode"], values["out_dir"], device)


def _train(options: Options, device: Any, values: dict[str, Any]) -> None:
    from eyescream_py.srez.training import run_train

    if not values["plot"]:
        run_train(options, device)
        return
    from eyescream_py.plots import Plots

    plots = Plots.open(True, values["server"], values["port"], values["env"])
    try:
        run_train(options, device, plots)
    finally:
        plots.close()


if __name__ == "__main__":
    main()
