"""The original's 200 x 200 benchmark: five Poisson-disc masks, 8 coils, 7 test images.

    python -m benchmarks.mln_masks run --data FOLDER --images FOLDER --out rows.jsonl [--noise 0.01]
    python -m benchmarks.mln_masks table rows.jsonl

FOLDER of --data holds SamplingMasks.mat, SensitivityMap.mat and TestImages.mat of the original's
repository; --images holds generic pictures. The test images are only scored: CG-SENSE's steps and
damping and the weights of wavelet-L1 and TV are the best ones for the same examples made from the
generic pictures; MLN's ridge is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.mln import mean_nrmse, save_jpeg
from benchmarks.report import machine, today
from eyescream_py.mln.baselines import (
    adjoint_image,
    cg_sense,
    linear_optimum,
    radial_power,
    wavelet_l1,
)
from eyescream_py.mln.covariance import covariance_start
from eyescream_py.mln.data import Batch, Examples, load_images
from eyescream_py.mln.formats.mat import read_mat
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.networks import MinimalLinearNetwork, Shape, build_network
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.total_variation import total_variation
from eyescream_py.mln.trajectories import cartesian

SIDE, COILS = 200, 8
CG_STEPS = (5, 8, 12, 20, 40, 80)
CG_DAMPINGS = (0.0, 1e-2)
WEIGHTS = (5e-4, 2e-3, 5e-3, 1e-2)
METHODS = ("zero_filled", "cg_12", "cg", "wavelet", "tv", "optimum", "mln")


@click.group()
def main() -> None:
    """The benchmark of five sampling masks."""


def benchmark_images(data: Path) -> Tensor:
    """The 7 test images (7, 200, 200), masked, then scaled to RMS 0.3, complex64."""
    cells = read_mat(data / "TestImages.mat", ["TIs"])["TIs"].ravel()
    mask = read_mat(data / "SensitivityMap.mat", ["MskS"])["MskS"] > 0
    images = np.stack([np.asarray(cell, np.complex128) for cell in cells]) * mask
    power = np.sqrt((np.abs(images) ** 2).mean((1, 2), keepdims=True))
    return torch.from_numpy(0.3 * images / power).to(torch.complex64)


def mask_protocol(data: Path, number: int) -> Protocol:
    """Mask `number` of SamplingMasks.mat, counted from 1, with the 8 coil maps."""
    masks = read_mat(data / "SamplingMasks.mat", ["MskM"])["MskM"]
    maps = read_mat(data / "SensitivityMap.mat", ["Sens", "MskS"])
    trajectory = cartesian(masks[:, :, number - 1] > 0)
    mask = torch.from_numpy((maps["MskS"] > 0).astype(np.float32))
    coils = torch.from_numpy(maps["Sens"].transpose(2, 0, 1)).to(torch.complex64) * mask
    acquisition = Acquisition(choose_operator(trajectory, SIDE), coils[None])
    return Protocol(trajectory, acquisition, mask[None])


def with_noise(signal: Tensor, noise: float, seed: int) -> Tensor:
    """`noise` is the standard deviation of each real and each imaginary part."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(*signal.shape, 2, generator=generator) * noise
    return signal + torch.view_as_complex(parts)


@main.command()
@click.option("--data", required=True, type=Path)
@click.option("--images", required=True, help="Folder of generic pictures.")
@click.option("--neighbours", default=12, show_default=True)
@click.option("--noise", default=0.0, show_default=True, help="Per real number of the samples.")
@click.option("--ridge", default=1e-5, show_default=True)
@click.option("--sweeps", default=0, show_default=True)
@click.option("--examples", default=48, show_default=True)
@click.option("--only", default=0, help="One of WhichAccs; 0: all five.")
@click.option("--out", required=True, type=Path, help="JSON lines, one per mask, appended.")
@click.option("--picture", default=None, type=Path, help="JPEG of the last mask's images.")
def run(
    data: Path, images: str, neighbours: int, noise: float, ridge: float,
    sweeps: int, examples: int, only: int, out: Path, picture: Path | None,
) -> None:  # fmt: skip
    """NRMSE and CPU ms of every method on the original's 7 test images, per mask."""
    torch.set_num_threads(1)
    stack = load_images(images, 200, SIDE)
    truth = benchmark_images(data)
    known = read_mat(data / "SamplingMasks.mat", ["WhichAccs"])["WhichAccs"].ravel()
    for number in [only] if only else known:
        case = _Case(mask_protocol(data, int(number)), stack, truth, noise, neighbours)
        row, rows = case.measure(ridge, sweeps, examples)
        record = {"mask": int(number), "noise": noise, "machine": f"{machine()}, {today()}", **row}
        click.echo(json.dumps(record))
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if picture:
            mask_picture(rows, picture)


