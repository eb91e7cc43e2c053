"""Iterations as one CUDA graph: a launch per iteration in place of hundreds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from eyescream_py.game.adversarial import CallLog, Game
from eyescream_py.torch7.random import RandomSource

WARM_UP = 3  # real iterations on the capture's stream, so that lazy set-up is over before it


class CapturedIteration:
    """`Game.iteration` on CUDA, replayed as a graph for full batches.

    The first iterations, those that are logged, and an epoch's last, shorter batch run eagerly; all
    change the same tensors, so they may be mixed. Where the capture fails, one line says so and the
    run goes on eagerly. Not for the CPU: there `game.iteration` is called directly.
    """

    def __init__(self, game: Game, batch: int, source: RandomSource) -> None:
        self.game, self.batch, self.source = game, batch, source
        self.stream = torch.cuda.Stream(game.figures.device)
        self.reset()

    def reset(self) -> None:
        """Forget the graph: what was baked into it (a learning rate) has changed."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0
        self._works = True

    def __call__(self, n: int, log: CallLog | None = None) -> None:
        if log or n != self.batch or not self._works:
            self.game.iteration(n, log)
        elif self._warm < WARM_UP:
            self._on_side_stream(lambda: self.game.iteration(n))
            self._warm += 1
        else:
            if self._graph is None:
                self._capture(n)
            if self._graph is not None:
                self._graph.replay()
            else:
                self.game.iteration(n)

    def _on_side_stream(self, work: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self.game.figures.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def _capture(self, n: int) -> None:
        graph = torch.cuda.CUDAGraph()
        generator = getattr(self.source, "generator", None)
        if generator is not None:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.game.iteration(n)
        except RuntimeError as error:
            self._works = False
            reason = str(error).splitlines()[0]
            print(f"This run is not captured as a CUDA graph ({reason}); it goes on without.")
            return
        self._graph = graph
