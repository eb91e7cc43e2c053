"""One D step, one G step, one iteration of the adversarial game (`adversarial.lua`).

`Game` owns the two players and the epoch's figures; a feed hands it batches (`feeds.py`, the
coarse-to-fine one in `adversarial_c2f.py`). Nothing in an iteration waits for the device, so that
an iteration can be captured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from eyescream_py.game.answers import CERTAIN, Answers, Logits
from eyescream_py.game.group import Alone
from eyescream_py.game.taming import Taming
from eyescream_py.torch7.optim import ConfusionMatrix, LuaOptimizer, positive

if TYPE_CHECKING:
    from eyescream_py.game.averaging import Ema
    from eyescream_py.game.fused_adam import FusedAdam
    from eyescream_py.game.precision import Autocast
    from eyescream_py.game.working import Working
    from eyescream_py.system.lanes import Lanes


@dataclass(frozen=True)
class Penalty:
    """l1*|w|_1 + l2*|w|^2/2 over a list of parameters."""

    l1: float = 0.0
    l2: float = 0.0

    def value(self, parameters: Sequence[Tensor]) -> Tensor | float:
        """The penalty itself, a 0-dim tensor; 0.0 where both factors are 0."""
        total: Tensor | float = 0.0
        for p in parameters if self.l1 or self.l2 else ():
            flat = p.detach().reshape(-1)
            total = total + self.l1 * flat.abs().sum() + self.l2 / 2 * torch.dot(flat, flat)
        return total

    def add_gradients(self, parameters: Sequence[Tensor], gradients: list[Tensor]) -> None:
        """Add the penalty's gradient to each of `gradients`, in place."""
        weights = [p.detach() for p in parameters]
        if self.l1:
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=self.l1)
        if self.l2:
            torch._foreach_add_(gradients, weights, alpha=self.l2)


@dataclass(frozen=True)
class FaultyPenalty(Penalty):
    """Lua's penalty of G: l2*(sign(w)+w) in the gradient, whatever l1 is. For replays."""

    def add_gradients(self, parameters: Sequence[Tensor], gradients: list[Tensor]) -> None:
        if self.l2:
            weights = [p.detach() for p in parameters]
            faulty = torch._foreach_add(torch._foreach_sign(weights), weights)
            torch._foreach_add_(gradients, faulty, alpha=self.l2)


