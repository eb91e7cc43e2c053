"""Does the default game at 32 px in colour stay alive? Several seeds, thousands of iterations.

    python -m benchmarks.long_colour --dataset FOLDER [--seeds 1,2,3] [--iterations 4000] [--gpu 0]

Runs `train.py` with its defaults and prints a table of losses; `--output` and `--curve` write it
and draw the curves; with `--runs` the runs stay there, and the same command continues one that was
stopped. Before the losses worked on logits, seed 1 was dead after about 2000.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import click

from benchmarks.report import OutputFile, Table, machine

BATCH, PER_EPOCH = 16, 1000
ITERATIONS = PER_EPOCH // (BATCH // 2) - 1  # of an epoch: half of a batch is real
DEAD = 5.0  # a loss of D that no living game keeps: -ln of 1 %
SAVED = 4  # epochs between saves, so that a stopped run loses little
SHOWN = 8  # rows of the table for each seed
WORDS = ("certain of every picture", "are all alike", "gradients are all 0")


def train(seed: int, iterations: int, dataset: Path, gpu: int, save: Path, more: list[str]) -> str:
    """What the run says; its metrics are in `save`, from where it continues."""
    earlier = ["--network=adversarial.net"] if (save / "adversarial.net").exists() else []
    epochs = math.ceil(iterations / ITERATIONS)
    command = [
        sys.executable, "train.py", "--scale=32", "--noplot", f"--dataset={dataset}",
        f"--save={save}", f"--seed={seed}", f"--epochs={epochs}", f"--gpu={gpu}",
        f"--N_epoch={PER_EPOCH}", f"--saveFreq={SAVED}", *earlier, *more,
    ]  # fmt: skip
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(f"seed {seed}: {done.stderr.strip() or done.stdout[-500:]}")
    return done.stdout


def metrics(save: Path) -> list[dict[str, float]]:
    """A record per epoch that has ended."""
    path = save / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw(curves: dict[int, list[dict[str, float]]], path: Path) -> None:
    """Both losses of each seed over the iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("D_loss", "G_loss"), strict=True):
        for seed, rows in curves.items():
            x = [ITERATIONS * row["epoch"] for row in rows]
            axes.plot(x, [row[key] for row in rows], label=f"seed {seed}")
        axes.set(title=key.replace("_", ": "), xlabel="iterations", ylim=(0, None))
        axes.legend()
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--dataset", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--seeds", default="1,2,3", help="Separated by commas.")
@click.option("--iterations", default=4000)
@click.option("--gpu", default=0, help="CUDA device, -1 for the CPU.")
@click.option("--runs", type=click.Path(path_type=Path), help="Keep the runs here.")
@click.option("--output", type=OutputFile(), help="Also write the table here.")
@click.option("--curve", type=OutputFile(), help="Draw the curves here.")
@click.argument("more", nargs=-1)
def main(
    dataset: Path,
    seeds: str,
    iterations: int,
    gpu: int,
    runs: Path | None,
    output: Path | None,
    curve: Path | None,
    more: tuple[str, ...],
) -> None:
    """MORE are further flags of train.py, after `--`."""
    import torch

    table = Table("seed", "iterations", "D loss", "G loss", "accuracy of D", "images/s")
    curves, dead = {}, []
    for seed in map(int, seeds.split(",")):
        with nullcontext(runs / f"seed{seed}") if runs else tempfile.TemporaryDirectory() as folder:
            said = train(seed, iterations, dataset, gpu, Path(folder), list(more))
            curves[seed] = rows = metrics(Path(folder))
        step = max(1, len(rows) // SHOWN)
        for row in rows[step - 1 :: step]:
            table.add(
                seed, ITERATIONS * int(row["epoch"]), f"{row['D_loss']:.3f}",
                f"{row['G_loss']:.3f}", f"{row['D_accuracy']:.1%}", row["images_per_second"],
            )  # fmt: skip
            print(table.last(), flush=True)
        if rows[-1]["D_loss"] > DEAD or any(words in said for words in WORDS):
            dead.append(seed)
    device = torch.device("cuda", gpu) if gpu >= 0 else torch.device("cpu")
    table.publish("32 px colour, train.py's defaults", machine(device), output)
    if curve:
        draw(curves, curve)
    print(f"dead: seeds {dead}" if dead else f"all {len(curves)} seeds alive")
    sys.exit(bool(dead))


if __name__ == "__main__":
    main()
