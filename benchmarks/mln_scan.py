"""The real spiral scan: train MLN for its protocol on generic pictures, reconstruct it, compare.

    python -m benchmarks.mln_scan choose --data FOLDER --images FOLDER --noise 0.003 --noise 0.01
    python -m benchmarks.mln_scan methods --data FOLDER --images FOLDER --picture docs/mln/scan.jpg
    python -m benchmarks.mln_scan train --data FOLDER --images FOLDER [--field B0TS.mat]
    python -m benchmarks.mln_scan maps --data FOLDER

FOLDER of --data holds the files of the original's repository; see docs/mln.md. The correlation with
the original's published output is only printed; `choose` decides by held-out samples of the scan.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.mln import Method, fine_tune, mean_nrmse, reconstructed, save_jpeg
from benchmarks.report import machine, today
from eyescream_py.mln.analytic import set_regression_weights
from eyescream_py.mln.baselines import adjoint_image, cg_sense
from eyescream_py.mln.coil_estimation import estimated_maps, map_difference
from eyescream_py.mln.covariance import covariance_start
from eyescream_py.mln.data import Examples, load_images
from eyescream_py.mln.fast import FastNetwork
from eyescream_py.mln.formats.mat import read_mat
from eyescream_py.mln.forward import Acquisition, segment_phases
from eyescream_py.mln.methods import Settings, model_methods
from eyescream_py.mln.metrics import magnitude_correlation
from eyescream_py.mln.networks import Shape, build_network
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol, read_scan
from eyescream_py.mln.trajectories import density_compensation, segment_interpolation

SHOWN = ("adjoint", "cg", "wavelet 0.005", "TV 0.0025", "MLN")
STARTS = {"regression": set_regression_weights, "covariance": covariance_start}


@click.group()
def main() -> None:
    """The real scan."""


def scan_protocol(
    data: Path,
    coils: int,
    turns: Tensor | None = None,
    segments: int = 7,
    kept: np.ndarray | None = None,
) -> Protocol:
    """The scan's protocol, of the samples `kept` (M,) only where given."""
    trajectory = read_mat(data / "TrajForNUFT.mat", ["Trajm2"])["Trajm2"]
    trajectory = trajectory if kept is None else np.ascontiguousarray(trajectory[:, kept])
    maps = read_mat(data / "SensCC1.mat", ["SensCC", "SensMsk"])
    sensitivity = torch.from_numpy(maps["SensCC"].transpose(2, 0, 1)[:coils].copy()).to(
        torch.complex64
    )
    mask = torch.from_numpy((maps["SensMsk"] > 0).astype(np.float32))
    phases = weights = None
    if turns is not None:
        phases = segment_phases(turns, segments, 1.0)[None]
        shares = segment_interpolation(np.linspace(0, 1, trajectory.shape[1]), segments)
        weights = torch.from_numpy(shares).to(torch.complex64)[None]
    operator = choose_operator(trajectory, 128, eps=1e-4)
    return Protocol(
        trajectory, Acquisition(operator, sensitivity[None], phases, weights), mask[None]
    )


def scan_signal(data: Path, protocol: Protocol, coils: int) -> Tensor:
    """The scan's first row: (1, coils, M) complex samples."""
    return read_scan(data / "Sli6_r01.mat", protocol.samples, 13, coils)[:1]


def published(data: Path) -> np.ndarray:
    """The image (N, N) that the original's program made of the scan, complex."""
    original = read_mat(data / "OnRealData01.mat", ["x"])["x"][0]
    image: np.ndarray = original[..., 0] + 1j * original[..., 1]
    return image


