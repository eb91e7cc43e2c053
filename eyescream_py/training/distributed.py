"""Several processes train one model: `torchrun --nproc_per_node=K train.py ...`.

Rank 0 alone writes, prints and plots; as no state depends on K, a run can be resumed with another
K. How a batch is shared stands in game/group.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from eyescream_py.game.group import Alone, Group
from eyescream_py.system.errors import UserError
from eyescream_py.system.processes import usable_cores
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.run import Run, RunOptions, Task


@contextlib.contextmanager
def joined(options: Any) -> Iterator[tuple[Alone, Any]]:
    """The processes that torchrun started, and a trainer's options as this process has to use them.

    Started without torchrun, the process is alone and its options are the given ones. Raises
    UserError where the batch cannot be split or the numbers are Lua's.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Alone(), options
        return
    options = _options(options, size, int(os.environ["LOCAL_RANK"]))
    cuda = options.gpu >= 0 and torch.cuda.is_available()
    device = torch.device("cuda", options.gpu) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # signals to stop are agreed upon by the CPUs: no process waits for its GPU to hear of them
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        with _silence(dist.get_rank() > 0):
            yield Group(device), options
    finally:
        dist.destroy_process_group()


def _options(options: Any, size: int, local_rank: int) -> Any:
    if options.batch_size % (2 * size):
        raise UserError(
            f"--batchSize={options.batch_size}: {size} processes cannot share it evenly; "
            f"give a multiple of {2 * size}"
        )
    if getattr(options, "rng", "torch") == "lua":
        raise UserError(
            "--rng=lua follows the Lua program in one process: start it without torchrun"
        )
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    changes: dict[str, Any] = {"noplot": options.noplot or int(os.environ["RANK"]) > 0}
    if "threads" not in options.typed:
        changes["threads"] = max(1, usable_cores() // local_size)
    if options.gpu >= 0 and torch.cuda.is_available():
        changes["gpu"] = local_rank
    return dataclasses.replace(options, **changes)


@contextlib.contextmanager
def _silence(silent: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if silent:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        sys.stdout.flush()


class SharedStop(StopSignal):
    """A signal to one process stops all, after the same iteration: they ask one another."""

    def __init__(self, ours: StopSignal) -> None:
        self._ours, self._agreed, self._asking = ours, False, True

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """A block that one process may run alone: nobody is asked in it."""
        self._asking = False
        try:
            yield
        finally:
            self._asking = True

    @property
    def requested(self) -> bool:  # type: ignore[override]
        if self._asking and not self._agreed:
            flag = torch.tensor(int(self._ours.requested))
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            self._agreed = bool(flag)
        return self._agreed

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._ours.name or "a signal to another process"

    @property
    def at_once(self) -> str:
        return self._ours.at_once

    @at_once.setter
    def at_once(self, words: str) -> None:
        self._ours.at_once = words


class _NoLines:
    """Takes the lines of a process that writes nothing."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class _SharedRun(Run):
    """A run in step with those of the other processes, of which one (`leads`) writes."""

    def __init__(self, task: Task, options: RunOptions, stop: SharedStop, leads: bool) -> None:
        self.leads, self.shared_stop = leads, stop
        super().__init__(task, options, stop)

    def _shows_progress(self) -> bool:
        return self.leads and super()._shows_progress()

    def _open_logs(self, keep: bool) -> None:
        if self.leads:
            super()._open_logs(keep)
        else:
            self.metrics = _NoLines()  # type: ignore[assignment]
            self.losses = _NoLines() if self.options.log_every else None  # type: ignore[assignment]

    def _save(self) -> None:
        if self.leads:
            with self.shared_stop.settled():
                super()._save()
        else:
            self._good, self._unsaved = self.path, False

    def _save_pictures(self, epoch: int) -> None:
        if self.leads:
            super()._save_pictures(epoch)


def make_run(group: Alone, task: Task, options: RunOptions, stop: StopSignal) -> Run:
    """The run of this process: in step with the others where there are any."""
    if isinstance(group, Group):
        return _SharedRun(task, options, SharedStop(stop), group.leads)
    return Run(task, options, stop)
