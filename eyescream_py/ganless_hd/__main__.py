"""python -m eyescream_py.ganless_hd train|sample|make-data: photographs from contours, without a
GAN.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from eyescream_py.ganless_hd.options import CHOICES, LARGEST_SIDE, NARROWEST, WIDEST, Options
from eyescream_py.system import numbers
from eyescream_py.system.commands import Group
from eyescream_py.system.device import choose_device, memory_in_words
from eyescream_py.system.errors import UserError
from eyescream_py.system.idle import say_idle
from eyescream_py.system.places import PATH
from eyescream_py.system.voice import counted, printable, say

DEFAULTS = Options()
POSITIVE, COUNT = numbers.COUNT, numbers.COUNT_OR_NONE
WIDTH = numbers.Finite(NARROWEST, most=WIDEST)


def flag(name: str, field: str, help_text: str, **settings: Any) -> Any:
    """An option whose default is the field of `Options` that it fills."""
    default = getattr(DEFAULTS, field)
    return click.option(
        name, field, default=default, show_default=default is not None, help=help_text, **settings
    )


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Draw photographs from contours laid over a 16x16 colour map. No GAN involved."""


@main.command()
@click.option(
    "--dataroota",
    multiple=True,
    type=PATH,
    metavar="FOLDER",
    help="Folder of photographs, searched at any depth; repeat it for more.",
)
@flag("--out", "out", "Where saves/, images/ and metrics.jsonl go.", type=PATH, metavar="FOLDER")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly.")
@flag("--nthread", "nthread", "Worker processes that decode and find contours.", type=COUNT)
@flag("--loadSize", "loadSize", "Shorter side after resizing, pixels.", type=POSITIVE)
@flag("--imgSize", "imgSize", "Side of the random crops, a multiple of 64.", type=POSITIVE)
@flag("--batchSize", "batchSize", "Crops per batch; each batch takes two steps.", type=POSITIVE)
@flag("--itersPerEpoch", "itersPerEpoch", "Crops (not steps) per epoch.", type=POSITIVE)
@flag("--epochs", "epochs", "Stop after so many, resumed ones included; 0: never.", type=COUNT)
@flag("--max-steps", "max_steps", "Stop after so many optimizer steps; 0: never.", type=COUNT)
@flag("--heldout", "heldout", "Keep the last N photographs by name for measuring.", type=COUNT)
@flag(
    "--small",
    "small",
    "Photographs smaller than a crop: enlarge or skip them.",
    type=click.Choice(CHOICES["small"]),
)
@flag("--colormap/--no-colormap", "colormap", "Colours under the contours, or black.")
@flag(
    "--cache",
    "cache",
    "Folder of resized copies.  [default: OUT/cache]",
    type=PATH,
    metavar="FOLDER",
)
@flag(
    "--cache-gb",
    "cache_gb",
    "Room for resized copies, 10^9 bytes; 0: none.",
    type=numbers.Finite(0, most=1e6),
)
@flag(
    "--width",
    "width",
    "Multiplier of all channel counts of the network.",
    type=WIDTH,
)
@flag(
    "--init",
    "init",
    "Start from the tensors that fit in this .safetensors or .pth.",
    type=PATH,
    metavar="FILE",
)
@flag(
    "--basis",
    "basis",
    "Whose 3x3 filters give the basis; auto: those of a --features FILE, else analytic.",
    type=PATH,
    metavar="auto|analytic|lite0|FILE",
)
@flag(
    "--features",
    "features",
    "lite0 (trained), random, auto (lite0 where installed), or a ResNet-18 state dict.",
    type=PATH,
    metavar="auto|lite0|random|FILE",
)
@flag(
    "--features-width",
    "features_width",
    "Channel multiplier of the random features.",
    type=WIDTH,
)
@flag(
    "--pearson",
    "pearson",
    "What one correlation is taken over: batch, sample, or channel of a sample.",
    type=click.Choice(CHOICES["pearson"]),
)
@flag(
    "--averaging",
    "averaging",
    "The last six iterates (as published), an exponential teacher, or none.",
    type=click.Choice(CHOICES["averaging"]),
)
@flag("--ema-decay", "ema_decay", "The teacher's decay per step.", type=numbers.SHARE)
@flag("--lr", "lr", "Adam's learning rate.", type=numbers.Finite(1e-12, most=1e3))
@flag("--seed", "seed", "Of start values, crops and random features.", type=numbers.SEED)
@flag(
    "--precision",
    "precision",
    "auto: bfloat16 on CUDA, else float32.",
    type=click.Choice(CHOICES["precision"]),
)
@flag("--recompute/--store", "recompute", "Recompute activations backwards: less memory.")
@flag("--capture/--no-capture", "capture", "On a GPU, record the step as a graph.")
@flag("--gpu", "gpu", "CUDA device, -1 for the CPU.", type=int)
@flag("--threads", "threads", "CPU threads.", type=int)
@flag("--print-every", "print_every", "Batches between two lines.", type=POSITIVE)
@flag("--sheet-every", "sheet_every", "Batches between two sheets in images/.", type=POSITIVE)
@flag("--save-every", "save_every", "Batches between two saved states.", type=POSITIVE)
@click.option("--encoderStep", "encoder_step", type=int, help="Without effect, as published.")
@click.option("--levels", "levels", type=int, help="Without effect, as published.")
@click.option("--noplot", is_flag=True, help="No Visdom windows.")
@flag("--server", "server", "Visdom's server.")
@flag("--port", "port", "Visdom's port.", type=numbers.PORT)
@flag("--env", "env", "Visdom's environment.")
@click.pass_context
def train(
    context: click.Context, encoder_step: int | None, levels: int | None, **values: Any
) -> None:
    """Train on folders of photographs until stopped (Ctrl-C saves), --epochs or --max-steps."""
    from eyescream_py.ganless_hd.start import opened_run

    for name, value in (("encoderStep", encoder_step), ("levels", levels)):
        if value is not None:
            say(f"--{name}: has no effect, as in the published program.")
    typed = {
        name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    say_idle(
        (values["noplot"], "with --noplot", ("server", "port", "env")),
        (not values["cache_gb"], "with --cache-gb=0", ("cache",)),
        (
            not values["resume"] and values["averaging"] != "ema",
            "without --averaging=ema",
            ("ema_decay",),
        ),
    )
    advice = "give a smaller --batchSize, --imgSize or --width, or --recompute"
    with memory_in_words(advice), opened_run(Options(**values), typed) as run:
        run.train()


@main.command()
@click.argument("pictures", nargs=-1, required=True, type=PATH)
@click.option(
    "--network",
    type=PATH,
    metavar="FILE",
    help="A saves/autoEncoder-* file.  [default: the small one that comes with the program]",
)
@click.option("--out", default="samples/ganless_hd", show_default=True, type=PATH)
@click.option(
    "--size",
    default=-1,
    type=click.IntRange(-1, LARGEST_SIDE),
    help="Shorter side, pixels; 0: as is.  [default: as trained]",
)
@click.option(
    "--tile", default=0, show_default=True, type=int, help="Paint in tiles of this side; 0: whole."
)
@click.option("--drawn", is_flag=True, help="PICTURES are drawn contours: light lines on dark.")
@click.option("--dark-lines", is_flag=True, help="With --drawn: dark lines on light paper.")
@click.option("--colors", type=PATH, help="With --drawn: the colours' picture.")
@click.option("--gpu", default=0, show_default=True, help="CUDA device, -1 for the CPU.")
@click.pass_context
def sample(
    context: click.Context,
    pictures: tuple[str, ...],
    network: str | None,
    out: str,
    size: int,
    tile: int,
    drawn: bool,
    dark_lines: bool,
    colors: str | None,
    gpu: int,
) -> None:
    """Paint PICTURES anew from their contours and coarse colours, or paint over drawn contours.

    Of a folder all pictures are taken.

    Writes OUT/NAME.png and OUT/NAME-sheet.png (input, output, target).
    """
    from eyescream_py.ganless_hd import sampling

    if (dark_lines or colors) and not drawn:
        raise UserError("--dark-lines and --colors go with --drawn")
    folder = Path(out)
    paths, inside = sampling.named_pictures(pictures, folder)
    ground = Path(colors) if colors else None
    sampling.check_names(paths, ground, folder)
    typed = context.get_parameter_source("gpu") is not ParameterSource.DEFAULT
    painter = sampling.load_painter(network or sampling.BOXED, choose_device(gpu, typed), tile)
    size = painter.size if size < 0 else size
    if drawn and painter.colormap and ground is None:
        say("No --colors: the contours lie over uniform grey.")

    def paint(path: Path) -> Path:
        if drawn:
            return sampling.paint_drawing(painter, path, ground, dark_lines, size, folder)
        return sampling.paint_photo(painter, path, size, folder)

    with memory_in_words("give a smaller --size, or a --tile"):
        for page in sampling.paint_each(paths, inside, paint):
            say(printable(page))


@main.command()
@click.argument("network", type=PATH)
@click.argument("file", type=PATH)
def export(network: str, file: str) -> None:
    """Write NETWORK (a saves/autoEncoder-* file) as FILE.

    A name that ends in .pth becomes the state dict that the published program opens, .safetensors a
    copy in half precision, half as large.
    """
    from eyescream_py.ganless_hd.checkpoints import read_network, write_half, write_pth

    path = Path(file)
    if path.suffix.lower() not in (".pth", ".safetensors"):
        raise UserError(f"{printable(file)}: give a name that ends in .pth or .safetensors")
    if path.exists():
        raise UserError(f"{printable(file)}: is there already, give another name")
    saved = read_network(network)
    if path.suffix.lower() == ".safetensors":
        write_half(path, saved)
        say(f"{printable(file)}: {path.stat().st_size:,} bytes")
        return
    write_pth(path, saved.network)
    say(f"{printable(file)}: the published program opens it if it was trained at --width 1.")


@main.command("make-data")
@click.argument("folder", type=PATH)
@click.option("--count", default=200, show_default=True, type=numbers.FILES)
@click.option(
    "--size", default=640, show_default=True, type=click.IntRange(16, 2**13), help="Side, pixels."
)
@click.option("--seed", default=0, show_default=True, type=numbers.SEED)
def make_data(folder: str, count: int, size: int, seed: int) -> None:
    """Write procedural scenes into FOLDER, for trying the program without photographs."""
    from eyescream_py.ganless_hd.scenes import write_scenes

    write_scenes(Path(folder), count, size, seed)
    say(f"{counted(count, 'scene')} in {printable(folder)}")


if __name__ == "__main__":
    main(prog_name="python -m eyescream_py.ganless_hd")
