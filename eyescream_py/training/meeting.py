"""Where the processes of one run meet, and where one that cannot go on says why.

torchrun, or whoever starts them, says in the environment who takes part: RANK of WORLD_SIZE, at
MASTER_ADDR:MASTER_PORT. They meet before anything else can fail, and share a store of words.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import torch.distributed as dist

from eyescream_py.system.errors import UserError, first_line, why
from eyescream_py.system.files import is_running
from eyescream_py.system.ranks import several
from eyescream_py.system.voice import say

LOCAL = "127.0.0.1"
LOCAL_NAMES = ("localhost", LOCAL)
MEETING_S = 600.0  # a cluster may start its processes minutes apart
LOOK_S, SAY_AFTER_S = 0.1, 10.0
FAREWELL_S = 10.0  # for the others to read why rank 0, which holds the store, ended
_FAILED, _READ, _PROCESS = "failed", "read", "process"
_PLACE = __name__  # in a click context's `meta`: the company that the command met


@dataclass(frozen=True)
class Failure:
    """Which process ended first, and its words."""

    rank: int
    words: str

    def as_error(self) -> UserError:
        """What to say in a process that ends because of this one."""
        return UserError(f"rank {self.rank} ended: {self.words}")


class Company:
    """The processes of a run, of which this is `rank` of `size`, and their `store`, which one of
    them holds unless it is torchrun's. A store that is not there yet is waited for `patience_s`
    seconds."""

    def __init__(self, patience_s: float | None = None) -> None:
        self.size, self.rank = number_in("WORLD_SIZE"), number_in("RANK")
        if self.rank >= self.size:
            raise UserError(f"RANK={self.rank}: give each of the {self.size} processes its own")
        of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self.holds = self.rank == 0 and not of_torchrun
        self.store = self._opened(MEETING_S if patience_s is None else patience_s)
        self._first: Failure | None = None  # as far as it is known here
        self._own = ""  # this process's words where it failed, too
        self.host = socket.gethostname()
        self._processes: dict[int, tuple[str, int]] = {}
        with self._store_may_go():
            self.store.set(f"{_PROCESS}/{self.rank}", json.dumps([self.host, os.getpid()]))

    def _opened(self, patience_s: float) -> dist.Store:
        """torchrun's store, or rank 0's, which within one machine no other can reach."""
        place, port = _text("MASTER_ADDR"), number_in("MASTER_PORT")
        try:
            listening = None
            if self.holds and place in LOCAL_NAMES:  # left to itself TCPStore listens everywhere
                listening = socket.create_server((LOCAL, port), reuse_port=False).detach()
            elif self.holds:
                socket.getaddrinfo(place, port)  # TCPStore would try for ever
            else:
                _wait_for_port(place, port, patience_s)
            store = dist.TCPStore(
                LOCAL if place in LOCAL_NAMES else place, port, self.size,
                self.holds, timeout=datetime.timedelta(seconds=patience_s), wait_for_workers=False,
                master_listen_fd=listening,
            )  # fmt: skip
        except (OSError, OverflowError, RuntimeError) as error:
            reason = why(error) if isinstance(error, OSError) else first_line(error)
            raise UserError(
                f"MASTER_ADDR={place} MASTER_PORT={port}: the {self.size} processes of WORLD_SIZE "
                f"cannot meet there ({reason}); unset WORLD_SIZE to train in one process"
            ) from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"eyescream_py/{attempt}", store)

    def gather(self, where: str) -> None:
        """Return when all processes have come here; `where` is a word that is used once.

        Raises UserError where one of them failed before, or does not come in MEETING_S seconds.
        """
        start, told = time.monotonic(), False
        with self._store_may_go():
            self.store.add(where, 1)
            while (here := self.store.add(where, 0)) < self.size:
                if failure := self.failure():
                    raise failure.as_error()
                waited = time.monotonic() - start
                if waited > MEETING_S:
                    raise UserError(
                        f"only {here} of the {self.size} processes of WORLD_SIZE came in "
                        f"{MEETING_S / 60:.0f} minutes; start them all, or unset WORLD_SIZE to "
                        "train in one process"
                    )
                if waited > SAY_AFTER_S and self.rank == 0 and not told:
                    say(f"Waiting for {self.size - here} of {self.size} processes.")
                    told = True
                time.sleep(LOOK_S)

    def failure(self) -> Failure | None:
        """Who failed, where one said so."""
        if not self.store.check([_FAILED]):
            return None
        self._first = Failure(*json.loads(self.store.get(_FAILED)))
        self.store.set(f"{_READ}/{self.rank}", "")
        return self._first

    def tell(self, error: BaseException) -> None:
        """Leave the words of `error`, unless another process was the first to fail."""
        if self._first or self._own:
            return
        words = first_line(error)
        if isinstance(error, click.ClickException):
            words = error.format_message()  # which names the flag
        if isinstance(error, SystemExit | KeyboardInterrupt):
            words = "it was stopped"
        self._own = words
        with contextlib.suppress(RuntimeError):
            first = self.store.compare_set(_FAILED, "", json.dumps([self.rank, words]))
            self._first = Failure(*json.loads(first))
            self.store.set(f"{_READ}/{self.rank}", "")

    def is_said(self) -> bool:
        """Whether another process of this machine says already what this one would: each failure
        is said by the one that failed, and by the first of each machine."""
        first = self._first
        if first is None or first.rank == self.rank or self._own not in ("", first.words):
            return False
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return True
        host, _ = self.processes().get(first.rank, ("", 0))
        return bool(self._own) and host == self.host

    def linger(self) -> None:
        """In whom the store ends with: wait until those that live know why, some seconds."""
        end = time.monotonic() + FAREWELL_S
        with contextlib.suppress(RuntimeError):
            while self.holds and time.monotonic() < end:
                dead = self.dead()
                left = [f"{_READ}/{rank}" for rank in range(self.size) if rank not in dead]
                if self.store.check(left):
                    return
                time.sleep(LOOK_S)

    def processes(self) -> dict[int, tuple[str, int]]:
        """Machine and process id of each rank that has come, as far as the store has told."""
        for rank in set(range(self.size)) - self._processes.keys():
            if self.store.check([key := f"{_PROCESS}/{rank}"]):
                host, pid = json.loads(self.store.get(key))
                self._processes[rank] = host, pid
        return self._processes

    def dead(self) -> list[int]:
        """The ranks whose processes were of this machine and have ended."""
        found = sorted(self.processes().items())
        return [rank for rank, (host, pid) in found if host == self.host and not is_running(pid)]

    @contextlib.contextmanager
    def _store_may_go(self) -> Iterator[None]:
        try:
            yield
        except dist.DistError as error:
            raise UserError("rank 0 ended before the others had met it") from error


def _text(name: str) -> str:
    text = os.environ.get(name, "")
    if not text:
        raise UserError(
            f"{name} is not set, though WORLD_SIZE says that several processes train together: "
            "start them by torchrun, or unset WORLD_SIZE"
        )
    return text


def number_in(name: str) -> int:
    """A count that the environment holds; raises UserError where it does not."""
    text = _text(name)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UserError(f"{name}={text} in the environment is no count; torchrun sets it")
    return int(text)


def _wait_for_port(place: str, port: int, patience_s: float) -> None:
    """Return when something listens there: TCPStore would complain with each try. OSError."""
    end = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection((place, port), timeout=SAY_AFTER_S).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(LOOK_S)
        else:
            return


def tell_the_others(error: click.ClickException) -> None:
    """Let the others hear of an error that comes before they are met; they may be gone already."""
    with contextlib.suppress(UserError):
        company = Company(patience_s=FAREWELL_S)
        _end(company, error)


@contextlib.contextmanager
def met() -> Iterator[Company | None]:
    """Meet the others first of all; where this process fails, they hear why. None: it is alone.

    Within a command that has met them already it is that company again.
    """
    context = click.get_current_context(silent=True)
    known = context.meta.get(_PLACE) if context else None
    if known or not several():
        yield known
        return
    company = Company()
    if context:
        context.meta[_PLACE] = company
    try:
        company.gather("met")
        yield company
    except BaseException as error:
        _end(company, error)
        raise


def _end(company: Company, error: BaseException) -> None:
    """Let the others hear of `error`, which then shows itself unless one of them says the same."""
    company.tell(error)
    company.linger()
    with contextlib.suppress(RuntimeError):  # the store went with rank 0
        if isinstance(error, click.ClickException) and company.is_said():
            error.show = lambda file=None: None  # type: ignore[method-assign]
