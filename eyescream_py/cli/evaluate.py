"""`eyescream evaluate`: how near generated pictures are to real ones."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

from typing import Any

import click

from eyescream_py.cli import options
from eyescream_py.system.commands import Command
from eyescream_py.system.places import PATH


@click.command(cls=Command, context_settings={"max_content_width": 100})
@click.argument("subject", type=PATH, default="logs/adversarial.net")
@options.place("--dataset", None, "Pictures it trained on, as train.py --dataset.")
@options.place("--heldout", None, "Real pictures it never saw; else half of --dataset serves.")
@options.number("--images", 2000, "Pictures per set, at most.", options.AT_LEAST_1)
@options.number("--scale", 32, "Size, where SUBJECT is a folder.", options.AT_LEAST_1)
@options.switch("--grayscale", "Gray, where SUBJECT is a folder.")
@options.place("--writeto", "samples", "Folder for the results.")
@options.seed_option()
@options.gpu_option()
@options.threads_option()
@options.use_averaged_option()
@click.option(
    "--features",
    type=PATH,
    default="auto",
    show_default=True,
    metavar="auto|lite0|random|none|FILE",
    help="What the Fréchet and kernel distances see with; auto: lite0 where installed.",
)
def main(**values: Any) -> None:
    """Measure SUBJECT (a .net or exported G, a folder of pictures, an .npy array; default:
    logs/adversarial.net) against real pictures.

    Prints a table and writes evaluation.json and evaluation.png; docs/evaluate.md explains them.
    """
    typed = options.typed_flags()
    from eyescream_py.results.evaluation import EvaluateOptions, evaluate

    evaluate(EvaluateOptions(**values, typed=typed))


if __name__ == "__main__":
    main()
