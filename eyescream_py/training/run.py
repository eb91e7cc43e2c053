"""What every trainer shares: epochs, saving, resuming, stopping, the metrics files.

A trainer hands `run` a `Task`, which knows one iteration, one epoch's figures and its networks;
`run` owns the position (epoch and iteration), the files in SAVE, and the decision when to stop.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from eyescream_py.game.group import Alone
from eyescream_py.networks import checkpoints
from eyescream_py.results import story
from eyescream_py.system.errors import UserError, first_line
from eyescream_py.system.locks import writing
from eyescream_py.system.progress import Progress
from eyescream_py.system.safe_tensors import held_by, not_finite
from eyescream_py.system.saves import Saves, keep_earlier, spared
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import counted
from eyescream_py.training.logs import Logs, LossLog
from eyescream_py.training.save_folder import is_of_run, keep_earlier_pictures, prepare_folder
from eyescream_py.training.task import Schedule, Task, trainer_of

SECONDS_BETWEEN_WAITS = 0.5
MAX_ROLLBACKS = 3
MAX_HALVINGS = 100
COPIES_IN_FILE = 4  # of each weight: itself, its gradient (as in Lua), two moments of Adam
NONSENSE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the loop reads of a trainer's options."""

    # remedies, by flags that the trainer has: against numbers that grow beyond all bounds, and
    # against networks that no longer learn
    calmed_by: ClassVar[str] = "a smaller learning rate"
    revived_by: ClassVar[str] = calmed_by

    save: str  # folder of all that the run writes
    save_freq: int  # epochs from one checkpoint to the next
    epochs: int  # in all, resumed ones included; 0: until interrupted
    log_every: int  # iterations from one logged loss to the next; 0: none is logged
    network: str  # .net file to go on from, as given or in `save`; "": a new run
    on_nan: str  # "stop" or "rollback", when losses are no numbers any more


@dataclass
class _Position:
    epoch: int = 1  # the epoch under way, counted from 1
    iteration: int = 0  # iterations of it that are done
    seconds: float = 0.0  # time it took so far


