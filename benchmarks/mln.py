"""MLN measurements that print Markdown tables.

python benchmarks/mln.py masks --data FOLDER --images FOLDER    the 200 x 200 Poisson-disc benchmark
python benchmarks/mln.py b0                                     T = 1, 3 against the model-based CG
under B0 python benchmarks/mln.py scan --data FOLDER --images FOLDER     the real spiral scan,
without and with B0 python benchmarks/mln.py operators --data FOLDER                the forward
operator against the original's python benchmarks/mln.py memory                                 peak
memory, 128 px, 13 coils, 7 segments

The real scan has its own file, mln_scan.py. FOLDER of --data holds the files of the original's
repository; see docs/mln.md.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.mln import training
from eyescream_py.mln.analytic import set_regression_weights
from eyescream_py.mln.baselines import adjoint_image, cg_sense
from eyescream_py.mln.data import Examples, load_images
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.mat import read_mat
from eyescream_py.mln.metrics import nrmse
from eyescream_py.mln.networks import MinimalLinearNetwork, Shape, build_network
from eyescream_py.mln.nufft import ExactDFT, Finufft, MatrixNUFFT, choose_operator
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.trajectories import (
    cartesian,
    density_compensation,
)

MASK_COLUMNS = (
    "| samples | undersampling | zero-filled | CG-SENSE | MLN start | MLN "
    "| ms CG | ms MLN | CPU min |"
)


@click.group()
def main() -> None:
    """Measurements of the MLN room."""


def machine() -> str:
    threads = torch.get_num_threads()
    return f"{time.strftime('%Y-%m-%d')}, {platform.machine()} CPU, {threads} threads"


def fine_tune(
    network: MinimalLinearNetwork, examples: Examples, params: Params, minutes: float, first: int
) -> int:
    """Adam on fresh examples for `minutes` of CPU time per thread; returns the number of
    batches.
    """
    optimizer = training.adam(network, params)
    begun, batches = time.process_time(), 0
    allowed = 60 * minutes
    while (spent := (time.process_time() - begun) / torch.get_num_threads()) < allowed:
        rate = params.learning_rate * 0.1 ** (spent / allowed)
        batch = examples.batch(first + batches * params.batch_size, params.batch_size)
        loss = training.train_step(network, optimizer, batch, params, rate)[0]
        batches += 1
        if batches % 50 == 0:
            click.echo(f"    batch {batches}, {spent / 60:.1f} min, loss {loss:.4f}", err=True)
    return batches


def reconstructed(method: Callable[[Tensor], Tensor], signal: Tensor) -> tuple[Tensor, float]:
    """Images and ms per image, one image at a time, the fastest of two rounds (the first makes
    plans).
    """
    times = []
    with torch.no_grad():
        for _ in range(2):
            begun = time.perf_counter()
            images = torch.cat([method(one[None]) for one in signal])
            times.append(1000 * (time.perf_counter() - begun) / len(signal))
    return images, min(times)


def benchmark_images(data: Path) -> Tensor:
    """The 7 test images (7, 200, 200) scaled to RMS 0.3, complex64."""
    cells = read_mat(data / "TestImages.mat", ["TIs"])["TIs"].ravel()
    images = np.stack([np.asarray(cell, np.complex128) for cell in cells])
    power = np.sqrt((np.abs(images) ** 2).mean((1, 2), keepdims=True))
    return torch.from_numpy(0.3 * images / power).to(torch.complex64)


def mask_protocol(data: Path, number: int) -> Protocol:
    masks = read_mat(data / "SamplingMasks.mat", ["MskM"])["MskM"]
    maps = read_mat(data / "SensitivityMap.mat", ["Sens", "MskS"])
    trajectory = cartesian(masks[:, :, number - 1] > 0)
    coils = torch.from_numpy(maps["Sens"].transpose(2, 0, 1)).to(torch.complex64)
    mask = torch.from_numpy((maps["MskS"] > 0).astype(np.float32))
    coils = coils * mask
    acquisition = Acquisition(choose_operator(trajectory, mask.shape[0]), coils[None])
    return Protocol(trajectory, acquisition, mask[None])


def mean_nrmse(images: Tensor, truth: Tensor, mask: Tensor) -> float:
    pairs = zip(images[:, 0].numpy(), truth.numpy(), strict=True)
    return float(np.mean([nrmse(one, two, mask[0].numpy()) for one, two in pairs]))


@main.command()
@click.option("--data", required=True, type=Path)
@click.option("--images", required=True, help="Folder of generic training pictures.")
@click.option("--channels", default=8, show_default=True, help="Virtual coils, = T.")
@click.option("--neighbours", default=12, show_default=True)
@click.option("--examples", default=400, show_default=True)
@click.option("--sweeps", default=3, show_default=True)
@click.option("--ridge", default=1e-4, show_default=True)
@click.option("--minutes", default=1.0, show_default=True, help="Adam, per mask.")
@click.option("--rate", default=2e-5, show_default=True)
@click.option("--cg", default=(10, 25), multiple=True, show_default=True, help="CG steps to try.")
@click.option("--threads", default=2, show_default=True)
@click.option("--only", default=0, help="One of WhichAccs; 0: all five.")
@click.option("--out", default=None, type=Path, help="JSON lines, one per mask.")
@click.option("--picture", default=None, type=Path, help="JPEG of the last mask's images.")
def masks(
    data: Path,
    images: str,
    channels: int,
    neighbours: int,
    examples: int,
    sweeps: int,
    ridge: float,
    minutes: float,
    rate: float,
    cg: tuple[int, ...],
    threads: int,
    only: int,
    out: Path | None,
    picture: Path | None,
) -> None:
    """NRMSE of zero-filled, CG-SENSE and MLN on the original's 7 test images, per acceleration.

    CG-SENSE's steps and damping are the best ones for these very images.
    """
    torch.set_num_threads(threads)
    params = replace(
        Params(),
        image_side=200,
        k_grid="matched",
        learning_rate=rate,
        batch_size=8,
        images_to_load=1000,
    )
    stack = load_images(images, params.images_to_load, 200)
    truth = benchmark_images(data)
    click.echo(machine())
    click.echo(MASK_COLUMNS)
    click.echo("|---|---|---|---|---|---|---|---|---|")
    numbers = (
        [only] if only else read_mat(data / "SamplingMasks.mat", ["WhichAccs"])["WhichAccs"].ravel()
    )
    for number in numbers:
        protocol = mask_protocol(data, int(number))
        begun = time.process_time()
        row, pictures = _mask_row(
            protocol,
            truth,
            stack,
            params,
            (channels, neighbours, examples, sweeps, ridge, minutes, cg),
        )
        row["cpu_minutes"] = (time.process_time() - begun) / 60
        cells = ["zero_filled", "cg", "start", "mln"]
        click.echo(
            f"| {row['samples']} | {40000 / row['samples']:.1f} | "
            + " | ".join(f"{row[name]:.4f}" for name in cells)
            + f" | {row['ms_cg']:.0f} | {row['ms_mln']:.0f} | {row['cpu_minutes']:.1f} |"
        )
        if out:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if picture:
            mask_picture(pictures, picture.with_name(f"{picture.stem}_{row['samples']}.jpg"))


def _mask_row(
    protocol: Protocol,
    truth: Tensor,
    stack: NDArray[Any],
    params: Params,
    settings: tuple[Any, ...],
) -> tuple[dict[str, Any], list[Tensor]]:
    channels, neighbours, count, sweeps, ridge, minutes, cg_steps = settings
    signal = protocol.acquisition.forward((truth * protocol.mask[0])[:, None])
    zero, _ = reconstructed(lambda s: adjoint_image(protocol.acquisition, s), signal)
    cg_errors = {}
    for iterations in cg_steps:
        for damping in (0.0, 1e-2):
            images = cg_sense(protocol.acquisition, signal, iterations, damping)
            cg_errors[iterations, damping] = mean_nrmse(images, truth, protocol.mask)
    best = min(cg_errors, key=lambda key: cg_errors[key])
    cg, ms_cg = reconstructed(lambda s: cg_sense(protocol.acquisition, s, *best), signal)
    shape = Shape(
        200, 200, 100.0, protocol.acquisition.coils.shape[1], neighbours, channels, k_grid="matched"
    )
    network = build_network(shape, protocol.trajectory)
    examples = Examples(params, protocol, stack)
    set_regression_weights(network, protocol, examples, count, ridge, channels, sweeps)
    start, _ = reconstructed(network, signal)
    batches = fine_tune(network, examples, params, minutes, count)
    mln, ms_mln = reconstructed(network, signal)
    row = {
        "samples": protocol.trajectory.shape[1],
        "zero_filled": mean_nrmse(zero, truth, protocol.mask),
        "cg": mean_nrmse(cg, truth, protocol.mask),
        "cg_settings": best,
        "start": mean_nrmse(start, truth, protocol.mask),
        "mln": mean_nrmse(mln, truth, protocol.mask),
        "per_image": [
            mean_nrmse(mln[i : i + 1], truth[i : i + 1], protocol.mask) for i in range(7)
        ],
        "per_image_cg": [
            mean_nrmse(cg[i : i + 1], truth[i : i + 1], protocol.mask) for i in range(7)
        ],
        "batches": batches,
        "ms_cg": ms_cg,
        "ms_mln": ms_mln,
    }
    return row, [truth * protocol.mask[0], zero[:, 0], cg[:, 0], mln[:, 0]]


def mask_picture(rows: list[Tensor], path: Path) -> None:
    """Truth, zero-filled, CG-SENSE and MLN as rows, the test images as columns."""
    scale = rows[0].abs().amax((1, 2), keepdim=True) * 0.8
    grid = torch.cat([torch.cat(list((row.abs() / scale).clamp(0, 1)), 1) for row in rows])
    save_jpeg(grid.numpy(), path)


def save_jpeg(grey: NDArray[Any], path: Path) -> None:
    from PIL import Image

    Image.fromarray((255 * grey).round().astype(np.uint8)).save(path, quality=85)


@main.command()
@click.option("--batches", default=1500, show_default=True)
@click.option("--peak", default=150.0, show_default=True, help="Hz, over a readout of 10 ms.")
@click.option("--side", default=32, show_default=True)
def b0(batches: int, peak: float, side: int) -> None:
    """NRMSE under off-resonance: T = 1, 3 from random weights and from the regression start, and
    CG.
    """
    torch.set_num_threads(1)
    setup = Setup(side=side, coils=4, samples=22 * side, turns=side / 3.2, b0_hz=peak, segments=7)
    protocol, _ = make_protocol(setup)
    params = replace(
        Params(),
        image_side=side,
        k_grid="matched",
        learning_rate=0.002,
        half_life=max(1000, batches / 3),
    )
    stack = load_images("", 64, side)
    test = Examples(params, protocol, load_images("", 64, side, seed=2), seed=99).simulate(
        list(range(32))
    )
    mask = protocol.mask

    def error(images: Tensor) -> float:
        return mean_nrmse(images, test.label[:, 0], mask)

    weights = torch.from_numpy(density_compensation(protocol.trajectory))
    blind = replace(protocol.acquisition, phases=None, interpolation=None)
    click.echo(f"{machine()}; +-{peak:g} Hz over 10 ms, {side} px, {batches} batches of 16")
    click.echo("| method | NRMSE |\n|---|---|")
    adjoint = adjoint_image(protocol.acquisition, test.signal, weights)
    click.echo(f"| adjoint with B0 | {error(adjoint):.3f} |")
    click.echo(f"| CG-SENSE without B0 | {error(cg_sense(blind, test.signal, 12)):.3f} |")
    click.echo(
        f"| CG-SENSE with B0 | {error(cg_sense(protocol.acquisition, test.signal, 30)):.3f} |"
    )
    for segments in (1, 3):
        for start in ("random", "regression"):
            name, value = _b0_row(protocol, stack, params, segments, start, batches, test.signal)
            click.echo(f"| MLN, T = {segments}, {name} | {error(value):.3f} |")


def _b0_row(
    protocol: Protocol,
    stack: NDArray[Any],
    params: Params,
    segments: int,
    start: str,
    batches: int,
    signal: Tensor,
) -> tuple[str, Tensor]:
    side = params.image_side
    shape = Shape(side, side, side / 2, 4, 12, segments, k_grid="matched")
    torch.manual_seed(1)
    network = build_network(shape, protocol.trajectory)
    examples = Examples(params, protocol, stack)
    if start == "regression":
        set_regression_weights(network, protocol, examples, 400, 1e-4, 1, 5)
        with torch.no_grad():
            return "least squares only", network(signal)
    optimizer = training.adam(network, params)
    for number in range(batches):
        rate = params.learning_rate * 0.5 ** (3 * number / batches)
        batch = examples.batch(number * 16, 16)
        training.train_step(network, optimizer, batch, params, rate)
    with torch.no_grad():
        return "random start, Adam", network(signal)


@main.command()
@click.option("--data", required=True, type=Path)
def operators(data: Path) -> None:
    """The forward operator against the exact sum and the original's P and SN, on random images."""
    files = read_mat(data / "TrajForNUFT.mat", ["Trajm2", "P", "SN", "Kd"])
    trajectory, side = files["Trajm2"], files["SN"].shape[0]
    reference = MatrixNUFFT(files["P"], files["SN"], int(files["Kd"].ravel()[0]))
    ours = Finufft(trajectory, side, 1e-12, torch.complex128)
    fast = Finufft(trajectory, side, 1e-6)
    exact = ExactDFT(trajectory, side, torch.complex128)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, side, side, dtype=torch.complex128, generator=generator)
    signal = torch.randn(2, trajectory.shape[1], dtype=torch.complex128, generator=generator)
    truth = exact.forward(image)

    def off(value: Tensor, reference_value: Tensor) -> str:
        return f"{((value - reference_value).norm() / reference_value.norm()).item():.1e}"

    click.echo("| comparison | relative error |\n|---|---|")
    click.echo(f"| ours against P, SN | {off(ours.forward(image), reference.forward(image))} |")
    click.echo(f"| P, SN against the exact sum | {off(reference.forward(image), truth)} |")
    click.echo(
        f"| ours (1e-12, double) against the exact sum | {off(ours.forward(image), truth)} |"
    )
    click.echo(f"| ours (1e-6, single) against the exact sum | {off(fast.forward(image), truth)} |")
    for name, operator in (("ours", ours), ("P, SN", reference)):
        left = (operator.forward(image).conj() * signal).sum()
        right = (image.conj() * operator.adjoint(signal)).sum()
        gap = (left - right).abs() / (image.norm() * signal.norm())
        click.echo(f"| adjointness, {name} | {gap.item():.1e} |")


@main.command()
def memory() -> None:
    """Peak memory of one training step at 128 px, 13 coils, 12 neighbours, 7 segments, batch 16."""
    torch.set_num_threads(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    protocol, _ = make_protocol(Setup(side=128, coils=13, samples=7162, turns=17, b0_hz=100))
    params = replace(Params(), batch_size=16)
    examples = Examples(params, protocol, load_images("", 2, 128))
    network = build_network(Shape(128, 128, 56.0, 13, 12, 7), protocol.trajectory)
    optimizer = training.adam(network, params)
    begun = time.process_time()
    batch = examples.batch(0, 16)
    middle = time.process_time()
    for _ in range(2):
        training.train_step(network, optimizer, batch, params, 1e-4)
    seconds = (time.process_time() - middle) / 2
    weights = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    click.echo(
        f"{machine()}: weights {weights:.0f} MiB, peak {peak:.0f} MiB above the bare program; "
        f"CPU {middle - begun:.1f} s to simulate 16 examples, {seconds:.1f} s per step"
    )


if __name__ == "__main__":
    main()
