"""Decoding a whole folder: blocks of files shared out to processes.

Processes, because most of a small picture's time is Python's own (threads were slower than one
thread: docs/benchmarks-dataset.md). Few files are decoded where they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from eyescream_py.data.decode import Decoded, decode_files
from eyescream_py.system.errors import UserError
from eyescream_py.system.processes import usable_cores, worker_processes
from eyescream_py.system.progress import Progress

BLOCK = 256  # files
WORTH_PROCESSES = 2000  # files; they take as long as two processes take to start


def decode_all(
    folder: Path, names: list[str], out: np.ndarray, progress: bool
) -> list[tuple[str, str]]:
    """Decode every file into its row of `out`, uint8 (N,C,S,S); broken ones become black.

    Returns (name, reason) of the broken ones, in the order of `names`.
    """
    broken: list[tuple[int, str]] = []
    with Progress(len(names), "pictures", progress) as bar:
        for first, block in _decoded(folder, names, *out.shape[1:3]):
            out[first : first + len(block.rows)] = block.rows
            broken += [(first + row, reason) for row, reason in block.broken]
            bar.update(len(block.rows))
    return [(names[row], reason) for row, reason in sorted(broken)]


def _decoded(
    folder: Path, names: list[str], channels: int, size: int
) -> Iterator[tuple[int, Decoded]]:
    """(first row, pictures) of every block, in any order."""
    starts = range(0, len(names), BLOCK)
    if len(names) < WORTH_PROCESSES or usable_cores() == 1:
        for start in starts:
            yield start, decode_files(folder, names[start : start + BLOCK], channels, size)
        return
    with worker_processes(usable_cores()) as pool:
        jobs = {
            pool.submit(decode_files, folder, names[i : i + BLOCK], channels, size): i
            for i in starts
        }
        try:
            for job in as_completed(jobs):
                yield jobs.pop(job), job.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that decoded pictures of {folder} was killed; is the memory full?"
            ) from error