@dataclass
class Learner:
    """A network with what changes it: optimizer, penalty and the bound of each gradient element (0
    = none); with `working` it computes with rounded copies of its weights. `fused` does what
    follows the slopes in one pass; slopes may be found on `lanes`.
    """

    network: nn.Module
    optimizer: LuaOptimizer
    penalty: Penalty
    clamp: float
    working: Working | None = None
    fused: FusedAdam | None = None
    lanes: Lanes | None = None

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """A block for forward passes."""
        return self.working.in_use() if self.working else contextlib.nullcontext()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """A block for forward passes whose loss is differentiated by what lies before this network
        only.
        """
        used = self.working.leaves if self.working else self.optimizer.parameters
        for weights in used:
            weights.requires_grad_(False)
        try:
            yield
        finally:
            for weights in used:
                weights.requires_grad_(True)

    def step(self, gate: Tensor | None = None) -> None:
        """Change the weights by the gradients, and their rounded copies; where `gate` is 0, not."""
        if self.fused is None:
            self.optimizer.step(gate)
            if not self.optimizer.joined:  # which has rounded them
                self.refresh()
        elif self.lanes is None:
            self.fused.step(gate)
        else:
            with self.lanes.behind(*(() if gate is None else (gate,))):
                self.fused.step(gate)

    def settle(self) -> None:
        """To be called before the weights are read after a step, which may be on its way yet."""
        if self.lanes:
            self.lanes.join()

    def refresh(self) -> None:
        """To be called after each change of the weights that is not `step`'s."""
        if self.working:
            self.working.refresh()

    def backward(self, loss: Tensor, group: Alone, passes: int = 1) -> None:
        """Gradients of the group's `loss`, which comes from so many `passes` of the network, and
        the penalty, for this network's parameters only.
        """
        lanes = self.lanes
        with lanes.in_turn() if lanes and passes > 1 else contextlib.nullcontext():
            self._differentiate(loss, self._reading)
        gradients = self.optimizer.gradients
        group.average_(gradients)
        if self.fused or self.optimizer.joined:  # their passes begin with the rest
            return
        # with flat parameters a pass over one tensor, else one over each
        self.penalty.add_gradients(self.optimizer.weights, gradients)
        if self.clamp:
            for gradient in gradients:
                gradient.clamp_(-self.clamp, self.clamp)  # NaN stays

    def _differentiate(self, loss: Tensor, reading: Reading) -> None:
        # the rounded weights are what the loss was computed with
        leaves = self.working.leaves if self.working else None
        taken = self.fused.taken if self.fused else ()
        self.optimizer.differentiate(loss, leaves, reading, taken)

    @contextlib.contextmanager
    def _reading(self, *slopes: Tensor) -> Iterator[None]:
        """A block in which slopes are read that may have been on their way."""
        self.settle()
        yield

    def learn(
        self, loss: Tensor, group: Alone, gate: Tensor | None = None, passes: int = 1
    ) -> None:
        """`backward` and `step`: large weights learn while slopes of others are being found."""
        # slopes of several processes or passes are added up first
        if self.fused and self.lanes and passes == 1 and group.size == 1:
            with self.fused.early(gate):
                self._differentiate(loss, self.lanes.behind)
        else:
            self.backward(loss, group, passes)
        self.step(gate)

    def has_slope(self) -> bool:
        """Whether the last step had a gradient, with the penalty's, that is not 0. Waits for the
        device.
        """
        gradients = self.optimizer.gradients
        if self.fused:  # which leaves the slopes as they were found
            gradients = [gradient.clone() for gradient in gradients]
            self.penalty.add_gradients(self.optimizer.weights, gradients)
        return not gradients or bool(torch.stack(torch._foreach_norm(gradients)).any())

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
        self._places = torch.arange(size, device=device)

    @property
    def can_close(self) -> bool:
        """Whether the bound can hold D back at all: no accuracy exceeds 1."""
        return self.bound <= 1

    def update(self, said: Tensor, targets: Tensor) -> Tensor:
        """Count a batch; whether D may learn. `said` [N] is true where D took it for real."""
        accuracy = (positive(said) == positive(targets)).double().mean()
        size = len(self.accuracies)
        # no scatter, for which a GPU would have to sort to be repeatable, and no masked_fill_,
        # which reads the value back
        place = self._places == self.count % size
        torch.where(place, accuracy, self.accuracies, out=self.accuracies)
        self.count += 1
        mean = self.accuracies.sum() / self.count.clamp(max=size).squeeze()
        return (mean < self.bound).double()


class Feed(Protocol):
    """Batches of one epoch. n is even; the tensors may be reused by the next call."""

    def begin_epoch(self) -> None:
        """Draw the pictures of a new epoch."""
        ...

    def discriminator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """D's inputs, n/2 real ones first, and their targets."""
        ...

    def generator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """D's inputs made by G with gradients, and their targets (all 1)."""
        ...

    def state(self) -> dict[str, Any]:
        """What exact resuming needs."""
        ...

    def set_state(self, state: dict[str, Any]) -> bool:
        """False, and nothing taken over, where the state is that of other pictures."""
        ...


Tally = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, float], None]
Reading = Callable[..., contextlib.AbstractContextManager[None]]
CallLog = Callable[[str, float | None], None]  # network "D" or "G", its loss or None where withheld


@dataclass
class Figures:
    """Sums over an epoch, kept on the device and read once at its end."""

    device: torch.device
    tally: Tally | None = None  # counts a step of D by one kernel
    sums: dict[str, Tensor] = field(init=False)

    NAMES = ("D_loss", "G_loss", "D_trained", "D_certain")

    def __post_init__(self) -> None:
        self._all = torch.zeros(len(self.NAMES), dtype=torch.float64, device=self.device)
        self.sums = dict(zip(self.NAMES, self._all, strict=True))  # views of it
        self.confusion = ConfusionMatrix(self.device)

    def count(
        self, answers: Answers, heard: Tensor, meant: Tensor, loss: Tensor, opened: Tensor | None
    ) -> None:
        """Add a step of D on pictures of which it `heard` answers and that `meant` targets."""
        if self.tally and isinstance(answers, Logits):
            self.tally(heard, meant, loss, opened, self._all, self.confusion.counts, CERTAIN)
            return
        self.sums["D_loss"] += loss
        self.sums["D_trained"] += 1 if opened is None else opened
        self.sums["D_certain"] += answers.certain(heard).sum()
        self.confusion.add(answers.real(heard), meant)

    def zero(self) -> None:
        """Begin a new epoch."""
        self._all.zero_()
        self.confusion.zero()

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "confusion": self.confusion.counts}

    def set_state(self, state: dict[str, Any]) -> None:
        from eyescream_py.torch7.states import fill  # for who resumes; a step needs none of it

        for name, value in self.sums.items():
            fill(value, state["sums"].get(name, 0), name)
        fill(self.confusion.counts, state["confusion"], "confusion")


