"""Where the time of an iteration on a processor goes, operator by operator.

    python -m benchmarks.operator_times [--only 16px] [--precision bf16] [--threads 2] [--top 20]

Each call is timed by itself, in iterations without a recording (`--clock cpu --threads 1`:
processor time); medians. Loops in C of system/ bear their functions' names.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.report import Table, chosen, machine
from benchmarks.sides import CLOCKS
from benchmarks.train_step import CASES, ours
from eyescream_py.data.dataset import Dataset
from eyescream_py.game import precision
from eyescream_py.system.compiled import Library
from eyescream_py.system.device import keep_memory

CPU = torch.device("cpu")
Call = tuple[str, str]  # an operator's name, the shapes of what it is given


class Timed(TorchDispatchMode):
    """Milliseconds of each operator's calls inside its block, in order."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.found: dict[Call, list[float]] = defaultdict(list)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        shapes = " ".join("x".join(map(str, a.shape)) for a in args if isinstance(a, Tensor))
        call = functools.partial(function, *args, **(kwargs or {}))
        return self.time((str(function).split(".")[1], shapes), call)

    def time(self, name: Call, call: Callable[[], Any]) -> Any:
        start = self.clock()
        made = call()
        self.found[name].append(1000 * (self.clock() - start))
        return made


@contextlib.contextmanager
def _with_loops(seen: Timed) -> Iterator[None]:
    """A block in which loops in C are timed, too, which are no operators of torch's."""
    untimed = Library.run

    def timed(code: Library, name: str, work: ctypes.Structure) -> None:
        seen.time((name, "in C"), lambda: untimed(code, name, work))

    Library.run = timed  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Library.run = untimed  # type: ignore[method-assign]


def times(case: str, name: str, rounds: int, clock: Callable[[], float]) -> dict[Call, float]:
    """Milliseconds of an iteration by its operators, those of one kind and shape together."""
    channels, size, coarse = CASES[case]
    pixels = torch.randint(0, 256, (1000, channels, size, size), dtype=torch.uint8)
    batch = 32 if coarse else 16
    step = ours(case, Dataset(pixels, "noise"), batch, precision.choose(name, CPU), record=False)
    for _ in range(3):
        step()
    with Timed(clock) as seen, _with_loops(seen):
        for _ in range(rounds):
            step()
    found = {}
    for call, spent in seen.found.items():
        each = len(spent) // rounds
        sums = [sum(spent[i * each : (i + 1) * each]) for i in range(rounds)]
        found[call] = median(sums)
    return found


@click.command()
@click.option("--only", default="", help="Cases whose name contains this.")
@click.option("--precision", "name", type=click.Choice(["fp32", "bf16"]), default="fp32")
@click.option("--rounds", default=15, help="Timed iterations.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall")
@click.option("--threads", default=0, help="CPU threads (0: as torch chooses).")
@click.option("--top", default=20, help="How many operators to name.")
def main(only: str, name: str, rounds: int, clock: str, threads: int, top: int) -> None:
    """Print a table of each case."""
    if threads:
        torch.set_num_threads(threads)
    keep_memory()
    for case in chosen(CASES, only):
        found = times(case, name, rounds, CLOCKS[clock])
        table = Table("operator", "of", "ms")
        for (operator, shapes), ms in sorted(found.items(), key=lambda item: -item[1])[:top]:
            table.add(operator, shapes, f"{ms:.2f}")
        table.add("all", "", f"{sum(found.values()):.2f}")
        table.publish(f"Operators of an iteration: {case}, {name}", machine(CPU), None)


if __name__ == "__main__":
    main()
