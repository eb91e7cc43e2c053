"""One D step, one G step, one iteration of the adversarial game (`adversarial.lua`).

`Game` owns the two players and the epoch's figures; a feed hands it batches (`FaceFeed` here, the
coarse-to-fine one in `adversarial_c2f.py`). Nothing in an iteration waits for the device, so that
an iteration can be captured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.game.answers import Answers, Logits
from eyescream_py.game.group import Alone
from eyescream_py.game.precision import Autocast
from eyescream_py.game.taming import Taming
from eyescream_py.torch7.optim import ConfusionMatrix, LuaOptimizer
from eyescream_py.torch7.random import RandomSource


@dataclass(frozen=True)
class Penalty:
    """l1*|w|_1 + l2*|w|^2/2 over a list of parameters."""

    l1: float = 0.0
    l2: float = 0.0

    def value(self, parameters: Sequence[Tensor]) -> Tensor | float:
        total: Tensor | float = 0.0
        for p in parameters if self.l1 or self.l2 else ():
            flat = p.detach().reshape(-1)
            total = total + self.l1 * flat.abs().sum() + self.l2 / 2 * torch.dot(flat, flat)
        return total

    def add_gradients(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Add the penalty's gradient to each of `gradients`, in place."""
        weights = [p.detach() for p in parameters]
        if self.l1:
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=self.l1)
        if self.l2:
            torch._foreach_add_(gradients, weights, alpha=self.l2)