@main.command()
@click.option("--data", required=True, type=Path)
@click.option("--images", required=True)
@click.option("--start", type=click.Choice(list(STARTS)), default="covariance", show_default=True)
@click.option("--examples", default=150, show_default=True)
@click.option("--ridge", "ridges", multiple=True, type=float, default=(1e-3,))
@click.option("--noise", "noises", multiple=True, type=float, default=(0.0,))
@click.option("--coils", default=8, show_default=True)
@click.option("--stretch", default=16, show_default=True, help="Samples left out in a row.")
def choose(
    data: Path, images: str, start: str, examples: int, ridges: tuple[float, ...],
    noises: tuple[float, ...], coils: int, stretch: int,
) -> None:  # fmt: skip
    """Choose the start's ridge and noise without the reference: by samples left out of the scan.

    Every tenth stretch of the spiral is left out; the image that the network makes of the others
    predicts it.
    """
    torch.set_num_threads(1)
    whole = scan_protocol(data, coils)
    count = whole.trajectory.shape[1]
    kept = (np.arange(count) // stretch) % 10 != 5
    part = scan_protocol(data, coils, kept=kept)
    signal = scan_signal(data, whole, coils)
    params = replace(Params(), image_side=128, k_grid="matched")
    stream = Examples(params, part, load_images(images, 1000, 128))
    shape = Shape(128, 128, 64.0, coils, 12, coils, k_grid="matched")
    network = build_network(shape, part.trajectory)
    click.echo(
        "| start | ridge | noise | relative error of the left-out samples |\n|---|---|---|---|"
    )
    for value, noise in itertools.product(ridges, noises):
        STARTS[start](network, part, stream, examples, value, coils, 0, noise)
        with torch.no_grad():
            predicted = whole.acquisition.forward(network(signal[..., kept].contiguous()))
        wrong = (predicted - signal)[..., ~kept].norm() / signal[..., ~kept].norm()
        click.echo(f"| {start} | {value:g} | {noise:g} | {wrong.item():.4f} |")


@main.command("train")
@click.option("--data", required=True, type=Path)
@click.option("--images", required=True)
@click.option("--coils", default=8, show_default=True)
@click.option("--channels", default=8, show_default=True)
@click.option("--parts", default=1, show_default=True, help="Time parts; T = parts x channels.")
@click.option("--examples", default=300, show_default=True)
@click.option("--sweeps", default=3, show_default=True)
@click.option("--ridge", default=1e-2, show_default=True)
@click.option("--start", type=click.Choice(list(STARTS)), default="covariance", show_default=True)
@click.option("--noise", default=0.02, show_default=True, help="Of the training features.")
@click.option("--minutes", default=3.0, show_default=True, help="Adam.")
@click.option("--rate", default=2e-5, show_default=True)
@click.option(
    "--field", default=None, type=Path, help="B0TS.mat of `estimate-b0`; none: without B0."
)
def train_for_scan(
    data: Path, images: str, coils: int, channels: int, parts: int, examples: int, sweeps: int,
    ridge: float, start: str, noise: float, minutes: float, rate: float, field: Path | None,
) -> None:  # fmt: skip
    """Train for the real scan's protocol on generic pictures and reconstruct it."""
    torch.set_num_threads(1)
    protocol = scan_protocol(data, coils, None if field is None else scan_turns(field))
    params = replace(
        Params(), image_side=128, k_grid="matched", learning_rate=rate, batch_size=16, noise=noise,
        images_to_load=1000, bank_size=400, bank_uses=4,
    )  # fmt: skip
    stream = Examples(params, protocol, load_images(images, 1000, 128))
    test = stream.simulate([10**6 + i for i in range(16)])
    shape = Shape(128, 128, 64.0, coils, 12, parts * channels, k_grid="matched")
    network = build_network(shape, protocol.trajectory)
    report = reporter(data, protocol, coils)

    def cg(samples: Tensor) -> Tensor:
        return cg_sense(protocol.acquisition, samples, 12)

    weights = torch.from_numpy(density_compensation(protocol.trajectory))
    report("adjoint", lambda s: adjoint_image(protocol.acquisition, s, weights))
    report("CG-SENSE, 12 steps", cg)
    errors = STARTS[start](network, protocol, stream, examples, ridge, channels, sweeps, noise)
    report(f"MLN, {start} start, {sweeps} sweeps", network)
    batches = fine_tune(network, stream, params, minutes, 0)
    report(f"MLN, + {batches} Adam batches", network)
    unseen, unseen_cg = (
        mean_nrmse(reconstructed(method, test.signal)[0], test.label[:, 0], protocol.mask)
        for method in (network, cg)
    )
    click.echo(
        f"least squares over its examples: {errors}; "
        f"unseen examples: NRMSE {unseen:.4f}, CG-SENSE {unseen_cg:.4f}"
    )


def reporter(data: Path, protocol: Protocol, coils: int) -> Callable[[str, Method], None]:
    """Prints a table's head; what it returns prints a row about a method."""
    begun, signal = time.process_time(), scan_signal(data, protocol, coils)
    reference, mask = published(data), protocol.mask[0].numpy()
    click.echo(f"{machine()}, {today()}")
    click.echo(
        "| method | correlation with the original | ms per image | CPU min |\n|---|---|---|---|"
    )

    def report(name: str, method: Method) -> None:
        image, milliseconds = reconstructed(method, signal)
        agreement = magnitude_correlation(image[0, 0].numpy(), reference, mask)
        minutes = (time.process_time() - begun) / 60
        click.echo(f"| {name} | {agreement:.4f} | {milliseconds:.0f} | {minutes:.1f} |")

    return report


def scan_turns(field: Path) -> Tensor:
    """Off-resonance in turns over the readout, (N, N), of a B0TS.mat."""
    phases = read_mat(field, ["TSC"])["TSC"]
    step = -np.angle(phases[..., 1] * phases[..., 0].conj()) / (2 * np.pi)
    return torch.from_numpy(step * (phases.shape[2] - 1)).float()


@main.command()
@click.option("--data", required=True, type=Path)
@click.option("--images", required=True)
@click.option("--ridge", default=1e-3, show_default=True)
@click.option("--noise", default=0.003, show_default=True)
@click.option("--neighbours", default=12, show_default=True)
@click.option("--coils", default=8, show_default=True)
@click.option("--sweeps", default=2, show_default=True)
@click.option("--picture", default=None, type=Path)
def methods(
    data: Path, images: str, ridge: float, noise: float, neighbours: int, coils: int, sweeps: int,
    picture: Path | None,
) -> None:  # fmt: skip
    """Every method: correlation with the published output, change under noise, CPU ms.

    The file's rows are equal, so no two repetitions can be compared. Instead noise of the size of
    the outermost samples, which hold little else, is added twice; the change is |x1 - x2| / |x|.
    """
    torch.set_num_threads(1)
    protocol = scan_protocol(data, coils)
    signal, reference = scan_signal(data, protocol, coils), published(data)
    twice, level = with_noise_twice(signal)
    params = replace(Params(), image_side=128, k_grid="matched")
    shape = Shape(128, 128, 64.0, coils, neighbours, 8, k_grid="matched")
    network = build_network(shape, protocol.trajectory)
    stream = Examples(params, protocol, load_images(images, 100, 128))
    covariance_start(network, protocol, stream, 60, ridge, 8, sweeps, noise)
    known: dict[str, Method] = {**without_training(protocol), "MLN": FastNetwork(network)}
    click.echo(f"{machine()}, {today()}; noise added {level:.4f} per real number")
    click.echo("| method | correlation | change | CPU ms |\n|---|---|---|---|")
    shown = []
    for name, method in known.items():
        image, _ = reconstructed(method, signal)
        begun = time.process_time()
        pair = method(twice)
        milliseconds = 500 * (time.process_time() - begun)
        change = float((pair[0] - pair[1]).norm() / image.norm()) / 2**0.5
        agreement = magnitude_correlation(image[0, 0].numpy(), reference, protocol.mask[0].numpy())
        click.echo(f"| {name} | {agreement:.4f} | {change:.4f} | {milliseconds:.0f} |")
        shown += [image[0, 0].abs().numpy()] if name in SHOWN else []
    if picture:
        cells = [*shown, np.abs(reference)]
        save_cells([cells[:3], cells[3:]], picture)


def with_noise_twice(signal: Tensor) -> tuple[Tensor, float]:
    """A scan's samples (1, C, M) with two draws of noise (2, C, M), as large as the outermost
    twentieth of them, and that size per real number.
    """
    level = float(signal[..., -signal.shape[-1] // 20 :].abs().square().mean().div(2).sqrt())
    generator = torch.Generator().manual_seed(1)
    parts = level * torch.randn(2, *signal.shape[1:], 2, generator=generator)
    return signal + torch.view_as_complex(parts), level


def without_training(protocol: Protocol) -> dict[str, Method]:
    """The model-based methods, wavelet-L1 and TV with three weights each."""
    known = {name: model_methods(protocol, Settings())[name] for name in ("adjoint", "cg")}
    for weight in (0.002, 0.005, 0.02):
        settings = Settings(wavelet_weight=weight, tv_weight=weight / 2)
        both = model_methods(protocol, settings)
        known |= {f"wavelet {weight:g}": both["wavelet"], f"TV {weight / 2:g}": both["tv"]}
    return known


def save_cells(rows: list[list[np.ndarray]], path: Path) -> None:
    """Magnitudes (N, N) side by side, each with its own white, twice as large."""
    white = [[cell / np.percentile(cell, 99.7) for cell in row] for row in rows]
    grey = np.concatenate([np.concatenate(row, 1) for row in white])
    save_jpeg(grey.clip(0, 1).repeat(2, 0).repeat(2, 1), path)


@main.command()
@click.option("--data", required=True, type=Path)
def maps(data: Path) -> None:
    """Coil maps from the scan's own samples against SensCC1.mat, and CG-SENSE with each."""
    torch.set_num_threads(1)
    protocol = scan_protocol(data, 13)
    signal, reference = scan_signal(data, protocol, 13), published(data)
    mask = protocol.mask[0]
    given = protocol.acquisition.coils[0]
    click.echo("| maps | difference from SensCC | correlation, CG 12 steps | CPU s |")
    click.echo("|---|---|---|---|")
    for name in ("given", "espirit", "joint"):
        begun = time.process_time()
        own = given
        if name != "given":
            own = estimated_maps(protocol.trajectory, signal[0], 128, name)[0] * mask
        seconds = time.process_time() - begun
        acquisition = replace(protocol.acquisition, coils=own[None])
        image = cg_sense(acquisition, signal, 12)[0, 0].numpy()
        agreement = magnitude_correlation(image, reference, mask.numpy())
        difference = map_difference(own, given, mask)
        click.echo(f"| {name} | {difference:.3f} | {agreement:.4f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
