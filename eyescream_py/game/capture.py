"""Iterations recorded once and replayed: on CUDA a launch in place of hundreds, on a processor the
bare operators.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from eyescream_py.game.adversarial import CallLog, Game, Learner
from eyescream_py.game.group import Alone
from eyescream_py.system import tape
from eyescream_py.system.lanes import FIRST
from eyescream_py.system.recording import WARM_UP, WITHOUT, UnrecordedError, recorded
from eyescream_py.system.voice import warn
from eyescream_py.torch7.optim import LuaOptimizer
from eyescream_py.torch7.random import RandomSource, TorchSource

Work = Callable[[], None]


def can_be_recorded(device: torch.device, source: RandomSource, group: Alone) -> bool:
    """Whether iterations on `device` can be: a processor's neither draw Lua's random numbers, which
    no operator makes, nor wait for other processes.
    """
    return device.type == "cuda" or (isinstance(source, TorchSource) and group.size == 1)


class CapturedIteration:
    """`Game.iteration`, replayed for full batches.

    The first iterations, the first with R1 and the first without, those that are logged, and an
    epoch's last, shorter batch run eagerly; all change the same tensors, so they may be mixed.
    Iterations in which R1 is due have a recording of their own.
    """

    def __init__(self, game: Game, batch: int, source: RandomSource) -> None:
        self.game, self.batch = game, batch
        device = game.figures.device
        on_cuda = device.type == "cuda"
        self.recorder: _Recorder = _OnCuda(device, source) if on_cuda else _OnCpu((game.D, game.G))
        self.graphs: dict[tuple[bool, ...], Recording] = {}
        self._refused: set[tuple[bool, ...]] = set()
        self._warm: Counter[tuple[bool, ...]] = Counter()

    def __call__(self, n: int, log: CallLog | None = None) -> None:
        if log or n != self.batch:
            self.game.iteration(n, log)
            return
        kind, work = self.game.taming.due(self.game.D_iterations), self._work(n)
        if kind in self.graphs:
            self.game.taming.count(self.game.D_iterations)  # a replay runs no Python that counts
            self.graphs[kind].replay()
        # R1's layers set themselves up, too; a resumed run comes to them after the others
        elif kind in self._refused or self._warm.total() < WARM_UP or not self._warm[kind]:
            self.recorder.warm_up(work)
            self._warm[kind] += 1
        elif made := self.recorder.record(work):
            self.graphs[kind] = made
        else:
            self._refused.add(kind)

    def _work(self, n: int) -> Work:
        """The next iteration, which may be begun again where a recording of it fails half-way."""
        taming = self.game.taming
        counted = taming.counted

        def work() -> None:
            taming.count(counted - taming.counted)
            self.game.iteration(n)

        return work


class RecordedStep:
    """`work`, in which `players` learn on a processor: recorded in its fourth call, and from there
    on replayed, where it can be.
    """

    def __init__(self, work: Work, players: Sequence[Learner]) -> None:
        self._work, self._recorder = work, _OnCpu(players)
        self._again, self._calls = work, 0

    def __call__(self) -> None:
        self._calls += 1
        if self._calls != WARM_UP + 1:
            self._again()
        elif made := self._recorder.record(self._work):
            self._again = made.replay


class Recording(Protocol):
    """An iteration that was done, and can be again."""

    def replay(self) -> None: ...


class _Recorder(Protocol):
    """How recordings of `work` are made."""

    def warm_up(self, work: Work) -> None:
        """Do it before the first recording."""
        ...

    def record(self, work: Work) -> Recording | None:
        """Do it, and return what does it again, if anything can."""
        ...


class _OnCpu:
    """As the operators that the work of `players` calls."""

    def __init__(self, players: Sequence[Learner]) -> None:
        self.players = players

    def warm_up(self, work: Work) -> None:
        work()

    def record(self, work: Work) -> Recording | None:
        with contextlib.ExitStack() as steps:
            for player in self.players:
                steps.enter_context(_step_as_one(player.optimizer))
            made = tape.record(work)
        if made is None:
            warn(f"an iteration cannot be recorded: {WITHOUT}.")
        return made


@contextlib.contextmanager
def _step_as_one(optimizer: LuaOptimizer) -> Iterator[None]:
    """A block in which a recording takes the optimizer's step for one operator: it counts in
    Python, and asks there whether D may learn.
    """
    step = optimizer.step

    def take(*slopes: Tensor) -> None:
        for p, slope in zip(optimizer.parameters, slopes, strict=True):
            p.grad = slope

    def recorded_step(gate: Tensor | None = None) -> None:
        # flat ones lie where they always do, others are new tensors each time
        if not optimizer.flat:
            tape.in_replays(take, *optimizer.gradients)
        tape.as_one(step, gate)

    optimizer.step = recorded_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        del optimizer.step


class _OnCuda:
    """As CUDA graphs, on a stream of their own."""

    def __init__(self, device: torch.device, source: RandomSource) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device, FIRST)
        self.generator = getattr(source, "generator", None)

    def warm_up(self, work: Work) -> None:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Recording | None:
        """The same; UserError where no recording can be made and nothing can go on."""
        made: Recording | None = None
        try:
            made, _ = recorded(
                work, self.stream, "an iteration", "--no_capture trains without, and slower",
                generator=self.generator,
            )  # fmt: skip
        except UnrecordedError as error:
            warn(f"{error}: {WITHOUT}.")
        # nothing of the work was done yet
        if made:
            made.replay()
        else:
            self.warm_up(work)
        return made
