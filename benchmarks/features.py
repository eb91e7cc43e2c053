"""Fréchet and kernel distances by the number of pictures, and how long they take.

    python -m benchmarks.features FOLDER --net G.net [--sizes 50,500] [--threads 2]

FOLDER holds real faces, one file per photograph (`out_unaug_64x64` of generate_dataset.py). Its
pictures are split into two sets of different photographs at the size of G's pictures; rows: the one
half against the other, and G's pictures against the same half. Each figure is the mean over
`--repeats` draws of that many pictures, with the deviation from draw to draw behind it.
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch

from eyescream_py import features
from eyescream_py.data.dataset import load_dataset
from eyescream_py.results import generator

CPU = torch.device("cpu")


@click.command()
@click.argument("folder", type=click.Path(exists=True))
@click.option("--net", required=True, type=click.Path(exists=True))
@click.option("--sizes", default="50,100,250,500", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--features", "name", default="auto", show_default=True)
def main(folder: str, net: str, sizes: str, repeats: int, threads: int, name: str) -> None:
    """Print a table."""
    torch.set_num_threads(threads)
    network = generator.load_generator(net, CPU)
    made = network.sample(1000, 1)
    channels, size = made.shape[1], made.shape[-1]
    data = load_dataset(folder, channels, size, CPU, cache=False)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    real = data.floats(order)
    judge = features.judge(name, real)
    wall, cpu = time.perf_counter(), time.process_time()
    seen = features.vectors_of(judge, real)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    click.echo(
        f"{len(real)} pictures seen in {wall:.1f} s, {cpu:.1f} s of CPU time, {threads} threads"
    )
    cpu = time.process_time()
    features.frechet_distance(seen[::2], seen[1::2])
    features.kernel_distance(seen[::2], seen[1::2])
    cpu = time.process_time() - cpu
    click.echo(f"both distances of {len(real) // 2}: {cpu:.1f} s of CPU time; {judge.title}")
    generated = features.vectors_of(judge, made)
    half = len(seen) // 2
    rng = np.random.default_rng(0)
    click.echo("pictures  set        Fréchet          kernel x1000     its own spread")
    for count in map(int, sizes.split(",")):
        for word, others in (("real", seen[half:]), ("generated", generated)):
            row = [pair(seen[:half], others, count, rng) for _ in range(repeats)]
            f, k, spread = (np.array(column) for column in zip(*row, strict=True))
            click.echo(
                f"{count:8}  {word:9} {f.mean():8.2f} +- {f.std():5.2f} "
                f"{1000 * k.mean():10.2f} +- {1000 * k.std():5.2f} {1000 * spread.mean():10.2f}"
            )


def pair(
    reference: torch.Tensor, others: torch.Tensor, count: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Fréchet distance, kernel distance and its spread of `count` rows drawn from each."""
    a, b = (rows[rng.permutation(len(rows))[:count]] for rows in (reference, others))
    kernel = features.kernel_distance(a, b)
    return features.frechet_distance(a, b), kernel.value, kernel.spread


if __name__ == "__main__":
    main()
