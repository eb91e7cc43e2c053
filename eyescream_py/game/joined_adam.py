"""What follows the slopes in a step of Adam on a processor, as one pass over memory."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eyescream_py.system import compiled
from eyescream_py.system.compiled import Library
from eyescream_py.torch7.optim import Adam

if TYPE_CHECKING:
    from eyescream_py.game.adversarial import Learner


class _Part(ctypes.Structure):
    """A tensor's part of the work: as in adam.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "gradient", "m", "v", "rounded")),
        ("size", ctypes.c_int64),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        ("parts", ctypes.POINTER(_Part)), ("count", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("l1", "l2", "low", "high")),
        *((name, ctypes.c_float) for name in ("fresh1", "beta2", "fresh2", "step", "eps")),
        ("next", ctypes.c_int64),
    ]  # fmt: skip


class JoinedAdam:
    """Penalty (l1, l2), clamp (0 = none), Adam and the rounded copies of the weights by one loop in
    C, `library("adam")`. Stands in for the pass of an `Adam` over tensors in float32; gradients are
    afterwards those with penalty and clamp. The same bits as torch's operators, one by one.
    """

    def __init__(
        self, code: Library, penalty: tuple[float, float], clamp: float, rounded: Tensor | None
    ) -> None:
        self.code, self.penalty, self.rounded = code, penalty, rounded
        self.bound = clamp or math.inf

    def __call__(
        self,
        held: Sequence[Sequence[Tensor]],
        size: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """A step of `size`. `held` are weights, gradients and both moments, of the same elements
        in the same order in memory, without gaps.
        """
        parts = [
            _Part(*(t.data_ptr() for t in tensors), _start(self.rounded), tensors[0].numel())
            for tensors in zip(*held, strict=True)
        ]
        work = _Step(
            (_Part * len(parts))(*parts), len(parts), *self.penalty, -self.bound, self.bound,
            1 - betas[0], betas[1], 1 - betas[1], size, eps, 0,
        )  # fmt: skip
        self.code.run("adam", work)


def _start(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def join(player: Learner) -> None:
    """Let `player` take its steps so from here on, where its optimizer is an Adam of float32 on a
    processor for which there is the compiled loop. No step of it may be withheld by a gate: its
    gradients would stay without penalty and clamp.
    """
    adam, working = player.optimizer, player.working
    if not isinstance(adam, Adam) or isinstance(adam.t, Tensor):  # a GPU keeps its counters
        return
    here = all(w.dtype == torch.float32 and w.device.type == "cpu" for w in adam.weights)
    if here and (code := proven()):
        factors = player.penalty.l1, player.penalty.l2
        rounded = working.rounded if working else None
        adam.joined = JoinedAdam(code, factors, player.clamp, rounded)


@functools.cache
def proven() -> Library | None:
    """The compiled loop, where there is one here and it returns the same bits as torch."""
    return compiled.proven("adam", lambda code: all(_agrees(code, *case) for case in CASES))


# clamp, l1, numbers: blocks, groups of eight and what is left
CASES = [(0.0, 0.0, 8192 + 40), (0.02, 1e-3, 2 * 8192 + 7), (0.02, 0.0, 16384)]
L2 = 1e-2


def _agrees(code: Library, clamp: float, l1: float, n: int) -> bool:
    """Whether two steps of `n` numbers are torch's, to the bit."""
    numbers = torch.Generator().manual_seed(n)
    weights, slopes = (torch.randn(n, generator=numbers) / 50 for _ in range(2))
    slopes[::9] = weights[::7] = 0
    ours, torchs = (Adam([weights.clone()], betas=(0.4, 0.999)) for _ in range(2))
    copy = torch.empty(n, dtype=torch.bfloat16)
    ours.joined = JoinedAdam(code, (l1, L2), clamp, copy)
    for _ in range(2):
        for side in (ours, torchs):
            side.parameters[0].grad = slopes.clone()
        penalized = torchs.gradients[0].add_(torchs.weights[0].sign(), alpha=l1)
        penalized.add_(torchs.weights[0], alpha=L2)
        if clamp:
            penalized.clamp_(-clamp, clamp)
        ours.step()
        torchs.step()
    found, meant = (
        [*side.weights, *side.gradients, *side.held("m"), *side.held("v")]
        for side in (ours, torchs)
    )
    meant_copy = torchs.weights[0].bfloat16()
    return torch.equal(copy, meant_copy) and all(map(torch.equal, found, meant))
