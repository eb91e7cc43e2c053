"""Picture files -> uint8 pixels at the working size, a whole folder shared out to processes.

Processes, because most of a small picture's time is Python's own (threads were slower than one
thread: docs/benchmarks.md). Few files are decoded where they are asked for. Imports no
torch, so that the processes start fast.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyescream_py.data.pictures import PictureError, read_pixels
from eyescream_py.system.errors import UserError
from eyescream_py.system.processes import usable_cores, worker_processes
from eyescream_py.system.progress import Progress
from eyescream_py.torch7.image import scale_matrix

BLOCK = 256  # files
WORTH_PROCESSES = 2000  # files; they take as long as two processes take to start


def decode_picture(path: Path, channels: int, size: int) -> np.ndarray:
    """One file -> uint8 (channels,size,size): turned upright, cut to its centred square, scaled as
    Lua does.

    Gray is the Rec. 601 luma, transparent parts are white, 16 bits become 8. Raises PictureError
    with the reason.
    """
    pixels = read_pixels(path, "L" if channels == 1 else "")
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return np.broadcast_to(_to_working_size(planes, size), (channels, size, size))


def _to_working_size(planes: np.ndarray, size: int) -> np.ndarray:
    side = min(planes.shape[1:])
    top, left = (planes.shape[1] - side) // 2, (planes.shape[2] - side) // 2
    square = planes[:, top : top + side, left : left + side]
    matrix = _matrix(side, size)
    return np.clip(np.rint(matrix @ (square @ matrix.T)), 0, 255).astype(np.uint8)


_matrix = functools.lru_cache(maxsize=16)(scale_matrix)


@dataclass(frozen=True)
class Decoded:
    """Some files' pictures, uint8 (n,C,S,S), and (row, reason) of those that are broken, black
    here."""

    rows: np.ndarray
    broken: list[tuple[int, str]]


def decode_files(folder: Path, names: list[str], channels: int, size: int) -> Decoded:
    """Decode files of `folder` to uint8 [N,C,size,size]; broken ones stay black."""
    rows = np.zeros((len(names), channels, size, size), np.uint8)
    broken = []
    for row, name in enumerate(names):
        try:
            rows[row] = decode_picture(folder / name, channels, size)
        except PictureError as error:
            broken.append((row, str(error)))
    return Decoded(rows, broken)


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
