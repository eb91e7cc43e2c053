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
import socket
import sys
import time
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from eyescream_py.game.group import Alone, Group
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import is_running
from eyescream_py.system.processes import usable_cores
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.setup import CommonOptions

LONGEST_WAIT = datetime.timedelta(days=2)  # while rank 0 alone decodes millions of pictures
LONGEST_FAREWELL_S = 20
GONE_TRIES, GONE_PAUSE_S = 20, 0.1
LOCAL = "127.0.0.1"
LOCAL_NAMES = ("localhost", LOCAL)
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
    _join("cpu:gloo,cuda:nccl" if cuda else "gloo")
    peers = Peers()
    try:
        with _silence(dist.get_rank() > 0):
            yield Group(), options, SharedStop(stop)
    except RuntimeError as error:
        if not _is_of_a_connection(error) or not (gone := peers.gone()):
            raise
        signal.alarm(LONGEST_FAREWELL_S)  # NCCL may wait for the dead
        peers.tell(gone)
    finally:
        dist.destroy_process_group()


def _join(backend: str) -> None:
    """Meet the other processes: in the store of torchrun, or, where that leaves it to us and all
    are on this machine, in one that no other machine can reach."""
    place = os.environ.get("MASTER_ADDR", "")
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if theirs or place not in LOCAL_NAMES:
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    port, listening = int(os.environ["MASTER_PORT"]), None
    if rank == 0:  # left to itself TCPStore listens on every interface
        listening = socket.create_server((LOCAL, port), reuse_port=False).detach()
    store = dist.TCPStore(
        LOCAL, port, size, rank == 0, timeout=LONGEST_WAIT, master_listen_fd=listening
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)


class Peers:
    """Who takes part, so that a line can say who went."""

    def __init__(self) -> None:
        self.rank, self.host = dist.get_rank(), socket.gethostname()
        self._all: list[tuple[str, int]] = [("", 0)] * dist.get_world_size()
        dist.all_gather_object(self._all, (self.host, os.getpid()))

    def gone(self) -> list[int]:
        """The ranks of this machine that ended; waits a moment, as a process that is killed closes
        its connections before it is counted as ended."""
        for _ in range(GONE_TRIES):
            ours = [(rank, pid) for rank, (host, pid) in enumerate(self._all) if host == self.host]
            if gone := [rank for rank, pid in ours if not is_running(pid) and rank != self.rank]:
                return gone
            time.sleep(GONE_PAUSE_S)
        return []

    def tell(self, gone: list[int]) -> NoReturn:
        """End this process: the first that is left with a line, the others without a word."""
        if self.rank != min(set(range(len(self._all))) - set(gone)):
            time.sleep(GONE_TRIES * GONE_PAUSE_S)  # or we might be taken for the first that went
            raise SystemExit(UserError.exit_code)
        who = ", ".join(f"{rank} (process {self._all[rank][1]})" for rank in gone)
        raise UserError(
            f"rank {who} ended, and the others cannot go on without it; the same command with "
            "--network= continues from the last checkpoint"
        )


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
