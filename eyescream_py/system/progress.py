"""How far a long job is: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import TqdmMonitorWarning, tqdm

from eyescream_py.system.threads import start_thread

SECONDS_BETWEEN_LINES = 10.0
warnings.simplefilter("ignore", TqdmMonitorWarning)  # a bar moves without a thread of its own, too
T = TypeVar("T")


class Progress:
    """Counts things done on stderr, of a `total` where it is known; a context manager. Says nothing
    where `enabled` is false. `before` were done already, at no pace of today's.
    """

    def __init__(self, total: int | None, unit: str, enabled: bool = True, before: int = 0) -> None:
        terminal = sys.stderr.isatty()
        # 80x24 for a terminal of unknown size, on which tqdm shows nothing
        size = shutil.get_terminal_size()
        self._bar = tqdm(
            total=total, unit=f" {unit}", disable=not (enabled and terminal), initial=before,
            ncols=size.columns - 1, nrows=size.lines,
        )  # fmt: skip
        self._lines = enabled and not terminal
        self._total, self._unit = total, unit
        self._before = self._done = before
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (self._done - self._before) / (now - self._started)
            pace = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
            share = f"{self._done}{f' of {self._total}' if self._total else ''}"
            line = f"{share} {self._unit}, {pace} per second"
            print(line, file=sys.stderr)


@contextlib.contextmanager
def still(what: str) -> Iterator[None]:
    """Says on stderr, now and then, that `what` goes on: for work that cannot be counted."""
    done, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(SECONDS_BETWEEN_LINES):
            print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr)

    teller = threading.Thread(target=tell, daemon=True)
    start_thread(teller)
    try:
        yield
    finally:
        done.set()
        teller.join()


def each(things: Collection[T], unit: str) -> Iterator[T]:
    """`things` one by one, with a `Progress` of how many are done."""
    with Progress(len(things), unit) as progress:
        for thing in things:
            yield thing
            progress.update(1)
