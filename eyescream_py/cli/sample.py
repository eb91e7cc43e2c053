"""`sample.py`: pictures from trained networks (`sample.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import options
from eyescream_py.system.signals import stoppable


@click.command(context_settings={"max_content_width": 100})
@click.option("--save_base", default="logs", show_default=True, help="Folder of G_base and D_base.")
@click.option("--save_c2f32", default="logs", show_default=True, help="Folder of the c2f pair.")
@click.option("--G_base", "G_base", default="adversarial.net", show_default=True, help="File of G.")
@click.option("--D_base", "D_base", default="adversarial.net", show_default=True, help="File of D.")
@click.option(
    "--G_c2f32",
    "G_c2f32",
    default="adversarial_c2f_16_to_32.net",
    show_default=True,
    help="File of the upscaling G.",
)
@click.option(
    "--D_c2f32",
    "D_c2f32",
    default="adversarial_c2f_16_to_32.net",
    show_default=True,
    help="File of the upscaling D.",
)
@click.option(
    "--neighbours", is_flag=True, help="Show the best beside their nearest training pictures."
)
@options.number("--scale", "scale", 32, "Checked against the network if given.", int)
@click.option("--grayscale", is_flag=True, help="Checked against the network if given.")
@click.option("--writeto", default="samples", show_default=True, help="Folder for the pictures.")
@options.seed_option()
@options.number("--gpu", "gpu", 0, "CUDA device, -1 for the CPU.", int)
@options.number("--runs", "runs", 3, "How many sets of grids.", click.IntRange(1))
@options.number("--noiseDim", "noise_dim", 100, "Checked against the network if given.", int)
@options.number("--batchSize", "batch_size", 16, "Pictures per forward pass.", click.IntRange(1))
@options.aws_option()
@click.option("--dataset", default=None, help="Pictures for --neighbours: a folder or .t7 file.")
@options.number("--threads", "threads", 8, "CPU threads (never more than cores by default).", int)
@click.option(
    "--ema/--no-ema",
    default=True,
    show_default=True,
    help="Use the averaged G of --G_ema where the file has one.",
)
@options.number(
    "--interpolate",
    "interpolate",
    0,
    "Also a film of so many frames between noise vectors.",
    click.IntRange(0),
)
@click.option(
    "--export",
    default="",
    help="Write G to this .safetensors, .pt (TorchScript) or .onnx file, and no grids.",
)
def main(**values: Any) -> None:
    """Write grids of generated faces: the best and worst by D, random ones, refined ones."""
    typed = options.typed_flags()
    with stoppable("before all grids were written; those that are there are whole"):
        from eyescream_py.results.grids import SampleOptions, sample

        sample(SampleOptions(**values, typed=typed))
