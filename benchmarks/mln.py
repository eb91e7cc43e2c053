"""MLN measurements that print Markdown tables.

    python -m benchmarks.mln b0                        off-resonance: MLN against model-based CG
    python -m benchmarks.mln operators --data FOLDER   the forward operator against the original's
    python -m benchmarks.mln memory                    peak memory, 128 px, 13 coils, 7 segments

FOLDER of --data holds the files of the original's repository; see docs/mln.md. The 200 x 200 masks
are in mln_masks.py, the real scan in mln_scan.py.
"""

from __future__ import annotations

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

from benchmarks.report import machine, today
from eyescream_py.mln import steps
from eyescream_py.mln.analytic import set_regression_weights
from eyescream_py.mln.baselines import adjoint_image, cg_sense
from eyescream_py.mln.data import Batch, Examples, load_images
from eyescream_py.mln.formats.mat import read_mat
from eyescream_py.mln.metrics import nrmse
from eyescream_py.mln.networks import MinimalLinearNetwork, Shape, build_network
from eyescream_py.mln.nufft import ExactDFT, Finufft, MatrixNUFFT
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.trajectories import density_compensation


@click.group()
def main() -> None:
    """Measurements of the MLN room."""


def fine_tune(
    network: MinimalLinearNetwork, examples: Examples, params: Params, minutes: float, first: int
) -> int:
    """Adam on fresh examples for `minutes` of CPU time per thread; returns the number of
    batches.
    """
    optimizer = steps.adam(network, params)
    begun, batches = time.process_time(), 0
    allowed = 60 * minutes
    while (spent := (time.process_time() - begun) / torch.get_num_threads()) < allowed:
        rate = params.learning_rate * 0.1 ** (spent / allowed)
        batch = examples.batch(first + batches * params.batch_size, params.batch_size)
        loss = steps.train_step(network, optimizer, batch, params, rate)[0]
        batches += 1
        if batches % 50 == 0:
            click.echo(f"    batch {batches}, {spent / 60:.1f} min, loss {loss:.4f}", err=True)
    return batches


def reconstructed(method: Callable[[Tensor], Tensor], signal: Tensor) -> tuple[Tensor, float]:
    """Images and CPU ms per image, one image at a time, of the second round (the first makes
    plans).
    """
    with torch.no_grad():
        for _ in range(2):
            begun = time.process_time()
            images = torch.cat([method(one[None]) for one in signal])
            took = 1000 * (time.process_time() - begun) / len(signal)
    return images, took


def mean_nrmse(images: Tensor, truth: Tensor, mask: Tensor) -> float:
    pairs = zip(images[:, 0].numpy(), truth.numpy(), strict=True)
    return float(np.mean([nrmse(one, two, mask[0].numpy()) for one, two in pairs]))


def save_jpeg(grey: NDArray[Any], path: Path) -> None:
    from PIL import Image

    Image.fromarray((255 * grey).round().astype(np.uint8)).save(path, quality=85)


@main.command()
@click.option("--peak", default=150.0, show_default=True, help="Hz, over a readout of 10 ms.")
@click.option("--side", default=32, show_default=True)
@click.option("--noise", default=0.0, show_default=True, help="Per real number of the samples.")
@click.option("--examples", default=800, show_default=True)
@click.option("--ridge", default=1e-5, show_default=True)
@click.option("--sweeps", default=6, show_default=True)
def b0(peak: float, side: int, noise: float, examples: int, ridge: float, sweeps: int) -> None:
    """NRMSE under off-resonance on 32 unseen phantoms: MLN with 1 and 3 time parts, and CG-SENSE.

    CG-SENSE's steps are the best ones for other phantoms.
    """
    torch.set_num_threads(1)
    setup = Setup(side=side, coils=4, samples=22 * side, turns=side / 3.2, b0_hz=peak)
    protocol, _ = make_protocol(setup)
    params = replace(Params(), image_side=side, k_grid="matched", noise=noise)
    stack = load_images("", 64, 64)
    test = Examples(params, protocol, load_images("", 64, 64, seed=2), seed=99).batch(0, 32)
    other = Examples(params, protocol, stack, seed=98).batch(0, 32)
    click.echo(f"{machine()}, {today()}; +-{peak:g} Hz over 10 ms, {side} px, noise {noise:g}")
    click.echo("| method | NRMSE | CPU ms per image |\n|---|---|---|")
    for name, method in model_based(protocol, other).items():
        click.echo(_row(name, method, test, protocol))
    for parts in (1, 3):
        begun = time.process_time()
        shape = Shape(side, side, side / 2, 4, 12, 4 * parts, k_grid="matched")
        network = build_network(shape, protocol.trajectory)
        stream = Examples(params, protocol, stack)
        set_regression_weights(network, protocol, stream, examples, ridge, 4, sweeps, noise)
        seconds = time.process_time() - begun
        click.echo(_row(f"MLN, T = 4 x {parts}, {seconds:.0f} s of CPU", network, test, protocol))


Method = Callable[[Tensor], Tensor]


def model_based(protocol: Protocol, other: Batch) -> dict[str, Method]:
    """Methods that know the protocol; CG-SENSE also with the steps that are best for `other`."""
    known = protocol.acquisition
    blind = replace(known, phases=None, interpolation=None)
    weights = torch.from_numpy(density_compensation(protocol.trajectory))

    def cg(steps: int) -> Method:
        return lambda signal: cg_sense(known, signal, steps)

    best = min((5, 12, 30, 60, 100), key=lambda steps: _error(cg(steps), other, protocol)[0])
    return {
        "CG-SENSE without B0": lambda signal: cg_sense(blind, signal, 12),
        "adjoint with B0": lambda signal: adjoint_image(known, signal, weights),
        "CG-SENSE with B0, 12 steps": cg(12),
        f"CG-SENSE with B0, best: {best} steps": cg(best),
    }


def _error(method: Method, batch: Batch, protocol: Protocol) -> tuple[float, float]:
    """NRMSE, and CPU ms per image of the whole batch at once."""
    begun = time.process_time()
    with torch.no_grad():
        images = method(batch.signal)
    milliseconds = 1000 * (time.process_time() - begun) / len(images)
    return mean_nrmse(images, batch.label[:, 0], protocol.mask), milliseconds


def _row(name: str, method: Method, batch: Batch, protocol: Protocol) -> str:
    error, milliseconds = _error(method, batch, protocol)
    return f"| {name} | {error:.3f} | {milliseconds:.1f} |"


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
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    protocol, _ = make_protocol(Setup(side=128, coils=13, samples=7162, turns=17, b0_hz=100))
    params = replace(Params(), batch_size=16)
    examples = Examples(params, protocol, load_images("", 2, 128))
    network = build_network(Shape(128, 128, 56.0, 13, 12, 7), protocol.trajectory)
    optimizer = steps.adam(network, params)
    begun = time.process_time()
    batch = examples.batch(0, 16)
    middle = time.process_time()
    for _ in range(2):
        steps.train_step(network, optimizer, batch, params, 1e-4)
    seconds = (time.process_time() - middle) / 2
    weights = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    click.echo(
        f"{machine()}, {today()}: weights {weights:.0f} MiB, "
        f"peak {peak:.0f} MiB above the bare program; "
        f"CPU {middle - begun:.1f} s to simulate 16 examples, {seconds:.1f} s per step"
    )


if __name__ == "__main__":
    main()
