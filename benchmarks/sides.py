"""Sides of a comparison, which take turns: in a process each, so that what one leaves in memory or
switches on neither helps nor hinders the other (`compare`), or in this one (`turns`, `medians`).
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import click

WARM_UP = 2  # turns
PAUSE = 0.03  # seconds before a turn, in which the threads of the one before stop waiting actively
Run = Callable[[], float]  # returns the milliseconds that it took
Clock = Callable[[], float]  # seconds
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def turns(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock = time.process_time,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds by `clock` of each call of each side, one after the other, `rounds` times, after
    `warm_up` rounds that do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, run in sides.items():
            start = clock()
            run()
            if turn >= warm_up:
                times[name].append(clock() - start)
    return times


def medians(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock = time.process_time,
    warm_up: int = 1,
) -> dict[str, float]:
    """The median of each side's `turns`."""
    found = turns(sides, rounds, clock, warm_up)
    return {name: statistics.median(values) for name, values in found.items()}


def compare(builds: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, float]:
    """Median milliseconds of what each of `builds` (to be pickled) makes, over `rounds` turns."""
    context = multiprocessing.get_context("spawn")
    sides = {}
    for name, build in builds.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(build, theirs), daemon=True)
        process.start()
        theirs.close()  # or the end of a process that fails would be waited for without end
        sides[name] = ours, process
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + WARM_UP):
        for name, (pipe, _) in sides.items():
            elapsed = _turn(pipe, name)
            if turn >= WARM_UP:
                times[name].append(elapsed)
    for pipe, process in sides.values():
        pipe.send(False)
        process.join()
    return {name: statistics.median(values) for name, values in times.items()}


def _turn(pipe: Connection, name: str) -> float:
    try:
        pipe.send(True)
        elapsed: float = pipe.recv()
    except (EOFError, OSError):  # its traceback stands above
        raise click.ClickException(f"the side {name} has failed") from None
    return elapsed


def _serve(build: Callable[[], Run], pipe: Connection) -> None:
    run = build()
    while pipe.recv():
        time.sleep(PAUSE)
        pipe.send(run())
