"""What every program of the package needs around its work: device, threads, signals, the metrics
file.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from eyescream_py.errors import UserError
from eyescream_py.files import atomic_write

if TYPE_CHECKING:
    import torch


def choose_device(gpu: int, typed: bool) -> torch.device:
    """`--gpu` -> device: negative is the CPU, otherwise that CUDA device.

    `typed` says whether a person gave the flag: a default that cannot be had falls back to the CPU
    with one line, a typed one that cannot be had is a UserError.
    """
    import torch

    if gpu < 0:
        return torch.device("cpu")
    if torch.cuda.is_available() and gpu < torch.cuda.device_count():
        return torch.device("cuda", gpu)
    if typed:
        raise UserError(
            f"--gpu={gpu}: this machine has {torch.cuda.device_count()} usable CUDA devices; "
            "give --gpu=-1 to run on the CPU"
        )
    print("No usable CUDA device found, running on the CPU (--gpu=-1 says so without this line).")
    return torch.device("cpu")


def set_threads(threads: int, typed: bool) -> int:
    """Use `threads` CPU threads; a default never asks for more than this process has cores."""
    import torch

    if threads < 1:
        raise UserError(f"--threads={threads}: give a number of at least 1")
    if not typed:
        threads = min(threads, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    print(f"<torch> set nb of threads to {threads}")
    return threads


class StopSignal:
    """Ctrl-C and SIGTERM as a flag that a loop asks between steps.

    A second signal acts as the system would have it, for the person who cannot wait.
    """

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        self._restore()


class JsonLines:
    """A file of one JSON object per line, flushed line by line, cut back to a point when a run
    resumes.
    """

    def __init__(
        self, path: str | Path, keep: Callable[[dict[str, Any]], bool] | None = None
    ) -> None:
        """Start anew, or with `keep` go on behind the existing lines for which it is true.

        Lines that are no JSON object (a line cut short by a kill) are dropped.
        """
        self.path = Path(path)
        kept = [record for record in read_json_lines(self.path) if keep(record)] if keep else []
        with atomic_write(self.path) as file:
            file.writelines(_line(record).encode() for record in kept)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file's lines; broken lines are left out, a missing file is empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
