"""ganless-hd runs beside each other on photographs that none of them trained on.

python -m benchmarks.ganless_features RUN RUN ... [--sheet FILE.jpg]

Every RUN is a folder of `train` with the same photographs and the same --heldout. Nothing that a
run was trained to please is measured alone: beside the squared error of the pixels stand SSIM, a
distance on the features of a random ResNet-18 that no run used (its five taps normalised over
channels, as LPIPS does, without learned weights), and the sliced Wasserstein distance.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from eyescream_py import features
from eyescream_py.ganless_hd.averaging import FlatParameters
from eyescream_py.ganless_hd.checkpoints import read_tensors
from eyescream_py.ganless_hd.data import to_network
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.resuming import state_file
from eyescream_py.ganless_hd.start import photographs
from eyescream_py.results import quality

CPU = torch.device("cpu")
JUDGE_SEED = 4711  # of features that no run was trained with
ROWS = 8


def painter(folder: Path) -> tuple[UNet, Options, int]:
    """The averaged network of a run's latest state, its options, its batches so far."""
    state, about = read_tensors(state_file(folder))
    stored = {k: v for k, v in about["options"].items() if k in Options.__dataclass_fields__}
    options = Options(**{**stored, "dataroota": tuple(stored["dataroota"])})
    network = UNet(options.width)
    FlatParameters(network).set(state.get("averaging.teacher", state["weights"]))
    return network.eval(), options, about["progress"]["iteration"]


@torch.no_grad()
def perceptual(network: features.FeatureNetwork, a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over taps and places of the squared distance of unit vectors over channels."""
    terms = []
    for first, second in zip(network(a), network(b), strict=True):
        units = [tap / (tap.norm(dim=1, keepdim=True) + 1e-8) for tap in (first, second)]
        terms.append((units[0] - units[1]).square().sum(1).mean())
    return float(torch.stack(terms).mean())


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004) of pictures (N, 3, H, W) in -1..1, taken in
    0..1."""
    pairs = zip(((a + 1) / 2).numpy(), ((b + 1) / 2).numpy(), strict=True)
    return float(
        np.mean([structural_similarity(x, y, channel_axis=0, data_range=1.0) for x, y in pairs])
    )


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path), help="Rows: target, input, each run.")
@click.option("--threads", default=1, show_default=True)
def main(runs: tuple[Path, ...], sheet: Path | None, threads: int) -> None:
    """Print a row per run; write a sheet of eight of the held-out photographs."""
    torch.set_num_threads(threads)
    _, options, _ = painter(runs[0])
    _, batches = photographs(options)
    inputs, targets = (
        torch.cat([to_network(batch[part], CPU) for batch in batches]) for part in (0, 1)
    )
    judge = features.load("random", seed=JUDGE_SEED)
    features.calibrate(judge, targets.split(15))
    features.frozen(judge)
    rows = [targets, inputs]
    click.echo(f"{len(targets)} pictures      batches  pixels    SSIM  perceptual    SWD")
    for folder in runs:
        network, _, done = painter(folder)
        with torch.no_grad():
            outputs = torch.cat([network(part) for part in inputs.split(15)])
        pixels = float((outputs - targets).square().mean())
        swd = quality.distances((targets + 1) / 2, (outputs + 1) / 2, 0)["mean"]
        click.echo(
            f"{folder.name:20} {done:7} {pixels:7.4f} {ssim(outputs, targets):7.4f} "
            f"{perceptual(judge, outputs, targets):11.4f} {swd:6.1f}"
        )
        rows.append(outputs)
    if sheet:
        write_sheet(sheet, rows)


def write_sheet(path: Path, rows: list[torch.Tensor]) -> None:
    """One row per set, `ROWS` photographs spread over all, as a JPEG or PNG."""
    chosen = torch.linspace(0, len(rows[0]) - 1, ROWS).long()
    strips = [torch.cat(tuple(row[chosen]), 2) for row in rows]
    page = torch.cat(strips, 1).add(1).mul(127.5).round().clamp(0, 255).byte()
    Image.fromarray(page.permute(1, 2, 0).numpy()).save(path, quality=90)


if __name__ == "__main__":
    main()
