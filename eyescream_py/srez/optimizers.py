"""Adam and RMSProp as srez uses them, and the learning rate's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from eyescream_py.srez.options import Options
from eyescream_py.system.recording import rate_for


class TensorFlowRMSProp(Optimizer):
    """TensorFlow 1's RMSProp: the mean square starts at 1, epsilon stands inside the root, no
    momentum.

    torch.optim.RMSprop starts at 0 and adds epsilon outside, which makes its first steps far
    larger.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float | Tensor, decay: float = 0.9, eps: float = 1e-10
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["mean_square"] = torch.ones_like(p)
        mean_square = state["mean_square"]
        mean_square.mul_(group["decay"]).addcmul_(gradient, gradient, value=1 - group["decay"])
        p.sub_(group["lr"] * gradient / (mean_square + group["eps"]).sqrt())


def build_optimizer(options: Options, params: list[Tensor]) -> Optimizer:
    """The chosen optimizer over `params`; on CUDA one whose steps can be recorded."""
    on_cuda = params[0].is_cuda
    lr = rate_for(params[0], options.learning_rate_start)
    if options.optimizer == "rmsprop":
        return TensorFlowRMSProp(params, lr)
    betas = (options.learning_beta1, options.learning_beta2)
    return torch.optim.Adam(
        params, lr, betas=betas, eps=options.epsilon, fused=True, capturable=on_cuda
    )


def learning_rate(options: Options, batch: int) -> float:
    """The rate for batch `batch` (from 0): halved every half life, constant where that is 0."""
    if not options.learning_rate_half_life:
        return options.learning_rate_start
    return options.learning_rate_start * 0.5 ** (batch // options.learning_rate_half_life)
