"""What plots cost a run while their server is well, frozen, killed, and started again.

Every second stands for an epoch: it shows four grids of faces and two curves, then computes like a
training step. Counted per epoch: the time that the calls keep the training thread, and the
processor time of the thread that sends. Both as a share of an epoch of `--epoch_s` seconds.

    python -m benchmarks.plots_cost [--epochs 20] [--epoch_s 19]
"""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass

import click
import torch

from benchmarks.processes import cpu_seconds
from eyescream_py.plots.windows import Plots

GRIDS = {4: 100, 6: 50, 7: 50, 8: 100}  # window -> pictures, as train.py shows them
STATES = ("well", "frozen", "well again", "killed and replaced")


@dataclass
class Cost:
    """Milliseconds per epoch."""

    calls: float
    longest_call: float
    sender_cpu: float


def measure(plots: Plots, epochs: int, size: int) -> Cost:
    """Show and compute for `epochs` seconds."""
    faces = torch.rand(100, 3, size, size)
    matrix = torch.rand(500, 500)
    in_calls, longest = 0.0, 0.0
    sender_before = _sender_cpu_s(plots)
    for epoch in range(epochs):
        end = time.perf_counter() + 1.0
        start = time.perf_counter()
        for window, count in GRIDS.items():
            plots.images(window, faces[:count], f"window {window}")
        plots.curve("loss", epoch, {"D": 0.5, "G": 1.0}, "loss")
        plots.curve("accuracy", epoch, {"real": 0.5, "generated": 1.0}, "accuracy")
        took = time.perf_counter() - start
        in_calls, longest = in_calls + took, max(longest, took)
        while time.perf_counter() < end:
            matrix @ matrix
    sender = _sender_cpu_s(plots) - sender_before
    return Cost(1e3 * in_calls / epochs, 1e3 * longest, 1e3 * sender / epochs)


def _sender_cpu_s(plots: Plots) -> float:
    """Processor time of the sending thread so far, from the system's account of it."""
    assert plots._sender is not None
    return cpu_seconds(f"self/task/{plots._sender.native_id}")


def _trouble(plots: Plots, state: str) -> None:
    assert plots._sender is not None
    assert plots._sender._server is not None
    pid = plots._sender._server.pid
    number = {"frozen": signal.SIGSTOP, "well again": signal.SIGCONT}.get(state, signal.SIGKILL)
    if pid and state != "well":
        os.kill(pid, number)


@click.command()
@click.option("--epochs", default=20, show_default=True, help="Measured seconds for each state.")
@click.option("--epoch_s", default=19.0, show_default=True, help="Length of a real epoch.")
@click.option("--size", default=32, show_default=True, help="Height and width of a picture.")
def main(epochs: int, epoch_s: float, size: int) -> None:
    """Print a table of the four states."""
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plots = Plots.open(True, "localhost", port, "benchmark")
    measure(plots, 5, size)  # until the server is there
    print("state                calls ms  longest ms  sender ms  share of an epoch")
    for state in STATES:
        _trouble(plots, state)
        cost = measure(plots, epochs, size)
        share = (cost.calls + cost.sender_cpu) / (1e3 * epoch_s)
        print(
            f"{state:20} {cost.calls:8.1f} {cost.longest_call:11.1f} {cost.sender_cpu:10.1f} "
            f"{share:18.3%}"
        )
    plots.close()


if __name__ == "__main__":
    main()
