"""The game between generator and discriminator: some D steps, then exactly one G step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.image_model.losses import (
    clip_weights,
    discriminator_loss,
    generator_loss,
    separation,
)
from eyescream_py.image_model.options import GanOptions
from eyescream_py.image_model.replay import ReplayCache
from eyescream_py.image_model.schedule import CriticSchedule, DifferenceSchedule
from eyescream_py.system.errors import why
from eyescream_py.system.recording import Recorder
from eyescream_py.system.voice import say

Batch = tuple[Tensor, Tensor]  # pictures of the synthetic and of the real domain
Metrics = dict[str, float]


def build_schedule(options: GanOptions) -> DifferenceSchedule | CriticSchedule:
    """WGAN counts its critic steps; the other objectives watch the difference."""
    if options.objective == "wgan":
        return CriticSchedule(options.diter)
    return DifferenceSchedule(options.diff_low, options.diff_high, options.d_limit)


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """One step of `optimizer` down `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


class Game:
    """Generator against discriminator, with the schedule and the replay cache that belong to it.

    `g_optimizer` holds the parameters that the generator's step may change. `extra_loss(fake, x)`,
    when given, is added to the generator's loss. What is done on the device alone is put into
    functions for `recorder`; what the schedule decides in between is read back.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer,
        options: GanOptions,
        rng: np.random.Generator,
        extra_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.objective = options.objective
        self.schedule = build_schedule(options)
        self.replay: ReplayCache | None = None
        self._is_full = False  # the disk, for the cache
        self._g_optimizer = g_optimizer
        self._d_optimizer = d_optimizer
        self._rng = rng
        self._extra_loss = extra_loss
        batch_norms = nn.BatchNorm1d, nn.BatchNorm2d
        self._normalises_batches = any(isinstance(m, batch_norms) for m in discriminator.modules())
        self._kept: list[Tensor] = []  # G's pictures with their graph, for its own step
        recorder = recorder or Recorder(torch.device("cpu"))
        self._judge, self._criticise = (recorder.step(f) for f in (self._judged, self._criticised))
        self._make = recorder.step(self._made)
        self._begin, self._finish = recorder.parts(self._begun, self._finished)

    def turn(self, x: Tensor, y: Tensor, fresh: Callable[[], Batch]) -> Metrics:
        """D steps as the schedule wants, first on (x, y), then on `fresh()` batches; then G on x.

        G's pictures of x are made once: D's first step does not change G. A turn without a D step
        measures the difference anew after G's step, as the seed did, without learning from it.
        """
        taken = 0
        d_loss = None
        fake = self._begin(x)
        while self.schedule.wants_step(taken):
            if taken:
                x_now, y_now = fresh()
                d_loss = self.critic_step(x_now, y_now)
            else:
                d_loss = self.critic_step(x, y, fake)
            taken += 1
        g_loss, fake = self.generator_step(x, fake)
        if d_loss is None:
            d_loss = self.judge(x, y)
        if self.replay is not None:
            self._keep(fake, self.replay)
        self.schedule.turn_done()
        difference = self.schedule.difference
        return {"D": d_loss, "G": g_loss, "difference": difference, "D_steps": taken}

    def _keep(self, fake: Tensor, replay: ReplayCache) -> None:
        """Add pictures to the cache, which stays as it is while a disk is full; the first time a
        line says so.
        """
        try:
            replay.push(fake, self._rng)
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                say(f"Could not write {replay.path}: {why(error)}; training goes on without.")
            self._is_full = True

    def critic_step(self, x: Tensor, y: Tensor, made: Tensor | None = None) -> float:
        """One step of D on real pictures `y` and pictures `made` from `x`; its loss."""
        return self._observed(self._criticise(y, self.fakes(x, made)))

    def judge(self, x: Tensor, y: Tensor) -> float:
        """D's loss, and a fresh difference for the schedule, without a step."""
        return self._observed(self._judge(y, self.fakes(x)))

    def _observed(self, row: Tensor) -> float:
        """The loss of a (loss, separation) that the schedule is told."""
        loss, difference = row.tolist()
        self.schedule.observe(difference)
        return loss

    def _criticised(self, y: Tensor, fake: Tensor) -> Tensor:
        loss, row = self._loss(y, fake)
        descend(self._d_optimizer, loss)
        if self.objective == "wgan":
            clip_weights(self.discriminator.parameters())
        return row

    @torch.no_grad()
    def _judged(self, y: Tensor, fake: Tensor) -> Tensor:
        return self._loss(y, fake)[1]

    def _loss(self, y: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """D's loss, and it with the separation: (2,)."""
        real, fake = self._scores(y, fake)
        loss = discriminator_loss(self.objective, real, fake)
        apart = separation(self.objective, real, fake)
        return loss, torch.stack((loss.detach(), apart.detach()))

    def _scores(self, y: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """D on real and made pictures: in one pass, unless D normalises over the batch, which would
        mix them.
        """
        if self._normalises_batches:
            return self.discriminator(y), self.discriminator(fake)
        scores = self.discriminator(torch.cat([y, fake]))
        return scores[: len(y)], scores[len(y) :]

    def fakes(self, x: Tensor, made: Tensor | None = None) -> Tensor:
        """G(x), `made` already or not; with a replay cache of more than half a batch, the second
        half is replayed.

        The seed put depth maps there until the cache was filled so far; fresh fakes stand there.
        """
        half = len(x) // 2
        if self.replay is None or self.replay.count <= half:
            return self._make(x) if made is None else made
        replayed = self.replay.sample(len(x) - half, self._rng).to(x.device)
        fresh = self._make(x[:half]) if made is None else made[:half]
        return torch.cat([fresh, replayed])

    @torch.no_grad()
    def _made(self, x: Tensor) -> Tensor:
        return self.generator(x)

    def generator_step(self, x: Tensor, fake: Tensor | None = None) -> tuple[float, Tensor]:
        """One step of G; its loss and the pictures it had made (`fake`, where the turn began with
        making them). D gets no gradients.
        """
        fake = self._begin(x) if fake is None else fake
        return self._finish(x).item(), fake

    def _begun(self, x: Tensor) -> Tensor:
        self._kept[:] = [self.generator(x)]
        return self._kept[0].detach()

    def _finished(self, x: Tensor) -> Tensor:
        (fake,) = self._kept
        self._kept.clear()
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self.objective, self.discriminator(fake))
        if self._extra_loss is not None:
            loss = loss + self._extra_loss(fake, x)
        descend(self._g_optimizer, loss)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def state(self) -> dict:
        """What exact resuming needs beside weights and optimizers."""
        replay = self.replay and {"pushes": self.replay.pushes, "count": self.replay.count}
        return {"schedule": self.schedule.state(), "replay": replay}

    def load_state(self, state: dict) -> None:
        self.schedule.load_state(state["schedule"])
