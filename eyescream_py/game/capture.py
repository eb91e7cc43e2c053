"""Iterations as one CUDA graph: a launch per iteration in place of hundreds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from eyescream_py.game.adversarial import CallLog, Game
from eyescream_py.system.recording import recorded
from eyescream_py.torch7.random import RandomSource

WARM_UP = 3  # real iterations on the capture's stream, so that lazy set-up is over before it


class CapturedIteration:
    """`Game.iteration` on CUDA, replayed as a graph for full batches.

    The first iterations, the first with R1 and the first without, those that are logged, and an
    epoch's last, shorter batch run eagerly; all change the same tensors, so they may be mixed.
    Iterations in which R1 is due have a graph of their own. Not for the CPU: there
    `game.iteration` is called directly.
    """

    def __init__(self, game: Game, batch: int, source: RandomSource) -> None:
        self.game, self.batch, self.source = game, batch, source
        self.stream = torch.cuda.Stream(game.figures.device)
        self.graphs: dict[tuple[bool, ...], torch.cuda.CUDAGraph] = {}
        self._warm: Counter[tuple[bool, ...]] = Counter()

    def __call__(self, n: int, log: CallLog | None = None) -> None:
        if log or n != self.batch:
            self.game.iteration(n, log)
            return
        kind = self.game.taming.due(self.game.D_iterations)
        # R1's layers set themselves up, too; a resumed run comes to them after the others
        if self._warm.total() < WARM_UP or not self._warm[kind]:
            self._on_side_stream(lambda: self.game.iteration(n))
            self._warm[kind] += 1
        else:
            self._replay(n, kind)

    def _replay(self, n: int, kind: tuple[bool, ...]) -> None:
        taming, steps = self.game.taming, self.game.D_iterations
        if kind in self.graphs:
            taming.count(steps)  # a replay runs none of the Python that counts
        else:
            self.graphs[kind] = self._captured(n)
        self.graphs[kind].replay()

    def _on_side_stream(self, work: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self.game.figures.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def _captured(self, n: int) -> torch.cuda.CUDAGraph:
        """A recording of the next iteration, which has not run yet. UserError where none can be."""
        return recorded(
            lambda: self.game.iteration(n), self.stream, "an iteration",
            "--no_capture trains without, and slower",
            generator=getattr(self.source, "generator", None),
        )[0]  # fmt: skip
