"""Decoding a whole folder: rows are shared out in blocks to threads, with a progress bar."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eyescream_py.dataset_decode import decode_rows, ignore_bomb_warnings

BLOCK = 256  # files


def decode_all(
    folder: Path, names: list[str], out: np.ndarray, progress: bool
) -> list[tuple[str, str]]:
    """Decode every file into its row of `out`, uint8 (N,C,S,S); returns (name, reason) of the
    broken ones."""
    broken = []
    with warnings.catch_warnings():
        ignore_bomb_warnings()
        for _, rows in _advancing(_blocks(folder, names, out), len(names), progress):
            broken += rows
    return [(names[row], reason) for row, reason in sorted(broken)]


def _blocks(
    folder: Path, names: list[str], out: np.ndarray
) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [
            pool.submit(decode_rows, folder, names[first : first + BLOCK], out, first)
            for first in range(0, len(names), BLOCK)
        ]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _advancing(
    blocks: Iterable[tuple[int, list[tuple[int, str]]]], total: int, progress: bool
) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Pass the blocks on, with a bar on a terminal."""
    with tqdm(total=total, unit="img", disable=not progress or not sys.stderr.isatty()) as bar:
        for block in blocks:
            bar.update(block[0])
            yield block
