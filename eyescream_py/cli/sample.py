"""`sample.py`: pictures from trained networks (`sample.lua`)."""

from __future__ import annotations

from typing import Any

import click

from eyescream_py.cli import options
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import stoppable


@click.command(cls=Command, context_settings={"max_content_width": 100})
@options.place("--save_base", "logs", "Folder of G_base and D_base.")
@options.place("--save_c2f32", "logs", "Folder of the c2f pair.")
@options.place("--G_base", "adversarial.net", "File of G.")
@options.place("--D_base", "adversarial.net", "File of D, where it is not G's own.")
@options.place("--G_c2f32", "adversarial_c2f_16_to_32.net", "File of the upscaling G.")
@options.place("--D_c2f32", "adversarial_c2f_16_to_32.net", "Its D, where it is not G's own.")
@options.switch("--neighbours", "Show the best beside their nearest training pictures.")
@options.number("--scale", 32, "Checked against the network if given.", int)
@options.switch("--grayscale", "Checked against the network if given.")
@options.place("--writeto", "samples", "Folder for the pictures.")
@options.seed_option()
@options.gpu_option()
@options.number("--runs", 3, "How many sets of grids.", options.AT_LEAST_1)
@options.number("--noiseDim", 100, "Checked against the network if given.", int, "noise_dim")
@options.number("--batchSize", 16, "Pictures per forward pass.", options.AT_LEAST_1, "batch_size")
@options.aws_option()
@options.place("--dataset", None, "Pictures for --neighbours: a folder or .t7 file.")
@options.threads_option()
@options.use_averaged_option()
@options.count("--interpolate", "Also a film of so many frames between noise vectors.")
@options.place(
    "--export", "", "Write G to this .safetensors, .pt (TorchScript) or .onnx file, and no grids."
)
@options.switch("--overwrite", "Replace the file that --export names.")
@options.switch("--explore", "Write nothing: faces that follow sliders, in Visdom.")
@options.visdom_options("the network's name and a few letters")
def main(
    explore: bool, visdom_server: str, visdom_port: int, visdom_env: str, **values: Any
) -> None:
    """Write grids of generated faces: the best and worst by D, random ones, refined ones."""
    typed = options.typed_flags()
    lost = sorted(typed & {"visdom_server", "visdom_port", "visdom_env"})
    if lost and not explore:
        raise UserError(f"--{lost[0]}: only --explore shows a page; add that, or leave this out")
    doing = "while exploring" if explore else "before all grids were written"
    left = "nothing is saved" if explore else "those that are there are whole"
    with stoppable(f"{doing}; {left}", "--batchSize"):
        from eyescream_py.results.grids import SampleOptions, sample

        chosen = SampleOptions(**values, typed=typed)
        if not explore:
            sample(chosen)
            return
        from eyescream_py.cli import explore as page

        page.explore(chosen, visdom_server, visdom_port, visdom_env)