class Run:
    """One training run; `go` returns when the epochs are done or the run was asked to stop.

    Of several processes in step, the one that `leads` writes, and the others follow.
    """

    def __init__(
        self, task: Task, options: RunOptions, stop: StopSignal, group: Alone | None = None
    ) -> None:
        self.task, self.options, self.stop = task, options, stop
        self.group = group or Alone()
        self.leads = leads = self.group.leads
        self.save, self.trainer = Path(options.save), trainer_of(task)
        self.path = self.save / task.file_name
        self.at = _Position()
        self._good: Path | None = None  # the newest checkpoint known to be sound
        self._unsaved = False  # whether an iteration was done since
        self._overdue = False  # whether a save failed, and none was made since
        self._halvings = 0  # of the learning rate
        self._rollbacks = 0
        self._collapsed = False  # which has been told
        if not len(task.schedule):
            raise UserError(
                f"an epoch of {counted(task.schedule.length, 'picture')} is shorter than a batch"
            )
        if options.network:
            self._resume(checkpoints.find(options.network, self.save))
        again = "free the place or give another --save"
        self._saves = Saves(again, kept=self._good == self.path)
        # SAVE is tried before hours are spent on what could not be kept
        self._continues = self._is_continued()
        prepare_folder(self.save, task.file_name, self._room() if leads else 0)
        with contextlib.ExitStack() as held:
            # of two runs that write one file, the later would take all of the earlier's work
            if leads:
                remedy = "wait, stop it, or give another --save"
                self._saves.lock = task.lock = held.enter_context(writing(self.path, remedy))
            self._earlier = not self._continues and self._holds_earlier_run()
            self._open_logs(keep=bool(options.network) and not self._earlier)
            story.replay(self.save, self.trainer, task.curves)
            self._held = held.pop_all()

    def _room(self) -> int:
        """Bytes that the checkpoints to come need: a new one is whole before it takes the place of
        the last. One that stands in SAVE and is not continued is another run's and stays.
        """
        one = COPIES_IN_FILE * sum(_bytes(net) for net in self.task.networks().values())
        return max(0, one - self._saves.spare(self.path)) if self._continues else 2 * one

    def _is_continued(self) -> bool:
        """Whether what SAVE holds is of this very run."""
        return self._good is not None and is_of_run(self._good, self.path)

    def _holds_earlier_run(self) -> bool:
        """Whether SAVE holds the checkpoint of another run; says so."""
        if not self.path.is_file() or not self.leads:
            return False
        print(
            f"{self.path} is of an earlier run: --network={self.path.name} would continue it. It "
            "is kept under a name with its date when this run first saves."
        )
        return True

    def _resume(self, path: Path) -> None:
        stored = self._restore(path)
        for _ in range(stored):
            self._halve_learning_rate()
        where = f", iteration {self.at.iteration}" if self.at.iteration else ""
        print(f"Continuing from {path} at epoch {self.at.epoch}{where}.")

    def _restore(self, path: Path) -> int:
        """Take everything from a checkpoint; how often its learning rate had been halved."""
        content = checkpoints.read(path)
        try:
            same_epoch = self.task.load(content, path)
            self.at = _stored_position(content, self.task.schedule)
            halvings = _whole((content.get("resume") or {}).get("halvings", 0))
            if halvings > MAX_HALVINGS:
                raise ValueError(f"a learning rate halved {halvings} times")
        except NONSENSE as error:
            raise UserError(
                f"--network={path} makes no sense ({type(error).__name__}: {first_line(error)}); "
                f"is {path}.old whole?"
            ) from error
        if not self._is_finite():
            raise UserError(f"--network={path} holds numbers that are not finite")
        if self.at.iteration and not same_epoch:
            print("The epoch was interrupted with other pictures or batches: it starts anew.")
            self.at = _Position(self.at.epoch)
        # as it is written, however it was given: a save that fails asks whether one stands there
        self._good = self.path if path.resolve() == self.path.resolve() else path
        del content
        gc.collect()  # a file's tables hold one another, and every weight and moment once more
        return halvings

    def _halve_learning_rate(self) -> None:
        self._halvings += 1
        self.task.halve_learning_rate()

    def _open_logs(self, keep: bool) -> None:
        at = (self.at.epoch, self.at.iteration)
        losses = bool(self.options.log_every)
        lock = self._saves.lock
        self.logs = Logs(self.save, self.trainer, at, keep, losses, lock) if self.leads else None

    def go(self) -> None:
        """Train until all epochs are done, or until asked to stop; saves in both cases."""
        self.stop.begin()
        if not self._epochs_left():
            print(f"Epoch {self.options.epochs}, the last one, is done; a larger --epochs goes on.")
        try:
            while self._epochs_left() and not self.stop.asked():
                self._epoch()
            if self.stop.asked() and self._epochs_left():
                self._end_early()
            if self.leads:
                story.write_curves_if_possible(self.save, self.trainer)
        finally:
            self._close_logs()
            self._held.close()

    def _close_logs(self) -> None:
        if self.logs:
            self.logs.close()

    def _end_early(self) -> None:
        if self._unsaved:
            if not self._is_finite():
                self._not_finite()
            self._save()
        if self._good != self.path:
            print(f"Stopped by {self.stop.name} before the first iteration: nothing to save.")
            return
        print(
            f"Stopped by {self.stop.name}: saved {self.path} at epoch {self.at.epoch}, "
            f"iteration {self.at.iteration}; --network={self.path.name} continues it."
        )

    def _shows_progress(self) -> bool:
        return self.leads and sys.stderr.isatty()

    def _epochs_left(self) -> bool:
        return self.options.epochs == 0 or self.at.epoch <= self.options.epochs

    def _epoch(self) -> None:
        """Train from the present iteration to the epoch's end, or until asked to stop."""
        schedule, epoch = self.task.schedule, self.at.epoch
        self.task.learn_at(epoch)
        # an epoch that was interrupted keeps the pictures it had drawn
        if self.at.iteration == 0:
            self.task.begin_epoch()
        print(f"<trainer> Epoch #{epoch} [batchSize = {schedule.batch}]")
        start = time.perf_counter() - self.at.seconds
        self._iterations()
        self.task.finish()
        seconds = time.perf_counter() - start
        if self.at.iteration < len(schedule):
            self.at.seconds = seconds
            return
        # a broken network is found before it can replace a sound checkpoint; to look at all that a
        # file holds takes an average whose statistics are measured, some seconds for large networks
        if not (self._is_finite() if self._saves_after(epoch) else self.task.is_finite()):
            self._not_finite()
            return
        collapse = self.task.collapse()
        if collapse and self.options.on_nan == "rollback" and self._good is not None:
            self._go_back(self._good, f"epoch {epoch}: {collapse}")
            return
        self._end_epoch(epoch, seconds)
        if collapse and not self._collapsed:
            print(
                f"{collapse}; start anew with {self.options.revived_by}, or go on from an older "
                "file with --on_nan=rollback, which goes back by itself"
            )
        self._collapsed = bool(collapse)

    def _iterations(self) -> None:
        """The iterations that the epoch still lacks, as long as nobody asks the run to stop."""
        schedule, shown, waited = self.task.schedule, self._shows_progress(), time.perf_counter()
        with Progress(len(schedule), "iterations", shown, self.at.iteration) as progress:
            while self.at.iteration < len(schedule):
                self.task.iteration(schedule.size(self.at.iteration), self._log())
                self._unsaved = True
                self.at.iteration += 1
                # now and then the bar waits for the device, lest it count what is only queued
                if shown and time.perf_counter() - waited > SECONDS_BETWEEN_WAITS:
                    self.task.finish()
                    waited = time.perf_counter()
                progress.update(1)
                # asked between two iterations, when everything is in a state to be saved
                if self.stop.asked():
                    return

    def _end_epoch(self, epoch: int, seconds: float) -> None:
        # figures first: a save that fails must not take them along
        record = self.task.end_epoch(epoch, seconds)
        if self.logs:
            self.logs.epoch(epoch, seconds, record)
        self.task.curves(epoch, record)
        self.at = _Position(epoch + 1)
        self.task.show(epoch)
        if self._saves_after(epoch):
            self._save()
            self._save_pictures(epoch)

    def _saves_after(self, epoch: int) -> bool:
        """The last epoch is saved whatever the frequency, and a save that failed is made up for."""
        last = epoch == self.options.epochs
        return epoch % self.options.save_freq == 0 or last or self._overdue

    def _save_pictures(self, epoch: int) -> None:
        if not self.leads:
            return
        folder = self.save / "pictures"
        with spared(f"pictures to {folder}"):
            if not self._continues or self._saves.displaced:
                self._keep_earlier_pictures(folder)
            self._continues, self._saves.displaced = True, False
            self.task.save_pictures(folder, epoch)

    def _keep_earlier_pictures(self, folder: Path) -> None:
        grids = [path for _, path in story.grids_over_time(folder).get(self.task.series, [])]
        if grids:
            kept = keep_earlier_pictures(folder, grids, self.task.series or "faces")
            print(f"The pictures of another run, {len(grids)} in all, are now in {kept}.")

    def _log(self) -> LossLog | None:
        every, iteration = self.options.log_every, self.at.iteration + 1
        if self.logs is None or not every or iteration % every:
            return None
        return self.logs.of_iteration(self.at.epoch, iteration)

    def _save(self) -> None:
        """Write the checkpoint; a failure is told and tried again while there is another turn."""
        content = self.task.content(self.at.epoch - 1)
        content["resume"] = {
            "position": vars(self.at),
            "halvings": self._halvings,
            "state": self.task.state(),
        }
        print(f"<trainer> saving network to {self.path}")
        last = self.stop.requested or not self._epochs_left()
        # all have to know, or they would go back to different files
        saved = self.group.agreed(
            lambda: self._saves.save(self.path, last, lambda: self._write(content))
        )
        self._overdue = not saved
        if saved:
            self._good, self._unsaved = self.path, False

    def _write(self, content: dict[str, Any]) -> None:
        if self._earlier and self.path.is_file():
            print(f"The earlier {self.path.name} is now {keep_earlier(self.path).name}.")
        self._earlier = False
        checkpoints.write(self.path, self.task.networks(), content)

    def _is_finite(self) -> bool:
        """Whether losses, moments and all that files keep of networks are finite numbers."""
        return self.task.is_finite() and not not_finite(held_by(self.task.networks()))

    def _not_finite(self) -> None:
        """Go back to the last good checkpoint where that is wanted and possible, else end."""
        found = f"epoch {self.at.epoch}: a loss or a weight is no longer a finite number"
        if self._good is None:
            found += ", and nothing was saved before"
        if self.options.on_nan != "rollback" or self._good is None or self.stop.requested:
            kept = f"; {self._good} holds the last good state" if self._good else ""
            raise UserError(
                f"{found}{kept}; try {self.options.calmed_by}, or --on_nan=rollback with a smaller "
                "--saveFreq"
            )
        self._go_back(self._good, found)

    def _go_back(self, good: Path, found: str) -> None:
        """Go on from a checkpoint with half the learning rate, unless that has failed too often."""
        if self._rollbacks == MAX_ROLLBACKS:
            raise UserError(
                f"{found} again after {MAX_ROLLBACKS} rollbacks; {good} holds the last good "
                f"state: continue it with {self.options.calmed_by}"
            )
        self._rollbacks += 1
        self._restore(good)
        self._halve_learning_rate()
        self._unsaved = False
        print(f"{found}; back to {good} with half the learning rate.")
        self._close_logs()
        self._open_logs(keep=True)


def _stored_position(content: Any, schedule: Schedule) -> _Position:
    """Where a checkpoint stands; a Lua file says only how many epochs are behind it (none: 1)."""
    resume = content.get("resume")
    if resume is None:
        return _Position(_whole(content.get("epoch", 1)) + 1)
    position = resume["position"]
    at = _Position(
        _whole(position["epoch"]), _whole(position["iteration"]), float(position["seconds"])
    )
    if at.iteration > len(schedule):
        print(
            "The epoch is shorter with these options than when it was interrupted: it starts anew."
        )
        return _Position(at.epoch)
    return at


def _whole(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} where a count should stand")
    return value


def _bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())
