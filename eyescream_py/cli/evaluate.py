"""`eyescream evaluate`: how near generated pictures are to real ones."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import options


@click.command(context_settings={"max_content_width": 100})
@click.argument("subject", default="logs/adversarial.net")
@click.option("--dataset", default=None, help="Pictures it trained on, as train.py --dataset.")
@click.option(
    "--heldout", default=None, help="Real pictures it never saw; else half of --dataset serves."
)
@options.number("--images", "images", 2000, "Pictures per set, at most.", click.IntRange(1))
@options.number("--scale", "scale", 32, "Size, where SUBJECT is a folder.", click.IntRange(1))
@click.option("--grayscale", is_flag=True, help="Gray, where SUBJECT is a folder.")
@click.option("--writeto", default="samples", show_default=True, help="Folder for the results.")
@options.seed_option()
@options.number("--gpu", "gpu", 0, "CUDA device, -1 for the CPU.", int)
@options.number("--threads", "threads", 8, "CPU threads (never more than cores by default).", int)
@click.option(
    "--ema/--no-ema",
    default=True,
    show_default=True,
    help="Use the averaged G of --G_ema where the file has one.",
)
@click.option(
    "--features",
    default="auto",
    show_default=True,
    metavar="auto|lite0|random|none|FILE",
    help="What the Fréchet and kernel distances see with; auto: lite0 where installed.",
)
def main(**values: Any) -> None:
    """Measure SUBJECT (a .net or exported G, a folder of pictures, an .npy array) against real
    pictures.

    Prints a table and writes evaluation.json and evaluation.png; docs/evaluate.md explains them.
    """
    typed = options.typed_flags()
    from eyescream_py.results.evaluation import EvaluateOptions, evaluate

    evaluate(EvaluateOptions(**values, typed=typed))


if __name__ == "__main__":
    main()
