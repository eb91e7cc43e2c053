"""A pool of worker processes that leaves nothing behind, however its parent ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess

from eyescream_py.system.threads import demand_threads
from eyescream_py.system.voice import counted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """`count` fresh processes; on an error or an interruption what has not begun is dropped.

    The workers leave Ctrl-C, SIGTERM and SIGHUP to their parent and end when it ends, even when it
    is killed. Raises UserError where this user may not have so many.
    """
    # each worker and its watcher, our starter, and of the pool two threads, without which it would
    # hang, and a process
    demand_threads(2 * count + 4, counted(count, "process", "processes"))
    pool = ProcessPoolExecutor(count, _ShieldedSpawn(), initializer=_start_worker)
    # In a thread: what a signal handler raises strikes the main one only, and a process whose
    # start is broken off complains.
    starter = threading.Thread(target=_start_all, args=(pool, count))
    starter.start()
    try:
        starter.join()
        yield pool
    finally:
        starter.join()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_all(pool: ProcessPoolExecutor, count: int) -> None:
    """A pool starts a process per task that finds none idle: give it so many at once."""
    with contextlib.suppress(OSError, BrokenProcessPool):  # the next task meets it, too
        for _ in range(count):
            pool.submit(os.getpid)


class _ShieldedProcess(SpawnProcess):
    """Is born with these signals blocked, so that none strikes it while it still imports."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        """What the pool does to workers that are left when one was killed; SIGTERM is ignored."""
        self.kill()


class _ShieldedSpawn(SpawnContext):
    Process = _ShieldedProcess


def _start_worker() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
