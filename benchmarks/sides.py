"""Sides of a comparison in a process each, which run in turn: what one leaves in memory or switches
on does not help or hinder the other.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

WARM_UP = 2  # turns
PAUSE = 0.03  # seconds before a turn, in which the threads of the one before stop waiting actively
Run = Callable[[], float]  # returns the milliseconds that it took


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
            pipe.send(True)
            elapsed = pipe.recv()
            if turn >= WARM_UP:
                times[name].append(elapsed)
    for pipe, process in sides.values():
        pipe.send(False)
        process.join()
    return {name: statistics.median(values) for name, values in times.items()}


def _serve(build: Callable[[], Run], pipe: Connection) -> None:
    run = build()
    while pipe.recv():
        time.sleep(PAUSE)
        pipe.send(run())
