"""Averages of a network's weights: over the last iterates as published, or an exponential teacher.

All of it stays on the device, in buffers as long as the network has parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

WEIGHTS = tuple(k * k / 91 for k in range(1, 7))  # oldest to newest


class FlatParameters:
    """All parameters of a network in one vector; parameters and gradients are views of it.

    `vector` is a leaf tensor (count,) with `vector.grad`: an optimizer can be given it alone.
    Create it after the network is on its device; moving the network afterwards breaks the views.
    """

    def __init__(self, network: nn.Module) -> None:
        parameters = list(network.parameters())
        with torch.no_grad():
            self.vector = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradient = torch.zeros_like(self.vector)
        self.vector.requires_grad_()
        self.vector.grad = self.gradient
        sizes = [parameter.numel() for parameter in parameters]
        values, gradients = self.vector.detach().split(sizes), self.gradient.split(sizes)
        for parameter, value, gradient in zip(parameters, values, gradients, strict=True):
            parameter.data = value.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to 0, in place."""
        self.gradient.zero_()

    @torch.no_grad()
    def set(self, values: torch.Tensor) -> None:
        """Give the network these weights (count,)."""
        self.vector.copy_(values)

    @contextlib.contextmanager
    def replaced_by(self, values: torch.Tensor) -> Iterator[None]:
        """The network with other weights for the length of a block."""
        own = self.vector.detach().clone()
        self.set(values)
        try:
            yield
        finally:
            self.set(own)


class Averaging:
    """No averaging, and the interface of the two kinds below."""

    def restart(self) -> None:
        """Called at the start of each epoch."""

    def after_step(self, flat: FlatParameters) -> None:
        """Called after each optimizer step."""

    def raw(self) -> torch.Tensor | None:
        """The newest weights before averaging, where the network's own are averaged."""
        return None

    def teacher(self) -> torch.Tensor | None:
        """Averaged weights that are not the network's own."""
        return None

    def state(self) -> dict[str, torch.Tensor]:
        """What exact resuming needs."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""


class LastIterates(Averaging):
    """The published averaging: from the sixth step of an epoch on, live weights = weighted mean of
    six iterates.

    An iterate is what a step made of the (averaged) weights before it. Weights, oldest to newest,
    are (1, 4, 9, 16, 25, 36) / 91; afterwards the oldest is dropped. The optimizer's moments are
    not touched.
    """

    def __init__(self, flat: FlatParameters) -> None:
        self.ring = flat.vector.new_zeros(len(WEIGHTS), flat.vector.numel())
        self.weights = flat.vector.new_tensor(WEIGHTS).detach()
        self.restart()

    def restart(self) -> None:
        self.pushed = 0

    @torch.no_grad()
    def after_step(self, flat: FlatParameters) -> None:
        slots = len(self.ring)
        self.ring[self.pushed % slots] = flat.vector
        self.pushed += 1
        if self.pushed >= slots:
            oldest = self.pushed % slots
            flat.set(self.weights.roll(oldest) @ self.ring)

    def history(self) -> torch.Tensor:
        """The kept iterates, oldest first: (at most 5, count)."""
        return self.ring[self._kept_slots()]

    def _kept_slots(self) -> list[int]:
        slots = len(self.ring)
        kept = min(self.pushed, slots - 1)
        return [number % slots for number in range(self.pushed - kept, self.pushed)]

    def raw(self) -> torch.Tensor | None:
        return self.ring[(self.pushed - 1) % len(self.ring)] if self.pushed else None

    def state(self) -> dict[str, torch.Tensor]:
        return {"iterates": self.history(), "pushed": torch.tensor(self.pushed)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.pushed = int(
            state["pushed"]
        )  # also keeps the order of summation, so results stay equal
        self.ring[self._kept_slots()] = state["iterates"].to(self.ring)


class ExponentialTeacher(Averaging):
    """A teacher = decay * teacher + (1 - decay) * student after each step; the student trains on
    its own.

    While young the teacher forgets faster, decay = min(decay, (1 + steps) / (10 + steps)), and so
    forgets its random start (Tarvainen and Valpola 2017, arXiv 1703.01780).
    """

    def __init__(self, flat: FlatParameters, decay: float) -> None:
        self.decay = decay
        self.weights = flat.vector.detach().clone()
        self.steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def after_step(self, flat: FlatParameters) -> None:
        self.steps += 1
        steps = int(self.steps)
        decay = min(self.decay, (1 + steps) / (10 + steps))
        self.weights.lerp_(flat.vector, 1 - decay)

    def teacher(self) -> torch.Tensor | None:
        return self.weights

    def state(self) -> dict[str, torch.Tensor]:
        return {"teacher": self.weights, "teacher_steps": self.steps}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.weights.copy_(state["teacher"])
        self.steps = state["teacher_steps"].clone()


def make_averaging(kind: str, flat: FlatParameters, decay: float) -> Averaging:
    """`kind`: "last" (published), "ema" or "none"."""
    if kind == "last":
        return LastIterates(flat)
    return ExponentialTeacher(flat, decay) if kind == "ema" else Averaging()
