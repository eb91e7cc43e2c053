"""What every program of the package needs around its work: device, threads, signals, the metrics
file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from eyescream_py.errors import UserError
from eyescream_py.files import atomic_write

if TYPE_CHECKING:
    import torch


BEFORE_TRAINING = "before the training began: nothing to save"
MAX_THREADS = 1024
MAX_UNWRITTEN = 1 << 20  # bytes of lines kept for a disk that is full


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
    if threads > MAX_THREADS:
        raise UserError(f"--threads={threads}: give a number of at most {MAX_THREADS}")
    if not typed:
        threads = min(threads, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    print(f"<torch> set nb of threads to {threads}")
    return threads


class _StoppedAtOnce(SystemExit):
    """Ends the program with exit code 0 through every `finally` on the way."""


class StopSignal:
    """Ctrl-C and SIGTERM as a flag that a loop asks between steps.

    While `at_once` holds words (which say what was saved or that nothing had to be), a signal ends
    the program there and then with exit code 0 and those words; a loop that has something to
    finish empties it. A second signal acts as the system would have it, for the person who cannot
    wait.
    """

    def __init__(self, at_once: str = "") -> None:
        self.requested = False
        self.name = ""
        self.at_once = at_once
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._restore()
        if self.at_once:
            raise _StoppedAtOnce(0)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._restore()
        if kind is not None and issubclass(kind, _StoppedAtOnce):
            print(f"Stopped by {self.name} {self.at_once}.")


@contextlib.contextmanager
def stoppable(at_once: str) -> Iterator[StopSignal]:
    """What a command works in: a `StopSignal`, lines that a log file shows at once, and one line
    where the memory does not suffice.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    advice = "give a smaller --scale, --batchSize or --noiseDim"
    with StopSignal(at_once) as stop, memory_in_words(advice):
        yield stop


@contextlib.contextmanager
def memory_in_words(advice: str) -> Iterator[None]:
    """Where the memory does not suffice, a UserError that ends with `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"there is not enough memory: {advice}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


class JsonLines:
    """A file of one JSON object per line, flushed line by line, cut back to a point when a run
    resumes.
    """

    def __init__(
        self,
        path: str | Path,
        keep: Callable[[dict[str, Any]], bool] | None = None,
        keep_old: bool = False,
    ) -> None:
        """Start anew, or with `keep` go on behind the existing lines for which it is true.

        Lines that are no JSON object (a line cut short by a kill) are dropped. A file that a new
        start replaces stays beside it as `path.old`, with `keep_old` in any case. Raises OSError.
        """
        self.path = Path(path)
        kept = [record for record in read_json_lines(self.path) if keep(record)] if keep else []
        with atomic_write(self.path, keep_old=keep_old or keep is None) as file:
            file.writelines(_line(record).encode() for record in kept)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._unwritten = b""
        self._failing = False

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; what a full disk does not take is told once and written when it can be."""
        if len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten += _line(record).encode()
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
            self._failing = False
        except OSError as error:
            if not self._failing:
                reason = error.strerror or error
                print(f"Could not write {self.path}: {reason}; training goes on, trying again.")
            self._failing = True

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
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
