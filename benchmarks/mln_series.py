"""Frames per second: MLN and model-based methods on a series, training time counted.

    python -m benchmarks.mln_series [--device cuda] [--half] [--rounds 3]

128 px, 8 coils, 12 neighbours, a spiral of 5000 samples. BART's `pics` is timed where it is
installed, its start and its files included. CPU figures are processor time of one thread.
"""

from __future__ import annotations

import functools
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.report import machine, today
from benchmarks.sides import Clock, medians
from eyescream_py.mln.baselines import cg_sense
from eyescream_py.mln.covariance import covariance_start
from eyescream_py.mln.data import Examples, load_images
from eyescream_py.mln.exchange import Foreign, to_bart
from eyescream_py.mln.fast import FastNetwork
from eyescream_py.mln.networks import MinimalLinearNetwork, Shape, build_network
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.total_variation import total_variation

SIDE, COILS, SAMPLES = 128, 8, 5000
Job = tuple[Callable[[], object], int]  # and how many frames it reconstructs


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--half", is_flag=True, help="Also bfloat16 (CUDA).")
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(device: str, half: bool, rounds: int, threads: int) -> None:
    """Alternately, medians."""
    if device != "cpu" and not torch.cuda.is_available():
        raise click.BadParameter(f"{device}: there is no CUDA device here", param_hint="--device")
    torch.set_num_threads(threads)
    protocol, _ = make_protocol(Setup(SIDE, COILS, "spiral", SAMPLES, 24.0))
    network, seconds = _trained(protocol)
    network = network.to(device)
    signal = _frames(protocol, 64).to(device)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        jobs = _networks(network, signal, half)
        if device == "cpu":
            jobs |= _model_based(protocol, signal, Path(folder))
        took = medians({name: job for name, (job, _) in jobs.items()}, rounds, _clock(device))
    _print({name: took[name] / count for name, (_, count) in jobs.items()}, seconds, device)


def _networks(network: MinimalLinearNetwork, signal: Tensor, half: bool) -> dict[str, Job]:
    fast = FastNetwork(network)
    jobs: dict[str, Job] = {
        f"MLN, {count} at a time": (functools.partial(fast, signal[:count]), count)
        for count in (1, 16, 64)
    }
    if half:
        small = FastNetwork(network, half=True)
        jobs["MLN, bfloat16, 64 at a time"] = (lambda: small(signal), 64)
    jobs["the network as trained, 16 at a time"] = (lambda: network(signal[:16]), 16)
    return jobs


def _model_based(protocol: Protocol, signal: Tensor, folder: Path) -> dict[str, Job]:
    """BART's files go to `folder`."""
    acquisition = protocol.acquisition
    jobs: dict[str, Job] = {
        "CG-SENSE, 12 steps": (lambda: cg_sense(acquisition, signal[:4], 12), 4),
        "TV, 40 steps": (lambda: total_variation(acquisition, signal[:1], 0.005, 40), 1),
    }
    if shutil.which("bart"):
        jobs["BART pics -l2, 12 steps"] = (_bart(protocol, signal[:1], folder), 1)
    return jobs


def _trained(protocol: Protocol) -> tuple[MinimalLinearNetwork, float]:
    """A network after the covariance start, and its CPU seconds."""
    params = replace(Params(), image_side=SIDE, k_grid="matched", noise=0.02)
    begun = time.process_time()
    shape = Shape(SIDE, SIDE, SIDE / 2, COILS, 12, COILS, k_grid="matched")
    network = build_network(shape, protocol.trajectory)
    stream = Examples(params, protocol, load_images("", 16, SIDE))
    covariance_start(network, protocol, stream, 24, 1e-3, COILS, 0, 0.02)
    return network, time.process_time() - begun


def _frames(protocol: Protocol, count: int) -> Tensor:
    params = replace(Params(), image_side=SIDE, k_grid="matched", noise=0.02)
    return Examples(params, protocol, load_images("", 8, SIDE, 9)).batch(0, count).signal


def _clock(device: str) -> Clock:
    """CPU seconds of this process and of children that ended; wall seconds on CUDA."""

    def on_cuda() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    def on_cpu() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    return on_cpu if device == "cpu" else on_cuda


def _bart(protocol: Protocol, signal: Tensor, folder: Path) -> Callable[[], object]:
    scan = Foreign(signal, protocol.trajectory, protocol.acquisition.coils[0], SIDE)
    to_bart(scan, str(folder / "x"))
    words = ["bart", "pics", "-S", "-l2", "-r", "0.001", "-i", "12", "-t", "x_traj", "x_ksp"]
    command = [*words, "x_maps", "out"]
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/usr/local/bin"}
    return lambda: subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def _print(each: dict[str, float], training: float, device: str) -> None:
    best = min(value for name, value in each.items() if name.startswith("MLN"))
    click.echo(f"{machine()}, {today()}, {device}; training {training:.0f} s of CPU")
    click.echo(
        "| method | ms per frame | frames per second | MLN pays back after |\n|---|---|---|---|"
    )
    for name, value in each.items():
        frames = f"{training / (value - best):.0f} frames" if value > 2 * best else ""
        frames = "" if "MLN" in name or "network" in name else frames
        click.echo(f"| {name} | {1000 * value:.1f} | {1 / value:.0f} | {frames} |")


if __name__ == "__main__":
    main()
