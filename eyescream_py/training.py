"""What every trainer shares: epochs, saving, resuming, stopping, the metrics files.

A trainer hands `run` a `Task`, which knows one iteration, one epoch's figures and its networks;
`run` owns the position (epoch and iteration), the files in SAVE, and the decision when to stop.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from eyescream_py import checkpoints, story
from eyescream_py.errors import UserError
from eyescream_py.files import remove_stale_temporaries
from eyescream_py.progress import Progress
from eyescream_py.runtime import JsonLines, StopSignal

MAX_ROLLBACKS = 3
MAX_FAILED_SAVES = 3


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
    """What is trained. `file_name` is the checkpoint's name in SAVE."""

    file_name: str
    schedule: Schedule

    def begin_epoch(self) -> None: ...

    def iteration(self, n: int, log: Callable[[str, float | None], None] | None) -> None: ...

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        """Print the epoch's lines; give its metrics."""
        ...

    def curves(self, epoch: int, record: dict[str, Any]) -> None:
        """Append an epoch's metrics to the plots' curves; a resumed run gives the old ones too."""
        ...

    def is_finite(self) -> bool:
        """Whether every loss of the epoch and every weight is a finite number."""
        ...

    def halve_learning_rate(self) -> None: ...

    def show(self, epoch: int) -> None:
        """Refresh the plot windows."""
        ...

    def save_pictures(self, folder: Path, epoch: int) -> None:
        """Write the epoch's grid of pictures."""
        ...

    def networks(self) -> dict[str, nn.Module]: ...

    def content(self, epoch: int) -> dict[str, Any]:
        """What the checkpoint holds beside the networks."""
        ...

    def state(self) -> dict[str, Any]:
        """What exact resuming needs beside the networks."""
        ...

    def load(self, content: Any, path: Path) -> None:
        """Take networks and state from a checkpoint's table."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """Options that every trainer has; `epochs` 0 means until interrupted."""

    save: Path
    save_freq: int
    epochs: int
    log_every: int
    network: str
    on_nan: str
    print_epoch: str = "<trainer> Epoch #{epoch} [batchSize = {batch}]"


@dataclass
class _Position:
    epoch: int = 1  # the epoch under way, counted from 1
    iteration: int = 0  # iterations of it that are done
    seconds: float = 0.0  # time it took so far


class Run:
    """One training run; `go` returns when the epochs are done or the run was asked to stop."""

    def __init__(self, task: Task, options: RunOptions, stop: StopSignal) -> None:
        self.task, self.options, self.stop = task, options, stop
        self.path = options.save / task.file_name
        self.at = _Position()
        self._good: Path | None = None  # the newest checkpoint known to be sound
        self._rollbacks = 0
        self._failed_saves = 0
        prepare_folder(options.save, sum(_bytes(net) for net in task.networks().values()))
        if options.network:
            self._resume(checkpoints.find(options.network, options.save))
        self._open_logs(keep=bool(options.network))
        story.replay(options.save, task.curves)

    def _resume(self, path: Path) -> None:
        content = checkpoints.read(path)
        self.task.load(content, path)
        self._good = path
        self.at = _stored_position(content, self.task.schedule)
        where = f", iteration {self.at.iteration}" if self.at.iteration else ""
        print(f"Continuing from {path} at epoch {self.at.epoch}{where}.")

    def _open_logs(self, keep: bool) -> None:
        at = self.at
        self.metrics = JsonLines(
            self.options.save / "metrics.jsonl",
            (lambda r: r.get("epoch", 0) < at.epoch) if keep else None,
        )
        self.losses = None
        if self.options.log_every:
            self.losses = JsonLines(
                self.options.save / "losses.jsonl",
                (lambda r: (r.get("epoch", 0), r.get("iteration", 0)) <= (at.epoch, at.iteration))
                if keep
                else None,
            )

    def go(self) -> None:
        try:
            while self._epochs_left() and not self.stop.requested:
                self._epoch()
            if self.stop.requested:
                self._save()
                print(
                    f"Stopped by {self.stop.name}: saved {self.path} at epoch {self.at.epoch}, "
                    f"iteration {self.at.iteration}; --network={self.path.name} continues it."
                )
            story.write_curves_if_possible(self.options.save)
        finally:
            self.metrics.close()
            if self.losses:
                self.losses.close()

    def _epochs_left(self) -> bool:
        return self.options.epochs == 0 or self.at.epoch <= self.options.epochs

    def _epoch(self) -> None:
        schedule, epoch = self.task.schedule, self.at.epoch
        if self.at.iteration == 0:
            self.task.begin_epoch()
        print(self.options.print_epoch.format(epoch=epoch, batch=schedule.batch))
        start = time.perf_counter() - self.at.seconds
        with Progress(len(schedule), "iterations", enabled=sys.stderr.isatty()) as progress:
            progress.update(self.at.iteration)
            while self.at.iteration < len(schedule):
                if self.stop.requested:
                    self.at.seconds = time.perf_counter() - start
                    return
                self.task.iteration(schedule.size(self.at.iteration), self._log())
                self.at.iteration += 1
                progress.update(1)
        seconds = time.perf_counter() - start
        if not self.task.is_finite():
            self._not_finite()
            return
        record = self.task.end_epoch(epoch, seconds)
        self.metrics.write({"epoch": epoch, "seconds": round(seconds, 3), **record})
        self.task.curves(epoch, record)
        self.at = _Position(epoch + 1)
        self.task.show(epoch)
        if (
            epoch % self.options.save_freq == 0
            or epoch == self.options.epochs
            or self._failed_saves
        ):
            self._save()
            self.task.save_pictures(self.options.save / "pictures", epoch)

    def _log(self) -> Callable[[str, float | None], None] | None:
        every, iteration = self.options.log_every, self.at.iteration + 1
        if not every or iteration % every:
            return None

        def write(network: str, loss: float | None) -> None:
            assert self.losses is not None  # noqa: S101
            self.losses.write(
                {
                    "epoch": self.at.epoch,
                    "iteration": iteration,
                    "network": network,
                    "loss": loss,
                    "skipped": loss is None,
                }
            )

        return write

    def _save(self) -> None:
        """Write the checkpoint; a failure is told and tried again while there is another turn."""
        content = self.task.content(self.at.epoch - 1)
        content["resume"] = {"position": vars(self.at), "state": self.task.state()}
        print(f"<trainer> saving network to {self.path}")
        try:
            checkpoints.write(self.path, self.task.networks(), content)
        except OSError as error:
            self._save_failed(error)
        else:
            self._good = self.path
            self._failed_saves = 0

    def _save_failed(self, error: OSError) -> None:
        self._failed_saves += 1
        reason = error.strerror or str(error)
        never = self._good != self.path and self._failed_saves >= MAX_FAILED_SAVES
        if never or self.stop.requested or not self._epochs_left():
            raise UserError(
                f"could not save {self.path}: {reason}; free the place or give another --save"
            ) from error
        print(f"Could not save {self.path}: {reason}; training goes on, trying again next epoch.")

    def _not_finite(self) -> None:
        found = f"epoch {self.at.epoch}: a loss or a weight is no longer a finite number"
        can_go_back = self._good is not None and self._rollbacks < MAX_ROLLBACKS
        if self.options.on_nan != "rollback" or not can_go_back:
            kept = f"; {self._good} holds the last good state" if self._good else ""
            raise UserError(
                f"{found}{kept}; try a smaller --D_adam_lr/--G_adam_lr, a --D_clamp, or "
                "--on_nan=rollback"
            )
        assert self._good is not None  # noqa: S101
        self._rollbacks += 1
        content = checkpoints.read(self._good)
        self.task.load(content, self._good)
        for _ in range(self._rollbacks):
            self.task.halve_learning_rate()
        self.at = _stored_position(content, self.task.schedule)
        print(f"{found}; back to {self._good} with half the learning rate.")
        self.metrics.close()
        if self.losses:
            self.losses.close()
        self._open_logs(keep=True)


def _stored_position(content: Any, schedule: Schedule) -> _Position:
    """Where a checkpoint stands; a Lua file says only how many epochs are behind it (none: 1)."""
    resume = content.get("resume")
    if resume is None:
        return _Position(int(content.get("epoch", 1)) + 1)
    position = resume["position"]
    at = _Position(int(position["epoch"]), int(position["iteration"]), float(position["seconds"]))
    if at.iteration > len(schedule):
        print(
            "The epoch is shorter with these options than when it was interrupted: it starts anew."
        )
        return _Position(at.epoch)
    return at


def _bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def prepare_folder(folder: Path, room: int) -> None:
    """Make SAVE, clear what killed writers left there, and see that a checkpoint of `room` bytes
    fits.

    Raises UserError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(folder)
        probe = folder / f".probe.{os.getpid()}.tmp"
        descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            _reserve(descriptor, room)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--save={folder}: cannot write checkpoints there: {reason}") from error


def _reserve(descriptor: int, room: int) -> None:
    with suppress(AttributeError):  # not every system can reserve
        try:
            os.posix_fallocate(descriptor, 0, max(room, 1))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
