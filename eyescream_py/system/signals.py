"""Ctrl-C, SIGTERM and SIGHUP: a loop saves and stops, anything else stops at once."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from eyescream_py.system.device import memory_in_words

BEFORE_TRAINING = "before the training began: nothing to save"


class _StoppedAtOnce(SystemExit):
    """Ends the program with exit code 0 through every `finally` on the way."""


class StopSignal:
    """Ctrl-C, SIGTERM and SIGHUP (a closed terminal) as a flag that a loop asks between steps.

    While `at_once` holds words (which say what was saved or that nothing had to be), a signal ends
    the program there and then with exit code 0 and those words; `begin` empties it. A second signal
    acts as the system would have it, for the person who cannot wait.
    """

    def __init__(self, at_once: str = "") -> None:
        self.requested = False
        self.name = ""
        self.at_once = at_once
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP, and means it
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def begin(self) -> None:
        """From here on there is something to finish: a signal waits until the loop asks."""
        self.at_once = ""

    def asked(self) -> bool:
        """Whether to stop now; where processes share a run, all of them ask at the same place."""
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._restore()
        if number == signal.SIGHUP:
            # a closing terminal sends two, one by its shell: the second is nobody's impatience
            signal.signal(number, signal.SIG_IGN)
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
def stoppable(
    at_once: str, smaller: str = "--scale, --batchSize or --noiseDim"
) -> Iterator[StopSignal]:
    """What a command works in: a `StopSignal`, lines that a log file shows at once, and one line
    when memory runs out, which says what to give a `smaller` number of.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    with StopSignal(at_once) as stop, memory_in_words(f"give a smaller {smaller}"):
        yield stop
