"""What the game hears from D: logits, or, where a Lua run is replayed, probabilities.

A saturated sigmoid has no slope: rounded to bfloat16 it is exactly 1 from a logit of 6.3 on, to
float32 from 17 on, and a D that says 1 of everything never learns again. Training therefore stops
before D's last Sigmoid; files and sampling keep it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyescream_py.networks.modes import exact_output

EPSILON = 1e-12
Judge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # logits, targets -> loss, its slopes
CERTAIN = 13.8155  # logit of a probability 1e-6 away from 0 or 1


class Answers(Protocol):
    """Asks D about pictures; knows what its answers [N] mean."""

    def __call__(self, *inputs: Tensor) -> Tensor: ...

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross entropy to targets in 0..1 of the same shape. [N], [N] -> []"""
        ...

    def real(self, answers: Tensor) -> Tensor:
        """Whether D takes the picture for real. [N] -> [N], bool"""
        ...

    def certain(self, answers: Tensor) -> Tensor:
        """Whether D's probability is within 1e-6 of 0 or 1. [N] -> [N], bool"""
        ...


class Logits:
    """The answers of any D that ends in a Sigmoid, taken in front of it.

    The last layer with weights computes in their own type, whatever the autocast, so that answers
    come in float32 at least. `judge` finds the loss and its slopes where there is something quicker
    than torch's operators. Raises ValueError for a network that ends in something else.
    """

    def __init__(self, D: nn.Module, judge: Judge | None = None) -> None:
        self.network, self._judge = D, judge
        leaves = [layer for layer in D.modules() if not list(layer.children())]
        if not leaves or not isinstance(leaves[-1], nn.Sigmoid):
            raise ValueError("a discriminator has to end in a Sigmoid")
        self._sigmoid = leaves[-1]
        exact_output(D)

    def __call__(self, *inputs: Tensor) -> Tensor:
        with self._open():
            answers: Tensor = self.network(*inputs)
        return answers.reshape(-1)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        # the attribute hides the class's forward: the network stays what files and windows know
        self._sigmoid.forward = _unchanged  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            del self._sigmoid.forward

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = (
            _JudgedLoss.apply(answers, targets, self._judge)
            if self._judge
            else _SoftPlusLoss.apply(answers, targets)
        )
        return loss

    def real(self, answers: Tensor) -> Tensor:
        return answers > 0

    def certain(self, answers: Tensor) -> Tensor:
        return answers.abs() > CERTAIN


def _unchanged(x: Tensor) -> Tensor:
    return x


class _SoftPlusLoss(torch.autograd.Function):
    """Cross entropy of logits x to targets t: the mean of softplus(x) - t*x.

    Its slope is sigmoid(x) - t, here (1-t)*sigmoid(x) - t*sigmoid(-x), which keeps its digits where
    D is right and certain (torch's own is exactly 0 there). -sigmoid(-x) is expm1(logsigmoid(x)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(x, targets)
        return F.softplus(x).addcmul_(x, targets, value=-1).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, targets = ctx.saved_tensors
        slope = torch.lerp(torch.sigmoid(x), torch.expm1(F.logsigmoid(x)), targets)
        return slope.mul_(grads[0] / x.numel()), None


class _JudgedLoss(torch.autograd.Function):
    """The same by a function that finds loss and slopes at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, targets: Tensor, judge: Judge) -> Tensor:
        loss, slopes = judge(x, targets)
        ctx.save_for_backward(slopes)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grads[0], None, None


class Probabilities:
    """D's own output with the arithmetic of Lua's BCECriterion, for replays."""

    def __init__(self, D: nn.Module) -> None:
        self.network = D

    def __call__(self, *inputs: Tensor) -> Tensor:
        answers: Tensor = self.network(*inputs)
        return answers.reshape(-1)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return bce_loss(answers.to(targets.dtype), targets)

    def real(self, answers: Tensor) -> Tensor:
        return answers > 0.5

    def certain(self, answers: Tensor) -> Tensor:
        return (answers - 0.5).abs() > 0.5 - 1e-6


class _BCE(torch.autograd.Function):
    """Lua's BCECriterion: epsilon inside the logarithms, gradient (x-t)/((1-x+eps)(x+eps))/N."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(x, targets)
        likelihood = targets * torch.log(x + EPSILON) + (1 - targets) * torch.log(1 - x + EPSILON)
        return -likelihood.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, targets = ctx.saved_tensors
        slope = (x - targets) / ((1 - x + EPSILON) * (x + EPSILON)) / x.numel()
        return grads[0] * slope, None


def bce_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of probabilities and targets of equal shape (nn.BCECriterion)."""
    return _BCE.apply(predictions, targets)
