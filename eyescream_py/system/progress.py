"""How far a long job is: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts things done on stderr; a context manager. Says nothing where `enabled` is false."""

    def __init__(self, total: int, unit: str, enabled: bool = True) -> None:
        terminal = sys.stderr.isatty()
        size = (
            shutil.get_terminal_size()
        )  # 80x24 for a terminal of unknown size: tqdm shows nothing
        self._bar = tqdm(
            total=total, unit=f" {unit}", disable=not (enabled and terminal),
            ncols=size.columns - 1, nrows=size.lines,
        )  # fmt: skip
        self._lines = enabled and not terminal
        self._total, self._unit = total, unit
        self._done = 0
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
            rate = self._done / (now - self._started)
            line = f"{self._done} of {self._total} {self._unit}, {rate:.0f} per second"
            print(line, file=sys.stderr)
