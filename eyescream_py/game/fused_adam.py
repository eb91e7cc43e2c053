"""What follows the slopes in a step of Adam on a GPU, as one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from eyescream_py.game.working import Working
    from eyescream_py.torch7.optim import Adam


class AdamKernel(Protocol):
    """`system.gpu_kernels.adam`."""

    def __call__(
        self, weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor],
        rounded: Tensor | None, steps: Tensor, rate: Tensor, gate: Tensor | None,
        penalty: tuple[float, float], bound: float, betas: tuple[float, float], eps: float,
    ) -> None: ...  # fmt: skip


class FusedAdam:
    """Penalty (l1, l2), clamp, Adam and the rounded copies of the weights, for an `optimizer` with
    `Flat` parameters and its counters on the device.

    The optimizer's gradients stay as they were found: penalty and clamp exist in the pass alone.
    """

    def __init__(
        self, kernel: AdamKernel, optimizer: Adam, penalty: tuple[float, float], clamp: float,
        working: Working | None,
    ) -> None:  # fmt: skip
        self.kernel, self.optimizer, self.clamp = kernel, optimizer, clamp
        self.penalty = penalty
        self.rounded = working.rounded if working else None

    def step(self, gate: Tensor | None = None) -> None:
        """Change weights, moments and the count of steps; nothing where `gate` is 0."""
        adam = self.optimizer
        steps, rate = adam.count(gate), adam.rate
        if not isinstance(rate, Tensor) or not isinstance(steps, Tensor):
            raise TypeError("a fused step needs an optimizer that keeps its counters on the device")
        (weights,), (gradient,) = adam.weights, adam.gradients
        (m,), (v,) = adam.held("m"), adam.held("v")
        self.kernel(
            weights, gradient, (m, v), self.rounded, steps, rate, gate, self.penalty, self.clamp,
            adam.betas, adam.eps,
        )  # fmt: skip

    @torch.no_grad()
    def show_gradients(self) -> None:
        """Let each parameter's `.grad`, which files hold, be what the last step went by: with
        penalty and clamp. The penalty is that of the weights after the step.
        """
        adam, (l1, l2) = self.optimizer, self.penalty
        if adam.flat is None:
            raise TypeError("a fused step needs an optimizer of flat parameters")
        gradient, weights = adam.gradients[0].clone(), adam.flat.weights
        gradient.add_(weights.sign(), alpha=l1).add_(weights, alpha=l2)
        if self.clamp:
            gradient.clamp_(-self.clamp, self.clamp)
        for p, part in zip(adam.parameters, adam.flat.views(gradient), strict=True):
            p.grad = part
