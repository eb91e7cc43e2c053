"""Training iterations on a GPU as the trainers run them (captured), beside the plain port.

    python -m benchmarks.gpu_step [--gpu 0] [--only 16px] [--batch 16] [--bursts 5] [--burst 20]

Bursts of iterations between two synchronisations, the sides in turn; medians. The plain port
multiplies in TF32 (`--strict`: in fp32), whatever ours does. "kernels" and
"busy" are those of one iteration as torch's profiler sees them (`--no-flat`: with parameters one by
one, and bf16 by autocast alone). `--gpu -1` tries it on the CPU, where operators are counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import Table, chosen, machine
from benchmarks.train_step import CASES, ours, plain
from eyescream_py.data.dataset import Dataset
from eyescream_py.game import precision
from eyescream_py.system.device import choose_device, prepare_cuda, wait_for

WARM_UP = 8  # iterations: lazy set-up, then what the capture itself runs
PROFILED = 4
Step = Callable[[], None]
Kernel = tuple[str, float, float]  # name, times, microseconds


def burst(step: Step, count: int, device: torch.device) -> float:
    """Milliseconds per iteration."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    wait_for(device)
    return 1000 * (time.perf_counter() - start) / count


def in_turn(steps: dict[str, Step], bursts: int, count: int, device: torch.device) -> list[float]:
    """Median milliseconds per iteration of each side."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        burst(step, WARM_UP if count > 1 else 1, device)
    for _ in range(bursts):
        for name, step in steps.items():
            times[name].append(burst(step, count, device))
    return [statistics.median(values) for values in times.values()]


def kernels(step: Step, device: torch.device) -> tuple[float, float, list[Kernel]]:
    """Kernels of an iteration, the milliseconds in which they ran, and the slowest of them.

    On a CPU: operators, their milliseconds.
    """
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        for _ in range(PROFILED):
            step()
        wait_for(device)
    rows = []
    for event in seen.key_averages():
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if us and (not cuda or not event.key.startswith(("cuda", "cu"))):
            rows.append((event.key, event.count / PROFILED, us / PROFILED))
    rows.sort(key=lambda row: -row[2])
    return sum(row[1] for row in rows), sum(row[2] for row in rows) / 1000, rows[:12]


@click.command()
@click.option("--gpu", default=0, help="CUDA device, -1 for the CPU.")
@click.option("--only", default="", help="Cases whose name contains this.")
@click.option("--batch", multiple=True, type=int, help="Batch sizes.")
@click.option("--bursts", default=5, help="Of each side, timed.")
@click.option("--burst", "count", default=20, help="Iterations between two synchronisations.")
@click.option("--strict/--no-strict", default=False, help="fp32 without TF32.")
@click.option("--flat/--no-flat", default=None, help="Parameters in one buffer (default: on CUDA).")
@click.option("--top", is_flag=True, help="Also name the slowest kernels of the bf16 iteration.")
def main(
    gpu: int,
    only: str,
    batch: tuple[int, ...],
    bursts: int,
    count: int,
    strict: bool,
    flat: bool | None,
    top: bool,
) -> None:
    """Time every case at every batch size."""
    device = choose_device(gpu, True)
    prepare_cuda(device, fast=False, strict=strict)
    print(f"{machine(device)}, {'fp32' if strict else 'TF32 where fp32 is asked'}")
    table = Table(
        "case", "batch", "plain ms", "fp32 ms", "bf16 ms", "best/plain", "images/s",
        "kernels fp32", "kernels bf16", "busy bf16 ms",
    )  # fmt: skip
    print(table.markdown())
    for case in chosen(CASES, only):
        channels, size, coarse = CASES[case]
        pixels = torch.randint(0, 256, (4000, channels, size, size), dtype=torch.uint8)
        data = Dataset(pixels.to(device), "noise")
        for n in batch or (32 if coarse else 16, 64, 1024):
            row, slow = _row(case, data, n, bursts, count, device, flat)
            table.add(case, n, *row)
            # as a row of the table: what is stopped before the end has shown as much of it
            print(f"| {table.last()} |", flush=True)
            for name, times, us in slow if top else ():
                print(f"    {us:7.0f} us {times:5.0f} x {name[:90]}")


def _row(
    case: str,
    data: Dataset,
    n: int,
    bursts: int,
    count: int,
    device: torch.device,
    flat: bool | None,
) -> tuple[list[str], list[Kernel]]:
    steps = {"plain": plain(case, data, n)}
    for name in ("fp32", "bf16"):
        steps[name] = ours(case, data, n, precision.choose(name, device), flat)
    fewer = max(1, count // 4) if n > 256 else count
    baseline, fp32, bf16 = in_turn(steps, bursts, fewer, device)
    (many, _, _), (few, busy, slow) = (kernels(steps[name], device) for name in ("fp32", "bf16"))
    best = min(fp32, bf16)
    row = [f"{baseline:.2f}", f"{fp32:.2f}", f"{bf16:.2f}", f"{baseline / best:.1f}",
           f"{1000 * n / 2 / best:.0f}", f"{many:.0f}", f"{few:.0f}", f"{busy:.2f}"]  # fmt: skip
    return row, slow


if __name__ == "__main__":
    main()