class _Case:
    """One mask: its protocol, generic examples to choose with, and the test images."""

    def __init__(
        self, protocol: Protocol, stack: np.ndarray, truth: Tensor, noise: float, neighbours: int
    ) -> None:
        self.protocol, self.noise, self.neighbours = protocol, noise, neighbours
        params = replace(Params(), image_side=SIDE, k_grid="matched")
        self.stream = Examples(params, protocol, stack)
        # Half of them without phase, as five of the seven test images are.
        varied = Examples(params, protocol, stack, seed=77).simulate([0, 1])
        flat = replace(params, phase_scale=0.0)
        plain = Examples(flat, protocol, stack, seed=78).simulate([0, 1])
        self.generic = Batch(
            torch.cat([varied.signal, plain.signal]), torch.cat([varied.label, plain.label])
        )
        self.scale = 0.3 / float(self.generic.label.abs().square().mean().sqrt())  # the test's RMS
        self.choosing = self._noisy(
            Batch(self.generic.signal * self.scale, self.generic.label * self.scale)
        )
        label = (truth * protocol.mask[0])[:, None]
        self.test = self._noisy(Batch(protocol.acquisition.forward(label), label))

    def _noisy(self, batch: Batch) -> Batch:
        return Batch(with_noise(batch.signal, self.noise, 5), batch.label)

    def error(self, images: Tensor, batch: Batch) -> float:
        """Mean NRMSE inside the mask."""
        return mean_nrmse(images, batch.label[:, 0], self.protocol.mask)

    def measure(self, ridge: float, sweeps: int, count: int) -> tuple[dict[str, Any], list[Tensor]]:
        """The record of a line, and the pictures that `mask_picture` shows."""
        acquisition = self.protocol.acquisition
        begun = time.process_time()
        network = self._train(ridge, sweeps, count)
        training = (time.process_time() - begun) / 60
        steps, damping = self._best_cg()
        wavelet = self._best_weight(lambda s, w: wavelet_l1(acquisition, s, 40, w))
        tv = self._best_weight(lambda s, w: total_variation(acquisition, s, w, 40))
        power = radial_power(self.generic.label[:, 0] * self.scale)
        noise = max(self.noise, 1e-4)
        methods: dict[str, Callable[[Tensor], Tensor]] = {
            "zero_filled": lambda s: adjoint_image(acquisition, s),
            "cg_12": lambda s: cg_sense(acquisition, s, 12),
            "cg": lambda s: cg_sense(acquisition, s, steps, damping),
            "wavelet": lambda s: wavelet_l1(acquisition, s, 40, wavelet),
            "tv": lambda s: total_variation(acquisition, s, tv, 40),
            "optimum": lambda s: linear_optimum(acquisition, s, power, noise),
            "mln": network,
        }
        row: dict[str, Any] = {"samples": acquisition.operator.samples, "train_minutes": training}
        row |= {
            "cg_steps": steps,
            "cg_damping": damping,
            "wavelet_weight": wavelet,
            "tv_weight": tv,
        }
        pictures = [self.test.label[:, 0]]
        for name, method in methods.items():
            images = self._scored(row, name, method)
            pictures += [images[:, 0]] if name in ("cg", "wavelet", "tv", "mln") else []
        return row, pictures

    def _scored(self, row: dict[str, Any], name: str, method: Callable[[Tensor], Tensor]) -> Tensor:
        """All 7 images at once: NRMSE and CPU ms per image go into the row."""
        with torch.no_grad():
            begun = time.process_time()
            images = method(self.test.signal)
            row[f"ms_{name}"] = 1000 * (time.process_time() - begun) / len(images)
        row[name] = self.error(images, self.test)
        row[f"{name}_per_image"] = [
            mean_nrmse(one[None], truth, self.protocol.mask)
            for one, truth in zip(images, self.test.label, strict=True)
        ]
        return images

    def _train(self, ridge: float, sweeps: int, count: int) -> MinimalLinearNetwork:
        """The covariance start for the noise that the generic examples have at the test's SNR."""
        shape = Shape(SIDE, SIDE, SIDE / 2, COILS, self.neighbours, COILS, k_grid="matched")
        network = build_network(shape, self.protocol.trajectory)
        noise = self.noise / self.scale
        covariance_start(network, self.protocol, self.stream, count, ridge, COILS, sweeps, noise)
        return network

    def _best_cg(self) -> tuple[int, float]:
        errors = {
            (steps, damping): self.error(
                cg_sense(self.protocol.acquisition, self.choosing.signal, steps, damping),
                self.choosing,
            )
            for steps in CG_STEPS
            for damping in CG_DAMPINGS
        }
        return min(errors, key=lambda key: errors[key])

    def _best_weight(self, method: Callable[[Tensor, float], Tensor]) -> float:
        errors = {w: self.error(method(self.choosing.signal, w), self.choosing) for w in WEIGHTS}
        return min(errors, key=lambda key: errors[key])


def mask_picture(rows: list[Tensor], path: Path) -> None:
    """Truth, CG-SENSE, wavelet-L1, TV and MLN as rows, the test images as columns."""
    scale = rows[0].abs().amax((1, 2), keepdim=True) * 0.8
    grid = torch.cat([torch.cat(list((row.abs() / scale).clamp(0, 1)), 1) for row in rows])
    save_jpeg(grid.numpy(), path)


@main.command()
@click.argument(
    "rows", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True
)
def table(rows: tuple[Path, ...]) -> None:
    """The JSON lines as Markdown: NRMSE, in brackets CPU ms per image."""
    records = [json.loads(line) for path in rows for line in path.read_text().splitlines()]
    click.echo(
        "| noise | samples | zero-filled | CG-SENSE, 12 steps | CG-SENSE, best (steps, damping) "
        "| wavelet-L1 (weight) | TV (weight) | linear optimum | MLN |\n|" + "---|" * 9
    )
    for r in records:
        cells = {name: f"{r[name]:.3f} [{r[f'ms_{name}']:.0f}]" for name in METHODS}
        cells["cg"] += f" ({r['cg_steps']}, {r['cg_damping']:g})"
        for name in ("wavelet", "tv"):
            cells[name] += f" ({r[f'{name}_weight']:g})"
        values = " | ".join(cells[name] for name in METHODS)
        click.echo(f"| {r['noise']:g} | {r['samples']} | {values} |")


if __name__ == "__main__":
    main()
