"""TensorFlow 1's RMSProp, by which two of the siblings were trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class TensorFlowRMSProp(Optimizer):
    """The mean square starts at 1, epsilon stands inside the root, no momentum.

    With that start the first steps are about `lr` times the gradient, not some `lr` times its sign
    as in torch. A tensor `lr` is read by each step, so that a recorded one sees changes.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float | Tensor, decay: float = 0.9, eps: float = 1e-10
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for parameter in params:
                if not self.state[parameter]:
                    self.state[parameter]["mean_square"] = torch.ones_like(parameter)
            squares = [self.state[p]["mean_square"] for p in params]
            gradients = [p.grad for p in params]
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
            roots = torch._foreach_sqrt(torch._foreach_add(squares, group["eps"]))
            if isinstance(group["lr"], Tensor):
                moves = torch._foreach_div(gradients, roots)
                torch._foreach_mul_(moves, group["lr"])
                torch._foreach_sub_(params, moves)
            else:
                torch._foreach_addcdiv_(params, gradients, roots, -group["lr"])
