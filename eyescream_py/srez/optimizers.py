"""Adam and RMSProp as srez uses them, and the learning rate's schedule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from eyescream_py.srez.options import Options
from eyescream_py.system.recording import rate_for
from eyescream_py.system.rmsprop import TensorFlowRMSProp


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
