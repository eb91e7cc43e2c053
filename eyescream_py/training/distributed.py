"""Several processes train one model: `torchrun --nproc_per_node=K train.py ...`.

Rank 0 alone writes, prints and plots; as no state depends on K, a run can be resumed with another
K. How a batch is shared: game/group.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from eyescream_py.game.group import Alone, Group
from eyescream_py.system.errors import UserError
from eyescream_py.system.processes import usable_cores
from eyescream_py.system.ranks import is_first
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.meeting import Company, Failure, met, number_in
from eyescream_py.training.setup import CommonOptions

LONGEST_WAIT = datetime.timedelta(days=2)  # while rank 0 alone decodes millions of pictures
LONGEST_FAREWELL_S = 20
GONE_TRIES, GONE_PAUSE_S = 20, 0.1
Options = TypeVar("Options", bound=CommonOptions)


@contextlib.contextmanager
def joined(options: Options, stop: StopSignal) -> Iterator[tuple[Alone, Options, StopSignal]]:
    """The processes that torchrun started, with options and stop signal as this one has to use
    them.

    Started without torchrun, the process is alone and both are the given ones. Raises UserError
    where the batch cannot be split or the numbers are Lua's.
    """
    with met() as company:
        if company is None:
            yield Alone(), options, stop
            return
        options = _options(options, company.size, number_in("LOCAL_RANK"))
        cuda = options.gpu >= 0 and torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(torch.device("cuda", options.gpu))
        company.gather("joined")  # whoever failed until here has told the others
        company.processes()  # while there is a store that knows them
        try:
            # signals to stop are agreed upon by CPUs: no process waits for its GPU to hear of them
            _join("cpu:gloo,cuda:nccl" if cuda else "gloo", company)
            with _silence(company.rank > 0):
                yield Group(), options, SharedStop(stop)
        except BaseException as error:
            if isinstance(error, RuntimeError) and _is_of_a_connection(error):
                _tell_of_the_first(company)
            company.tell(error)  # before the connections close, which all notice
            raise
        finally:
            if dist.is_initialized():  # else one that had joined was gone before this one
                dist.destroy_process_group()


def _join(backend: str, company: Company) -> None:
    """Connect to the other processes by way of the company's store."""
    store = dist.PrefixStore("connections", company.store)
    store.set_timeout(LONGEST_WAIT)
    dist.init_process_group(
        backend, store=store, rank=company.rank, world_size=company.size, timeout=LONGEST_WAIT
    )


def _tell_of_the_first(company: Company) -> None:
    """End this process because of the one that ended first: with a line in the first that is left,
    without a word in the others. Returns where none did, as far as can be seen."""
    failure, gone = _looked_for(company)
    places = company.processes()
    if failure is None and not gone and all(host == company.host for host, _ in places.values()):
        return
    signal.alarm(LONGEST_FAREWELL_S)  # NCCL may wait for the dead
    ended = {failure.rank} if failure else set(gone)
    if company.rank != min(places.keys() - ended):
        time.sleep(GONE_TRIES * GONE_PAUSE_S)  # or we might be taken for the first that went
        raise SystemExit(UserError.exit_code)
    if failure:
        raise failure.as_error()
    who = ", ".join(f"rank {rank} (process {places[rank][1]})" for rank in gone)
    raise UserError(
        f"{who or 'a process on another machine'} ended, and the others cannot go on without "
        "it; the same command with --network= continues from the last checkpoint"
    )


def _looked_for(company: Company) -> tuple[Failure | None, list[int]]:
    """What a process said that failed, else the ranks of this machine that ended; waits a moment,
    as one that is killed closes its connections before it is counted as ended."""
    for _ in range(GONE_TRIES):
        with contextlib.suppress(RuntimeError):  # the store went with rank 0
            if failure := company.failure():
                return failure, []
        if gone := company.dead():
            return None, gone
        time.sleep(GONE_PAUSE_S)
    return None, []


def _is_of_a_connection(error: RuntimeError) -> bool:
    words = ("connection", "gloo", "nccl", "socket")
    return isinstance(error, dist.DistError) or any(w in str(error).lower() for w in words)


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
        noplot=options.noplot or not is_first(),
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