class Game:
    """D against G: `iteration(n)` runs D_iterations D steps and G_iterations G steps on n pictures
    each.
    """

    def __init__(
        self,
        D: Learner,
        G: Learner,
        feed: Feed,
        gate: AccuracyGate,
        iterations: tuple[int, int] = (1, 1),
        autocast: Autocast = contextlib.nullcontext,
        group: Alone | None = None,
        taming: Taming | None = None,
        answers: Answers | None = None,
        ema: Ema | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.logits = answers if isinstance(answers, Logits) else Logits(D.network)
        self.answers = answers or self.logits
        self.taming = taming or Taming()
        self.D, self.G, self.feed, self.gate, self.ema = D, G, feed, gate, ema
        self.group = group or Alone()
        self.D_iterations, self.G_iterations = iterations
        self.autocast = autocast
        self.figures = Figures(gate.accuracies.device, tally)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """A block for forward passes of either player."""
        with self.autocast(), self.D.computing(), self.G.computing():
            yield

    def iteration(self, n: int, log: CallLog | None = None) -> None:
        """All steps of one iteration on batches of `n` pictures; `log` gets each step's loss."""
        with self.group.sharing(n) as share:
            for _ in range(self.D_iterations):
                self.discriminator_step(share, log)
            for _ in range(self.G_iterations):
                self.generator_step(share, log)
        if self.ema:
            self.ema.update()

    def discriminator_step(self, n: int, log: CallLog | None = None) -> None:
        """One step of D on n/2 real and n/2 generated pictures, if the gate lets it learn."""
        self.D.settle()
        with self.computing():
            inputs, targets = self.feed.discriminator_batch(n)
            seen = self.taming.seen(inputs)
            penalty = self.taming.penalty(self.logits, seen[0])
            answers = self.answers(*seen)  # [n]
        loss = self.answers.loss(answers, targets)
        heard, meant = self._of_all(answers.detach()[:n], targets[:n])
        opened = None
        if self.gate.can_close:
            opened = self.gate.update(self.answers.real(heard), meant)
        whole = self._over_group(loss)
        if log:  # before the weights change
            withheld = opened is not None and not bool(opened)
            log("D", None if withheld else self.D.objective(whole))
        # a sum with no penalty would be one more kernel
        if isinstance(penalty, Tensor):
            self.D.learn(loss + penalty, self.group, opened, passes=2)
        else:
            self.D.learn(loss, self.group, opened)
        if self.taming.bound:
            self.taming.bound.apply()
            self.D.refresh()
        self.figures.count(self.answers, heard, meant, whole, opened)

    def generator_step(self, n: int, log: CallLog | None = None) -> None:
        """One step of G on the gradients of D's answers to `n` of its pictures."""
        with self.computing():
            # G's pictures need nothing of D: its step may still be running
            inputs, targets = self.feed.generator_batch(n)
            self.D.settle()
            # a layer of ours finds out in the forward pass whose slopes are wanted
            with self.D.frozen():
                answers = self.answers(*self.taming.seen(inputs))  # [n]
        loss = self.answers.loss(answers, targets)
        whole = self._over_group(loss)
        if log:  # before the weights change
            log("G", self.G.objective(whole))
        self.G.learn(loss, self.group)
        self.G.settle()
        self.figures.sums["G_loss"] += whole

    def is_stuck(self) -> str:
        """Why no step can change anything any more, in words; "" where one can.

        To be asked at the end of an epoch. Waits for the device.
        """
        answers = int(self.figures.confusion.counts.sum())
        if answers and int(self.figures.sums["D_certain"]) == answers:
            return "D was certain of every picture of the epoch, right or wrong"
        for name, player in (("D", self.D), ("G", self.G)):
            if not player.has_slope():
                return f"{name}'s gradients are all 0"
        return ""

    def _of_all(self, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both with the rows of the other processes."""
        if self.group.size == 1:
            return answers, targets
        heard, meant = self.group.gather(torch.stack([answers, targets], 1)).T.contiguous()
        return heard, meant

    def _over_group(self, loss: Tensor) -> Tensor:
        if self.group.size == 1:
            return loss.detach()
        mean = loss.detach().clone()
        self.group.average_([mean])
        return mean
