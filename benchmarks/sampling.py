"""Time sample.py's base grids with neighbours, and the Parzen score of train_c2f.py.

    python -m benchmarks.sampling [--threads 2] [--rounds 3] [--only sample] [--output FILE]

The Lua program's times are those measured on two cores: 34 s and 104 s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import torch

from benchmarks.report import OutputFile, Table, chosen, machine
from benchmarks.sides import CLOCKS, medians
from eyescream_py import torch7
from eyescream_py.cli.sample import main as sample_command
from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial_c2f import parzen_score
from eyescream_py.networks import checkpoints, models, models_c2f
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.torch7.random import TorchSource

SAMPLE, PARZEN = "sample.py 16 px gray with neighbours", "Parzen score of c2f 16>32"
LUA_SECONDS = {SAMPLE: 34, PARZEN: 104}
PICTURES = 1000
PARZEN_IMAGES, PARZEN_TRIES = 200, 32  # train_c2f.py's defaults


def sampling(folder: Path, scale: int, threads: int) -> Callable[[], None]:
    """sample.py as it stands on an untrained run: 1024 pictures, ranking, 5 grids, neighbours."""
    dims = (1, scale, scale)
    networks = {"D": models.create_D(dims), "G": models.create_G(dims)}
    checkpoints.write(folder / "adversarial.net", networks, {"opt": {}, "epoch": 1})
    torch7.save(folder / "faces.t7", torch.rand(PICTURES, *dims))
    arguments = [
        f"--save_base={folder}", f"--save_c2f32={folder}", f"--writeto={folder / 'samples'}",
        f"--dataset={folder / 'faces.t7'}", "--neighbours",
        "--runs=1", "--gpu=-1", f"--threads={threads}",
    ]  # fmt: skip
    return lambda: sample_command.main(arguments, standalone_mode=False)


def parzen() -> Callable[[], None]:
    """The score of an untrained G on noise, with the trainer's forms of its layers."""
    G = models_c2f.create_G((1, 32, 32))
    speed_up(G)
    pixels = torch.randint(0, 256, (PARZEN_IMAGES, 1, 32, 32), dtype=torch.uint8)
    data, source = Dataset(pixels, "noise"), TorchSource(0)

    def score() -> None:
        parzen_score(G, data, 16, PARZEN_IMAGES, PARZEN_TRIES, source)

    return score


@click.command()
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--rounds", default=3, help="Timed rounds.")
@click.option("--only", default="", help="Rows whose name contains this.")
@click.option(
    "--clock", type=click.Choice(list(CLOCKS)), default="wall",
    help="cpu: processor time, for a machine that is busy with other work; with --threads=1.",
)  # fmt: skip
@click.option("--output", type=OutputFile(), help="Also write the table here.")
def main(threads: int, rounds: int, only: str, clock: str, output: Path | None) -> None:
    """Time each in turn; the Lua program's seconds are wall time of another machine's two cores."""
    torch.set_num_threads(threads)
    table = Table("work", "ours s", "Lua s", "Lua/ours")
    with tempfile.TemporaryDirectory() as folder:
        works = {SAMPLE: sampling(Path(folder), 16, threads), PARZEN: parzen()}
        wanted = {name: works[name] for name in chosen(works, only)}
        for name, took in medians(wanted, rounds, CLOCKS[clock], warm_up=0).items():
            lua = LUA_SECONDS[name]
            table.add(name, f"{took:.2f}", lua, f"{lua / took:.1f}")
    table.publish(f"Sampling and scoring, medians, {clock} time", machine(), output)


if __name__ == "__main__":
    main()
