"""What follows the slopes in a step of Adam on a GPU, as one pass over memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from eyescream_py.game.working import Working
    from eyescream_py.torch7.flat import Flat
    from eyescream_py.torch7.optim import Adam

LARGE = 1 << 20  # elements of a weight from which its step is worth a kernel of its own
Span = tuple[int, int]
Spans = list[Span]


class FusedAdam:
    """Penalty (l1, l2), clamp, Adam and the rounded copies of the weights, for an `optimizer` with
    `Flat` parameters and its counters on the device, by the kernel `adam` of `kernels`.

    The optimizer's gradients stay as they were found: penalty and clamp exist in the pass alone.
    In a block `early` before `step` each weight of `LARGE` elements or more may take its step with
    `take`, while slopes of others are still being found: memory, which is all that Adam waits
    for, is idle there. The numbers are those of `step` alone, to the bit.
    """

    def __init__(
        self, kernels: Any, optimizer: Adam, penalty: tuple[float, float], clamp: float,
        working: Working | None,
    ) -> None:  # fmt: skip
        self.kernels, self.optimizer, self.clamp = kernels, optimizer, clamp
        self.penalty = penalty
        self.rounded = working.rounded if working else None
        self._spans = self._flat.spans
        self._large = {
            id(p): number
            for number, p in enumerate(optimizer.parameters)
            # a slope has no border beside it that could be read, too
            if p.numel() >= LARGE and p.numel() == self._spans[number][1] - self._spans[number][0]
        }
        self.taken: set[int] = set()
        self._count: Tensor | None = None  # of the step that has begun
        self._gate: Tensor | None = None
        self._open = False
        self._tiles: dict[tuple[Span, ...], Any] = {}

    @property
    def _flat(self) -> Flat:
        flat = self.optimizer.flat
        if flat is None:
            raise TypeError("a fused step needs an optimizer of flat parameters")
        return flat

    @contextlib.contextmanager
    def early(self, gate: Tensor | None = None) -> Iterator[None]:
        """A block in which weights may take their step; where `gate` is 0, nothing changes in it.
        `step` has to follow it.
        """
        self._begin(gate)
        self._open = True
        try:
            yield
        except BaseException:  # as where a recording fails: no step has begun
            self._end()
            raise
        finally:
            self._open = False

    def _begin(self, gate: Tensor | None) -> None:
        """Count the step."""
        count = self.optimizer.count(gate)
        if not isinstance(count, Tensor):
            raise TypeError("a fused step needs an optimizer that keeps its counters on the device")
        self._count, self._gate = count, gate

    def _end(self) -> None:
        self._count = None
        self.taken.clear()

    def takes(self, weight: Tensor) -> bool:
        """Whether this parameter may take its step now."""
        return self._open and id(weight) in self._large

    def take(self, weight: Tensor, slope: Tensor) -> None:
        """The step of a parameter that `takes` it, with its `slope`, which is put among the
        gradients. Nobody may need the weight of before any more.
        """
        number = self._large[id(weight)]
        self.taken.add(number)
        start, end = self._spans[number]
        self._change([(0, end - start)], slice(start, end), self._flat.row(number, slope))

    def step(self, gate: Tensor | None = None) -> None:
        """Change weights, moments and the count of steps, where `gate` is not 0: all that was not
        taken in an `early` before it.
        """
        if self._count is None:
            self._begin(gate)
        rest = _joined(span for n, span in enumerate(self._spans) if n not in self.taken)
        try:
            self._change(rest, slice(None))
        finally:
            self._end()

    def _change(self, spans: Spans, part: slice, found: Tensor | None = None) -> None:
        """The step of `spans` of a `part` of the flat tensors."""
        adam = self.optimizer
        (weights,), (gradient,) = adam.weights, adam.gradients
        (m,), (v,) = adam.held("m"), adam.held("v")
        rounded = None if self.rounded is None else self.rounded[part]
        self.kernels.adam(
            weights[part], gradient[part], (m[part], v[part]), rounded, self._count, adam.rate,
            self._gate, self.penalty, self.clamp, adam.betas, adam.eps, self._tiles_of(spans),
            found,
        )  # fmt: skip

    def _tiles_of(self, spans: Spans) -> Any:
        """Made once, as a recording cannot wait for the host."""
        key = tuple(spans)
        if key not in self._tiles:
            self._tiles[key] = self.kernels.tiles(spans, self._flat.weights)
        return self._tiles[key]

    @torch.no_grad()
    def show_gradients(self) -> None:
        """Let each parameter's `.grad`, which files hold, be what the last step went by: with
        penalty and clamp. The penalty is that of the weights after the step.
        """
        adam, (l1, l2), flat = self.optimizer, self.penalty, self._flat
        gradient, weights = adam.gradients[0].clone(), flat.weights
        gradient.add_(weights.sign(), alpha=l1).add_(weights, alpha=l2)
        if self.clamp:
            gradient.clamp_(-self.clamp, self.clamp)
        for p, part in zip(adam.parameters, flat.views(gradient), strict=True):
            p.grad = part


def _joined(spans: Iterable[Span]) -> Spans:
    """The same, in order, with those that touch as one."""
    made: Spans = []
    for start, end in sorted(spans):
        if made and made[-1][1] == start:
            made[-1] = made[-1][0], end
        else:
            made.append((start, end))
    return made
