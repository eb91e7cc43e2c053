"""metrics.jsonl and losses.jsonl in SAVE: the lines of every trainer that saves there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eyescream_py.system.errors import UserError, why
from eyescream_py.system.json_lines import JsonLines
from eyescream_py.system.locks import Lock

LossLog = Callable[[str, float | None], None]  # a network's name, its loss or None where withheld


class Logs:
    """A run's two files: a line per epoch, and with `losses` one per loss that is logged."""

    def __init__(
        self,
        save: Path,
        trainer: str,
        at: tuple[int, int],
        keep: bool,
        losses: bool,
        lock: Lock | None = None,
    ) -> None:
        """Lines of other trainers stay; of ours, with `keep`, those before `at`.

        `at` is (the epoch under way, its iterations that are done), `lock` the run's. Raises
        UserError where SAVE takes no files.
        """
        self.trainer = trainer

        def epochs_before(record: dict[str, Any]) -> bool:
            return _is_of_another(record, trainer) or (keep and _place(record)[0] < at[0])

        def steps_before(record: dict[str, Any]) -> bool:
            return _is_of_another(record, trainer) or (keep and _place(record) <= at)

        def opened(name: str, before: Callable[[dict[str, Any]], bool]) -> JsonLines:
            return JsonLines(
                save / name, before, keep_old=not keep, lock=lock,
                is_ours=lambda record: not _is_of_another(record, trainer),
            )  # fmt: skip

        self._losses = None
        try:
            self._metrics = opened("metrics.jsonl", epochs_before)
            if losses:
                self._losses = opened("losses.jsonl", steps_before)
        except OSError as error:
            raise UserError(
                f"--save={save}: cannot write {error.filename or 'logs'}: {why(error)}"
            ) from error

    def epoch(self, epoch: int, seconds: float, record: dict[str, Any]) -> None:
        """Append an epoch's record to metrics.jsonl."""
        line = {"trainer": self.trainer, "epoch": epoch, "seconds": round(seconds, 3)}
        self._metrics.write({**line, **record})

    def of_iteration(self, epoch: int, iteration: int) -> LossLog | None:
        """What writes the losses of an iteration (counted from 1); None where none are logged."""
        if (file := self._losses) is None:
            return None

        def write(network: str, loss: float | None) -> None:
            file.write(
                {
                    "trainer": self.trainer,
                    "epoch": epoch,
                    "iteration": iteration,
                    "network": network,
                    "loss": loss,
                    "skipped": loss is None,
                }
            )

        return write

    def close(self) -> None:
        self._metrics.close()
        if self._losses:
            self._losses.close()


def _is_of_another(record: dict[str, Any], trainer: str) -> bool:
    return isinstance(record.get("trainer"), str) and record["trainer"] != trainer


def _place(record: dict[str, Any]) -> tuple[float, float]:
    """(epoch, iteration) of a log's line; behind everything where someone has broken it."""
    epoch, iteration = record.get("epoch"), record.get("iteration", 0)
    if isinstance(epoch, int | float) and isinstance(iteration, int | float):
        return (epoch, iteration)
    return (math.inf, math.inf)
