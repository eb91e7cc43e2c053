"""What the trainer's and the bench's command lines share: the flags that fill a run's `Options`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import click

from eyescream_py.srez.options import CHOICES, PRESETS, Options
from eyescream_py.system.numbers import FINITE
from eyescream_py.system.places import PATH, PathText

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _choice(name: str) -> click.Choice[str]:
    return click.Choice(CHOICES[name])


class PathOrNone(PathText):
    """A path, or '' for none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return super().convert(value, param, ctx) if value else ""


FLAGS: dict[str, tuple[Any, str]] = {
    "dataset": (PATH, "Folder of face pictures, searched with its sub-folders."),
    "checkpoint_dir": (PATH, "Where checkpoints are."),
    "train_dir": (PATH, "Where sample pictures go. Must be empty or new, unless --resume."),
    "summary_dir": (PATH, "Where metrics.jsonl and evaluations go."),
    "cache_dir": (PathOrNone(), "Where decoded pictures are kept; '' keeps none."),
    "crop": (
        _choice("crop"),
        "Where the face is: CelebA's or LFW's fixed window, or the middle.",
    ),
    "test_vectors": (int, "Pictures held out of training."),
    "test_list": (PATH, "File that names the held-out pictures, or counts them from 1."),
    "train_images": (int, "Train on this many pictures only, 0 for all."),
    "sample_size": (int, "Side of the large picture, a multiple of 16 from 32 to 128."),
    "scale": (int, "Enlargement, 2, 4 or 8."),
    "input": (_choice("input"), "What the generator sees: the small picture, or noise."),
    "noise_dimension": (int, "Side of the square of noise."),
    "batch_size": (int, "Pictures per batch."),
    "random_seed": (int, "Seed of everything random."),
    "learning_rate_start": (FINITE, "Learning rate at the start."),
    "learning_rate_half_life": (int, "Batches until the rate is halved, 0 for never."),
    "learning_beta1": (FINITE, "Adam's beta1."),
    "learning_beta2": (FINITE, "Adam's beta2."),
    "epsilon": (FINITE, "Adam's epsilon."),
    "optimizer": (_choice("optimizer"), "Optimizer of both networks."),
    "gene_l1_factor": (FINITE, "f in (1-f)*adversarial + f*L1 tie to the small picture."),
    "pixel_factor": (FINITE, "Weight of the error against the true large picture (not published)."),
    "train_noise": (FINITE, "Deviation of the noise added to the generator's input."),
    "loss_func": (_choice("loss_func"), "Objective; gan is another name for dcgan."),
    "weigh_clip": (click.IntRange(0, 1), "Clip the critic to +-0.01. Default: 1 for wgan."),
    "LAMBDA": (FINITE, "Weight of the gradient penalty. Default: 10 for wgangp."),
    "n_critic": (int, "Critic updates per generator update; WGAN papers use 5."),
    "critic_norm": (
        _choice("critic_norm"),
        "Critic's normalisation. Default: batch, layer for wgangp.",
    ),
    "gen_norm": (click.IntRange(0, 1), "Batch norm in the generator."),
    "gen_architect": (_choice("gen_architect"), "Generator's stages."),
    "width": (FINITE, "Multiplies the generator's widths."),
    "critic_width": (FINITE, "Multiplies the critic's widths. Default: as --width."),
    "bn": (_choice("bn"), "Statistics of the generator's batch norm outside training."),
    "back_projection": (
        click.IntRange(0, 1),
        "Outside training: correct the output so that, reduced, it is the small picture.",
    ),
    "precision": (_choice("precision"), "Arithmetic of training; bf16 pays on a GPU."),
    "capture": (click.IntRange(0, 1), "On a GPU, record the step as a graph and replay it."),
    "preset": (
        _choice("preset"),
        "Defaults of the original program, or of its fork, for the flags that are not given.",
    ),
    "train_time": (FINITE, "Minutes to train, over resumptions."),
    "max_batches": (int, "Batches to train, 0 for no limit."),
    "summary_period": (int, "Batches between sample pictures."),
    "checkpoint_period": (int, "Batches between checkpoints."),
    "on_finish": (str, "Shell command to run when training came to its end."),
}


def run_flags(but: Collection[str] = ()) -> Decorator:
    """Every flag of FLAGS except those named in `but`, with the defaults of Options."""

    def declare(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, (kind, text) in reversed(FLAGS.items()):
            if name not in but:
                shown = DEFAULTS[name] not in (None, "")
                command = click.option(
                    f"--{name}", name, type=kind, default=DEFAULTS[name], show_default=shown,
                    help=text,
                )(command)  # fmt: skip
        return command

    return declare


def with_preset(values: dict[str, Any], typed: Callable[[str], bool]) -> dict[str, Any]:
    """`values` with what --preset stands for put in where a person typed nothing."""
    preset = PRESETS.get(values.get("preset") or "", {})
    return values | {name: value for name, value in preset.items() if not typed(name)}


def machine_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """--gpu and --threads."""
    for name, default, text in (
        ("threads", 4, "CPU threads."),
        ("gpu", 0, "CUDA device, -1 for the CPU."),
    ):
        command = click.option(
            f"--{name}", type=int, default=default, show_default=True, help=text
        )(command)
    return command
