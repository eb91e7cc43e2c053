"""ganless-hd and the plain reading of the published program, equally long: who has learned more?

    python -m benchmarks.ganless_equal_time PHOTOS [--seconds 40] [--size 64] [--width 1]

Both sides have the published settings (one correlation over the whole batch, the last six iterates
averaged, two steps per batch), the same random features, start values and batches, and each gets
so many seconds of CPU time, by turns. Then the loss of both on photographs that neither saw.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from benchmarks.ganless_hd import PlainTrainer
from eyescream_py import features
from eyescream_py.features.resnet import random_resnet
from eyescream_py.ganless_hd.data import (
    ContourPhotos,
    ResizedPhotos,
    find_photos,
    fixed_batches,
    fixed_pairs,
    to_network,
)
from eyescream_py.ganless_hd.losses import PerceptualLoss
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.trainer import Trainer

CPU = torch.device("cpu")


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=40.0, show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--width", default=1.0, show_default=True)
@click.option("--heldout", default=20, show_default=True)
def main(photos: Path, seconds: float, size: int, batch: int, width: float, heldout: int) -> None:
    """Print batches done and the losses of photographs that were held out."""
    torch.set_num_threads(1)
    paths = find_photos([photos]).paths
    load = size * 9 // 8
    dataset = ContourPhotos(ResizedPhotos(paths[:-heldout], load), size, True, 0)
    unseen = fixed_batches(fixed_pairs(ResizedPhotos(paths[-heldout:], load), size, True), batch)
    calibration = fixed_batches((dataset[n] for n in range(32)), batch)
    networks = [random_resnet(width) for _ in range(2)]
    for network in networks:
        features.calibrate(network, (to_network(pair[1], CPU) for pair in calibration))
    ours = Trainer(
        UNet(width), PerceptualLoss(features.frozen(networks[0])), Options(batchSize=batch), CPU
    )
    sides: dict[str, Trainer | PlainTrainer] = {
        "ours": ours,
        "plain": PlainTrainer(UNet(width), networks[1], CPU),
    }
    used, done = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    while min(used.values()) < seconds:
        name = min(used, key=lambda side: used[side])
        numbers = range(1000 + done[name] * batch, 1000 + (done[name] + 1) * batch)
        inputs, targets = fixed_batches((dataset[n] for n in numbers), batch)[0]
        start = time.process_time()
        sides[name].train_batch(to_network(inputs, CPU), to_network(targets, CPU))
        used[name] += time.process_time() - start
        done[name] += 1
    click.echo(f"{size} px, batch {batch}, width {width}, {seconds:g} s of CPU time, one thread")
    for name, side in sides.items():
        ours.network.load_state_dict(side.network.state_dict())
        losses = ours.evaluate(unseen)
        words = ", ".join(f"{key} {value:.3f}" for key, value in losses.items())
        click.echo(f"{name:6} {done[name]:5} batches  {words}")


if __name__ == "__main__":
    main()
