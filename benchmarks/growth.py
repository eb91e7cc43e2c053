"""How an epoch's time and the run's memory grow: train.py, as a person starts it.

    python -m benchmarks.growth [--lengths 200 --lengths 400 ...] [--epochs 1000] [--output FILE]

An epoch's time per picture should not depend on N_epoch, nor the memory on the epochs done.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.long_colour import metrics
from benchmarks.processes import resident_mb
from benchmarks.report import OutputFile, Table, machine

ROOT = Path(__file__).parents[1]
SMALL = (
    "--scale=16", "--grayscale", "--D_arch=b", "--noplot", "--gpu=-1", "--saveFreq=100000",
)  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    """A small run of train.py that saves into `folder`."""
    return [sys.executable, str(ROOT / "train.py"), *SMALL, f"--save={folder}", *more]


def milliseconds_per_picture(folder: Path, length: int) -> float:
    """Of the fastest of three epochs."""
    more = (f"--N_epoch={length}", "--epochs=3")
    subprocess.run(command(folder, *more), check=True, stdout=subprocess.DEVNULL)
    return min(1000 * record["seconds"] / length for record in metrics(folder))


def memory(folder: Path, epochs: int) -> list[tuple[int, float]]:
    """(epochs done, resident MB) at tenths of a run of tiny epochs."""
    more = ("--N_epoch=4", "--batchSize=4", f"--epochs={epochs}", "--threads=1")
    run = subprocess.Popen(command(folder, *more), stdout=subprocess.DEVNULL)
    seen: list[tuple[int, float]] = []
    while run.poll() is None:
        done = len(metrics(folder))
        held = resident_mb(run.pid)
        if held and done >= (len(seen) + 1) * epochs // 11:
            seen.append((done, held))
        time.sleep(0.1)
    if run.returncode:
        raise SystemExit(f"the run ended with exit code {run.returncode}")
    return seen


@click.command()
@click.option("--lengths", multiple=True, type=int, default=(200, 400, 800))
@click.option("--epochs", default=1000, help="Tiny epochs of the run whose memory is watched.")
@click.option("--output", type=OutputFile(), help="Also write the tables here.")
def main(lengths: tuple[int, ...], epochs: int, output: Path | None) -> None:
    """Time three lengths of an epoch, then watch the memory of many epochs."""
    table = Table("what", "at", "value")
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            value = milliseconds_per_picture(Path(folder) / str(length), length)
            table.add("ms per picture", f"N_epoch {length}", f"{value:.2f}")
            print(table.last(), flush=True)
        for done, value in memory(Path(folder) / "memory", epochs):
            table.add("resident MB", f"epoch {done}", f"{value:.1f}")
    table.publish("Growth of an epoch's time and of a run's memory", machine(), output)


if __name__ == "__main__":
    main()
