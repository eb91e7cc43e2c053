"""The siblings' training steps on a GPU: as written, recorded, and in bfloat16.

    python -m benchmarks.siblings_gpu [--gpu 0] [--only srez] [--bursts 4] [--burst 20] [--top]

Bursts of steps between two synchronisations, the sides in turn; medians. "kernels" and "busy" are
those of a step as torch's profiler sees them, "peak" what a side alone allocates. Recorded and
written steps must agree: their float32 losses over 20 steps to 1e-5. A sibling that fails prints a
line, and the others go on. `--gpu -1` tries it on the CPU with small networks, where nothing is
recorded and operators are counted.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu_step import in_turn, kernels
from benchmarks.report import Table, chosen, machine
from eyescream_py import features
from eyescream_py.ganless_hd import options as hd_options
from eyescream_py.ganless_hd import trainer as hd
from eyescream_py.ganless_hd.losses import PerceptualLoss
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.image_model.data import Pictures, ShuffledQueue
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions
from eyescream_py.image_model.training import Domains, ImageModel
from eyescream_py.mln import networks as mln_networks
from eyescream_py.mln import steps as mln_steps
from eyescream_py.mln.data import Ahead, Examples, training_images
from eyescream_py.mln.fast import FastNetwork
from eyescream_py.mln.protocol import load_protocol, network_shape
from eyescream_py.mln.series import reconstruct_series
from eyescream_py.mln.simulation import Setup, write_simulation
from eyescream_py.srez.batches import Batches
from eyescream_py.srez.data import WINDOW_SIDE, Faces
from eyescream_py.srez.options import Options as SrezOptions
from eyescream_py.srez.steps import build_networks, build_step
from eyescream_py.system.device import choose_device, prepare_cuda
from eyescream_py.system.recording import Recorder

STEPS, CLOSE = 20, 1e-5
SHARE = {"ganless-hd": 0.5, "mln series": 0.1}  # of --burst: a batch of two steps, 256 images
Losses = Callable[[], list[float]]


@dataclass
class Side:
    """A step, and one that also reads its losses."""

    step: Callable[[], Any]
    losses: Losses


def srez(
    device: torch.device, tiny: bool, loss_func: str = "dcgan"
) -> dict[str, Callable[[], Side]]:
    size, width = (4, 1 / 16) if tiny else (16, 1.0)
    base = SrezOptions(batch_size=size, width=width, loss_func=loss_func)
    rng = torch.Generator().manual_seed(0)
    side = WINDOW_SIDE
    windows = torch.randint(0, 256, (64, 3, side, side), generator=rng, dtype=torch.uint8)
    means = torch.full((64, 4), 0.5)

    def build(capture: bool, **changes: object) -> Side:
        options = dataclasses.replace(base, capture=int(capture), **changes)  # type: ignore[arg-type]
        networks = build_networks(options, device)
        step = build_step(networks, options, device)
        draw = Batches(Faces(windows, means, torch.arange(64)), options, device)
        numbers = iter(range(10**9))

        def once() -> dict[str, torch.Tensor]:
            return step(draw.batch(next(numbers)), True)

        return Side(once, lambda: [float(v) for v in once().values()])

    return {
        "written": functools.partial(build, False),
        "recorded": functools.partial(build, True),
        "recorded bf16": functools.partial(build, True, precision="bf16"),
    }


def image_model(device: torch.device, tiny: bool) -> dict[str, Callable[[], Side]]:
    size = 32 if tiny else 128
    image = ImageOptions(batch_size=4 if tiny else 8, image_size=size)

    def domain(seed: int, rng: np.random.Generator) -> Pictures:
        made = torch.Generator().manual_seed(seed)
        coarse = torch.rand(32, 1, size // 8, size // 8, generator=made)
        pixels = (F.interpolate(coarse, size=size, mode="bilinear") * 255).byte()
        names = [str(i) for i in range(32)]
        return Pictures((pixels,), names, ShuffledQueue(32, rng)).to(device)

    def build(capture: bool, optim: str = "RMSP") -> Side:
        torch.manual_seed(1)
        rng = np.random.default_rng(1)
        options = ModelOptions(use_recon=True)
        domains = Domains(synth=domain(0, rng), real=domain(1, rng))
        # one step of D a turn, so that all turns are alike
        gan = GanOptions(diff_low=-9.0, diff_high=9.0)
        chosen = dataclasses.replace(image, optim=optim)
        learner = ImageModel(options, chosen, gan, domains, rng, device, capture)
        return Side(learner.step, lambda: list(learner.step().values()))

    return {
        "written": functools.partial(build, False),
        "recorded": functools.partial(build, True),
        "recorded, Adam": functools.partial(build, True, "ADAM"),
    }


def ganless_hd(device: torch.device, tiny: bool) -> dict[str, Callable[[], Side]]:
    size, batch, width = (64, 2, 1 / 8) if tiny else (128, 12, 1.0)
    made = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, batch, 3, size // 8, size // 8, generator=made) * 2 - 1
    inputs, targets = (F.interpolate(c, size=size, mode="bilinear").to(device) for c in coarse)

    def build(capture: bool, precision: str = "float32") -> Side:
        eyes = features.load("random", width=width).to(device)
        features.calibrate(eyes, [targets])
        options = hd_options.Options(capture=capture, precision=precision, lr=1e-4)
        trainer = hd.Trainer(UNet(width), PerceptualLoss(features.frozen(eyes)), options, device)

        def losses() -> list[float]:
            trainer.train_batch(inputs, targets)
            return trainer.take_sums()[0].tolist()

        step = functools.partial(trainer.train_batch, inputs, targets)
        return Side(step, losses)

    return {
        "written": functools.partial(build, False),
        "recorded": functools.partial(build, True),
        "written bf16": functools.partial(build, False, "bfloat16"),
        "recorded bf16": functools.partial(build, True, "bfloat16"),
    }


def mln_training(device: torch.device, tiny: bool) -> dict[str, Callable[[], Side]]:
    setup = Setup(side=16, coils=2, samples=200) if tiny else Setup(side=128, coils=8, samples=6000)
    with tempfile.TemporaryDirectory() as folder:
        params = write_simulation(setup, Path(folder))
        protocol = load_protocol(params, device)
    images, _ = training_images(params)
    shape = network_shape(params, protocol)

    def build(capture: bool, on_host: bool = False) -> Side:
        torch.manual_seed(1)
        network = mln_networks.build_network(shape, protocol.trajectory).to(device)
        optimizer = mln_steps.adam(network, params)
        examples = Examples(params, protocol, images)
        chunk = 1 << 21 if on_host else mln_networks.GPU_MEMORY
        if on_host:
            examples._made_at_once = examples._made  # type: ignore[method-assign]
        recorder = Recorder(device, capture)
        descent = recorder.step(functools.partial(mln_steps.descend, network, optimizer, params))
        batches, numbers = Ahead(examples, params.batch_size), iter(range(10**9))
        begin_next = (lambda: None) if on_host else batches.begin_next

        def once() -> float:
            with mock.patch.object(mln_networks, "GPU_MEMORY", chunk):
                batch = batches.take(next(numbers))
                given = network, optimizer, batch, params, 1e-3, descent, begin_next
                return mln_steps.train_step(*given)[0]

        return Side(once, lambda: [once()])

    return {
        "written": functools.partial(build, False),
        "recorded": functools.partial(build, True),
        "as before": functools.partial(build, False, on_host=True),
    }


def mln_series(device: torch.device, tiny: bool) -> dict[str, Callable[[], Side]]:
    side, coils, samples, rows = (16, 2, 200, 8) if tiny else (128, 8, 6000, 256)
    shape = mln_networks.Shape(side, side, side / 2, coils, 12, coils, k_grid="matched")
    trajectory = np.random.default_rng(0).uniform(-side / 2, side / 2, (2, samples))
    torch.manual_seed(1)
    network = mln_networks.build_network(shape, trajectory).to(device)
    signal = torch.randn(rows, coils, samples, dtype=torch.complex64)

    def build(at_once: int, half: bool = False) -> Side:
        fast = FastNetwork(network, half and device.type == "cuda")

        def once() -> torch.Tensor:
            return reconstruct_series(fast, signal, device, at_once).images

        return Side(once, lambda: [float(once().abs().mean())])

    return {
        f"{rows} rows, {n} at once{' half' if half else ''}": functools.partial(build, n, half)
        for n, half in ((16, False), (64, False), (64, True))
    }


SIBLINGS: dict[str, Callable[[torch.device, bool], dict[str, Callable[[], Side]]]] = {
    "srez": srez,
    "srez wgangp": functools.partial(srez, loss_func="wgangp"),
    "image-model": image_model,
    "ganless-hd": ganless_hd,
    "mln training": mln_training,
    "mln series": mln_series,
}


def apart(one: Side, other: Side) -> float:
    """The largest difference of their losses over STEPS steps, relative to those above 1."""
    return max(
        abs(a - b) / max(1.0, abs(a))
        for _ in range(STEPS)
        for a, b in zip(one.losses(), other.losses(), strict=True)
    )


def built_alone(build: Callable[[], Side], device: torch.device) -> tuple[Side, float]:
    """A side, and the most GB (10^9 bytes) that it and its first steps took."""
    if device.type != "cuda":
        return build(), 0.0
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    side = build()
    for _ in range(6):
        side.step()
    torch.cuda.synchronize(device)
    return side, (torch.cuda.max_memory_allocated(device) - before) / 1e9


def measure(
    name: str, table: Table, device: torch.device, bursts: int, count: int, top: bool
) -> tuple[bool, str]:
    """Rows of a sibling; whether its losses agree, and how far they are apart."""
    builds = SIBLINGS[name](device, device.type != "cuda")
    first, second = (build() for build in list(builds.values())[:2])
    far = apart(first, second)
    del first, second
    made = {side: built_alone(build, device) for side, build in builds.items()}
    steps = {side: one.step for side, (one, _) in made.items()}
    times = in_turn(steps, bursts, count, device)
    for (side, (one, peak)), ms in zip(made.items(), times, strict=True):
        number, busy, slow = kernels(one.step, device)
        ratio = f"{times[0] / ms:.2f}"
        table.add(name, side, f"{ms:.2f}", ratio, f"{number:.0f}", f"{busy:.2f}", f"{peak:.2f}")
        print(table.last(), flush=True)
        for kernel, times_run, us in slow if top else ():
            print(f"    {us:7.0f} us {times_run:5.1f} x {kernel[:90]}")
    return far <= CLOSE, f"{name}: losses of the first two sides at most {far:.1e} apart"


@click.command()
@click.option("--gpu", default=0, help="CUDA device, -1 for the CPU, tiny.")
@click.option("--only", default="", help="Siblings whose name contains this.")
@click.option("--bursts", default=4, help="Of each side, timed.")
@click.option("--burst", "count", default=20, help="Steps between two synchronisations.")
@click.option("--top", is_flag=True, help="Also name the slowest kernels.")
def main(gpu: int, only: str, bursts: int, count: int, top: bool) -> None:
    """Time each sibling; exit code 1 where one failed or its losses differ."""
    device = choose_device(gpu, True)
    prepare_cuda(device, fast=False, strict=False)
    print(machine(device), flush=True)
    table = Table("sibling", "side", "ms", "x", "kernels", "busy ms", "peak GB")
    failed = broken = False
    for name in chosen(SIBLINGS, only):
        if broken:  # what failed may have left this process's GPU in the middle of a recording
            words = [f"--gpu={gpu}", f"--only={name}", f"--bursts={bursts}", f"--burst={count}"]
            subprocess.run([sys.executable, "-m", "benchmarks.siblings_gpu", *words], check=False)
            continue
        begun = time.perf_counter()
        number = max(1, round(count * SHARE.get(name, 1)))
        try:
            agree, text = measure(name, table, device, bursts, number, top)
        except Exception as error:  # the other siblings' figures are wanted all the same
            broken, agree = True, False
            text = f"{name}: {type(error).__name__}: {str(error)[:300]!r}"
            traceback.print_exc()
        failed |= not agree
        verdict = "" if agree else "FAILED "
        print(f"{verdict}{text} ({time.perf_counter() - begun:.0f} s)", flush=True)
    print(table.markdown())
    sys.exit(failed)


if __name__ == "__main__":
    main()
