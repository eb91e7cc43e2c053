"""From typing `python train.py ...` to the first finished iteration, with a warm cache.

    python -m benchmarks.first_iteration [--rounds 5] [-- FLAGS OF train.py]

A finished iteration is a line in losses.jsonl (--log_every=1). Beside the clock stands the
processor time used until then, which other jobs on the machine change less.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.processes import cpu_seconds
from benchmarks.report import machine

ROOT = Path(__file__).parents[1]


def first_iteration(flags: tuple[str, ...]) -> tuple[float, float]:
    """(seconds by the clock, seconds of processor time)."""
    with tempfile.TemporaryDirectory() as name:
        lines = Path(name) / "losses.jsonl"
        command = [sys.executable, str(ROOT / "train.py"), "--noplot", "--log_every=1", *flags]
        start = time.perf_counter()
        run = subprocess.Popen([*command, f"--save={name}"], stdout=subprocess.DEVNULL)
        while not (lines.exists() and lines.stat().st_size) and run.poll() is None:
            time.sleep(0.01)
        took, used = time.perf_counter() - start, cpu_seconds(run.pid)
        ended = run.poll()
        run.kill()
        run.wait()
        if ended is not None:  # it has said why
            raise click.ClickException(f"train.py ended with exit code {ended}")
    return took, used


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.argument("flags", nargs=-1)
def main(rounds: int, flags: tuple[str, ...]) -> None:
    flags = flags or ("--scale=16", "--grayscale")
    first_iteration(flags)  # warms the caches
    found = [first_iteration(flags) for _ in range(rounds)]
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    for name, values in zip(("clock", "processor"), zip(*found, strict=True), strict=True):
        print(f"{name}: median {statistics.median(values):.2f} s of {sorted(values)}")


if __name__ == "__main__":
    main()
