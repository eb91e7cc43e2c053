"""What `run.Run` demands of a trainer: one iteration, one epoch's figures, its networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from eyescream_py.system.locks import Lock
from eyescream_py.training.logs import LossLog


@dataclass(frozen=True)
class Schedule:
    """An epoch's iterations: t = 1, 1+stride, ...; each takes min(batch, length-t+1) pictures.

    `multiple` rounds a last, shorter batch down; below `smallest` the epoch ends.
    """

    length: int
    batch: int
    stride: int
    smallest: int = 1
    multiple: int = 1

    def __len__(self) -> int:
        last_t = self.length - self.smallest + 1
        return max(0, (last_t - 1) // self.stride + 1)

    def size(self, iteration: int) -> int:
        """Pictures of the iteration, counted from 0."""
        left = self.length - iteration * self.stride
        n = min(self.batch, left)
        return n - n % self.multiple


class Task(Protocol):
    """What is trained. `file_name` is the checkpoint's name in SAVE, `series` the beginning of the
    names of its grids in SAVE/pictures. `lock` is the run's, set by it where it writes: whoever
    writes further files into SAVE needs it, too."""

    file_name: str
    series: str
    schedule: Schedule
    lock: Lock | None

    def learn_at(self, epoch: int) -> None:
        """Set what depends on the epoch (from 1); also called where one goes on."""
        ...

    def begin_epoch(self) -> None:
        """Draw the epoch's pictures and set its sums to 0."""
        ...

    def iteration(self, n: int, log: LossLog | None) -> None:
        """Learn from `n` pictures; `log` gets each step's loss."""
        ...

    def finish(self) -> None:
        """Wait until the device has done what it was given: a clock read before would be early."""
        ...

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        """Print the epoch's lines; return its metrics."""
        ...

    def curves(self, epoch: int, record: dict[str, Any]) -> None:
        """Append an epoch's metrics to the plots' curves; after a resume the old ones too."""
        ...

    def is_finite(self) -> bool:
        """Whether every loss of the epoch, weight and moment is a finite number."""
        ...

    def collapse(self) -> str:
        """Whether the epoch shows that nothing more is learned, in words; "" where it does not."""
        ...

    def halve_learning_rate(self) -> None:
        """Halve the rates of all optimizers, after going back."""
        ...

    def show(self, epoch: int) -> None:
        """Refresh the plot windows."""
        ...

    def save_pictures(self, folder: Path, epoch: int) -> None:
        """Write the epoch's grid of pictures."""
        ...

    def networks(self) -> dict[str, nn.Module]:
        """The networks by the names that the checkpoint has for them."""
        ...

    def content(self, epoch: int) -> dict[str, Any]:
        """What the checkpoint holds beside the networks."""
        ...

    def state(self) -> dict[str, Any]:
        """What exact resuming needs beside the networks."""
        ...

    def load(self, content: Any, path: Path) -> bool:
        """Take networks and state from a checkpoint's table.

        False where its epoch cannot go on, because the pictures or batches are others now. Raises
        UserError for a file of other options, any other error for a file that makes no sense.
        """
        ...


def trainer_of(task: Task) -> str:
    """Whose lines a log holds: `adversarial`, `adversarial_c2f_16_to_32`, `autoencoder`, ..."""
    return Path(task.file_name).stem
