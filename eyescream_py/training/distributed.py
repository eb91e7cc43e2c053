"""Several processes train one model: `torchrun --nproc_per_node=K train.py ...`.

Rank 0 alone writes, prints and plots; as no state depends on K, a run can be resumed with another
K. How a batch is shared stands in game/group.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import sys
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from eyescream_py.game.group import Alone, Group
from eyescream_py.system.errors import UserError
from eyescream_py.system.processes import usable_cores
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.setup import CommonOptions

LONGEST_WAIT = datetime.timedelta(days=2)  # while rank 0 alone decodes millions of pictures
Options = TypeVar("Options", bound=CommonOptions)


@contextlib.contextmanager
def joined(options: Options, stop: StopSignal) -> Iterator[tuple[Alone, Options, StopSignal]]:
    """The processes that torchrun started, with options and stop signal as this one has to use
    them.

    Started without torchrun, the process is alone and both are the given ones. Raises UserError
    where the batch cannot be split or the numbers are Lua's.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Alone(), options, stop
        return
    options = _options(options, size, int(os.environ["LOCAL_RANK"]))
    cuda = options.gpu >= 0 and torch.cuda.is_available()
    device = torch.device("cuda", options.gpu) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # signals to stop are agreed upon by the CPUs: no process waits for its GPU to hear of them
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=LONGEST_WAIT)
    try:
        with _silence(dist.get_rank() > 0):
            yield Group(), options, SharedStop(stop)
    finally:
        dist.destroy_process_group()


def _options(options: Options, size: int, local_rank: int) -> Options:
    if options.batch_size % (2 * size):
        raise UserError(
            f"--batchSize={options.batch_size}: {size} processes cannot share it evenly; "
            f"give a multiple of {2 * size}"
        )
    if options.rng == "lua":
        raise UserError(
            "--rng=lua follows the Lua program in one process: start it without torchrun"
        )
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    threads = max(1, usable_cores() // local_size)
    on_gpu = options.gpu >= 0 and torch.cuda.is_available()
    return dataclasses.replace(
        options,
        noplot=options.noplot or int(os.environ["RANK"]) > 0,
        threads=options.threads if "threads" in options.typed else threads,
        gpu=local_rank if on_gpu else options.gpu,
    )


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
        super().__init__()
        self._ours = ours

    def begin(self) -> None:
        self._ours.begin()

    def asked(self) -> bool:
        if not self.requested:
            flag = torch.tensor(int(self._ours.requested))
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            self.requested = bool(flag)
            self.name = self._ours.name or "a signal to another process"
        return self.requested