@dataclass(frozen=True)
class FaultyPenalty(Penalty):
    """Lua's penalty of G: l2*(sign(w)+w) in the gradient, whatever l1 is. For replays."""

    def add_gradients(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        if self.l2:
            weights = [p.detach() for p in parameters]
            faulty = torch._foreach_add(torch._foreach_sign(weights), weights)
            torch._foreach_add_(gradients, faulty, alpha=self.l2)


def bound_(tensors: Sequence[Tensor], bound: float, at_once: bool) -> None:
    """Clamp every element to -bound..bound, in place; NaN stays.

    `at_once` takes two kernels for all tensors (GPUs), else it is one pass over each (CPUs).
    """
    if at_once:
        torch._foreach_clamp_min_(tensors, -bound)
        torch._foreach_clamp_max_(tensors, bound)
    else:
        for tensor in tensors:
            tensor.clamp_(-bound, bound)


@dataclass
class Player:
    """A network with what changes it: optimizer, penalty and the bound of each gradient element (0
    = none).
    """

    network: nn.Module
    optimizer: LuaOptimizer
    penalty: Penalty
    clamp: float

    def backward(self, loss: Tensor, group: Alone) -> None:
        """Gradients of the group's `loss` and the penalty for this network's parameters only."""
        parameters = self.optimizer.parameters
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        # every parameter takes part in its own loss, so that each has a gradient
        gradients = [p.grad for p in parameters if p.grad is not None]
        group.average_(gradients)
        # over all parameters at once: on a GPU a kernel, not one for each
        self.penalty.add_gradients(parameters, gradients)
        if self.clamp:
            bound_(gradients, self.clamp, at_once=gradients[0].is_cuda)

    def objective(self, loss: Tensor) -> float:
        """The number that Lua's optimizer call returned: the loss with its penalty."""
        return float(loss.detach() + self.penalty.value(self.optimizer.parameters))


class AccuracyGate:
    """D_maxAcc: D learns only while its mean accuracy over the last batches is below a bound.

    The window holds max(20, min(1000/batch_size, 250)) batches and is never reset. Everything is
    arithmetic on the device; `open` is a 0-dim tensor of 1 or 0.
    """

    def __init__(self, bound: float, batch_size: int, device: torch.device) -> None:
        self.bound = bound
        size = int(max(20, min(1000 / batch_size, 250)))
        self.accuracies = torch.zeros(size, dtype=torch.float64, device=device)
        self.count = torch.zeros(1, dtype=torch.int64, device=device)

    @property
    def can_close(self) -> bool:
        return self.bound <= 1

    def update(self, said: Tensor, targets: Tensor) -> Tensor:
        """Count a batch; whether D may learn. `said` [N] is 1 where D took it for real, else 0."""
        accuracy = ((said > 0.5) == (targets > 0.5)).double().mean()
        size = len(self.accuracies)
        self.accuracies.scatter_(0, self.count % size, accuracy.view(1))
        self.count += 1
        mean = self.accuracies.sum() / self.count.clamp(max=size).squeeze()
        return (mean < self.bound).double()


class Feed(Protocol):
    """Batches of one epoch. n is even; the tensors may be reused by the next call."""

    def begin_epoch(self) -> None: ...

    def discriminator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """D's inputs, n/2 real ones first, and their targets."""
        ...

    def generator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """D's inputs made by G with gradients, and their targets (all 1)."""
        ...

    def state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> bool:
        """False, and nothing taken over, where the state is that of other pictures."""
        ...


class FaceFeed:
    """Real faces drawn by index, generated ones from uniform noise in [-1,1].

    An epoch's pool is `epoch_size` pictures drawn without replacement (all, if there are fewer);
    batches draw from the pool with replacement, as `adversarial.lua` did. `real_target` is what D
    is to say of real faces: below 1 for one-sided label smoothing (Salimans et al. 2016). With
    `shared` G's step judges the n/2 pictures that D's step was shown.
    """

    def __init__(
        self,
        dataset: Dataset,
        generate: Callable[[Tensor], Tensor],
        noise_dim: int,
        epoch_size: int,
        source: RandomSource,
        dtype: torch.dtype = torch.float32,
        real_target: float = 1.0,
        shared: bool = False,
    ) -> None:
        self.shared = shared
        self._made: Tensor | None = None  # what D's step has seen, for G's step
        self.dataset, self.generate, self.source = dataset, generate, source
        self.noise_dim, self.dtype, self.real_target = noise_dim, dtype, real_target
        self.device = dataset.device
        self.pool = EpochPool(dataset, epoch_size)
        self._buffers: dict[int, _Buffers] = {}

    def begin_epoch(self) -> None:
        self.pool.draw(self.source)

    def buffers(self, n: int) -> _Buffers:
        if n not in self._buffers:
            made = _Buffers.make(n, self.noise_dim, self.device, self.dtype)
            made.targets[: n // 2] = self.real_target
            self._buffers[n] = made
        return self._buffers[n]

    def discriminator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        half = n // 2
        buffers = self.buffers(n)
        self.source.indices_(buffers.indices, len(self.pool))
        real = self.pool.floats(buffers.indices, self.dtype)
        noise = self.source.uniform_(buffers.noise[:half], -1, 1)
        with torch.set_grad_enabled(self.shared):
            generated = self.generate(noise)
        # one pass of G serves both steps: D's takes the pictures, G's the way back to the weights
        self._made = generated if self.shared else None
        generated = generated.detach()
        return (torch.cat([real, generated.to(self.dtype)]),), buffers.targets

    def generator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        buffers = self.buffers(n)
        if self._made is not None:
            made, self._made = self._made, None
            return (made,), buffers.ones[: len(made)]
        noise = self.source.uniform_(buffers.noise, -1, 1)
        return (self.generate(noise),), buffers.ones

    def state(self) -> dict[str, Any]:
        return self.pool.state()

    def set_state(self, state: dict[str, Any]) -> bool:
        return self.pool.set_state(state)


@dataclass
class _Buffers:
    indices: Tensor  # [n/2] into the pool
    noise: Tensor  # [n, noise_dim]
    targets: Tensor  # [n]: n/2 for real ones, n/2 zeros
    ones: Tensor  # [n]

    @staticmethod
    def make(n: int, noise_dim: int, device: torch.device, dtype: torch.dtype) -> _Buffers:
        return _Buffers(
            indices=torch.zeros(n // 2, dtype=torch.int64, device=device),
            noise=torch.empty(n, noise_dim, device=device, dtype=dtype),
            targets=torch.zeros(n, device=device, dtype=dtype),
            ones=torch.ones(n, device=device, dtype=dtype),
        )


CallLog = Callable[[str, float | None], None]  # network "D" or "G", its loss or None where withheld


@dataclass
class Figures:
    """Sums over an epoch, kept on the device and read once at its end."""

    device: torch.device
    sums: dict[str, Tensor] = field(default_factory=dict)

    NAMES = ("D_loss", "G_loss", "D_trained")

    def __post_init__(self) -> None:
        for name in self.NAMES:
            self.sums[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        self.confusion = ConfusionMatrix(self.device)

    def zero(self) -> None:
        for value in self.sums.values():
            value.zero_()
        self.confusion.zero()

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "confusion": self.confusion.counts}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, value in self.sums.items():
            value.copy_(torch.as_tensor(state["sums"][name]).reshape(()))
        self.confusion.counts.copy_(state["confusion"])


class Game:
    """D against G: `iteration(n)` runs D_iterations D steps and G_iterations G steps on n pictures
    each.
    """

    def __init__(
        self,
        D: Player,
        G: Player,
        feed: Feed,
        gate: AccuracyGate,
        iterations: tuple[int, int] = (1, 1),
        autocast: Autocast = contextlib.nullcontext,
        group: Alone | None = None,
        taming: Taming | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.logits = answers if isinstance(answers, Logits) else Logits(D.network)
        self.answers = answers or self.logits
        self.taming = taming or Taming()
        self.D, self.G, self.feed, self.gate = D, G, feed, gate
        self.group = group or Alone()
        self.D_iterations, self.G_iterations = iterations
        self.autocast = autocast
        self.figures = Figures(gate.accuracies.device)

    def iteration(self, n: int, log: CallLog | None = None) -> None:
        with self.group.sharing(n) as share:
            for _ in range(self.D_iterations):
                self.discriminator_step(share, log)
            for _ in range(self.G_iterations):
                self.generator_step(share, log)

    def discriminator_step(self, n: int, log: CallLog | None = None) -> None:
        with self.autocast():
            inputs, targets = self.feed.discriminator_batch(n)
            seen = self.taming.seen(inputs)
            penalty = self.taming.penalty(self.logits, seen[0])
            answers = self.answers(*seen)  # [n]
        loss = self.answers.loss(answers, targets)
        self.D.backward(loss + penalty, self.group)
        loss = self._over_group(loss)
        judged = self.group.gather(torch.stack([answers.detach()[:n], targets[:n]], 1))
        said = self.answers.real(judged[:, 0])
        opened = self.gate.update(said, judged[:, 1]) if self.gate.can_close else None
        if log:
            withheld = opened is not None and not bool(opened)
            log("D", None if withheld else self.D.objective(loss))
        self.D.optimizer.step(opened)
        if self.taming.bound:
            self.taming.bound.apply()
        self.figures.sums["D_loss"] += loss
        self.figures.sums["D_trained"] += 1 if opened is None else opened
        self.figures.confusion.add(said, judged[:, 1])

    def generator_step(self, n: int, log: CallLog | None = None) -> None:
        with self.autocast():
            inputs, targets = self.feed.generator_batch(n)
            answers = self.answers(*self.taming.seen(inputs))  # [n]
        loss = self.answers.loss(answers, targets)
        self.G.backward(loss, self.group)
        loss = self._over_group(loss)
        if log:
            log("G", self.G.objective(loss))
        self.G.optimizer.step()
        self.figures.sums["G_loss"] += loss

    def _over_group(self, loss: Tensor) -> Tensor:
        mean = loss.detach().clone()
        self.group.average_([mean])
        return mean
