"""Learning to give back a picture: one step of the autoencoder and of the denoiser's two stages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from eyescream_py.game.adversarial import Learner
from eyescream_py.game.group import Alone
from eyescream_py.game.precision import Autocast
from eyescream_py.networks.modes import evaluating, exact_output

Criterion = Callable[[Tensor, Tensor], Tensor]


class Reconstruction:
    """Stages in a row: the first gets the encoder's output, each other what the one before it gave.

    Every stage has its own optimizer and learns from its own loss against the clean picture; no
    gradient flows from one stage into another.
    """

    def __init__(
        self,
        stages: Sequence[Learner],
        criterion: Criterion,
        encoder: nn.Module | None = None,
        group: Alone | None = None,
        autocast: Autocast = contextlib.nullcontext,
    ) -> None:
        self.autocast = autocast
        for stage in stages:
            exact_output(stage.network)
        self.stages, self.criterion, self.encoder = list(stages), criterion, encoder
        self.group = group or Alone()

    @property
    def modules(self) -> list[nn.Module]:
        networks = [stage.network for stage in self.stages]
        return networks if self.encoder is None else [self.encoder, *networks]

    def step(self, images: Tensor) -> Tensor:
        """One optimizer step of every stage on (n,C,H,W); each stage's loss before it. [stages]"""
        with self.group.sharing(len(images)):
            losses = self._step(self.group.rows(images))
            self.group.average_([losses])
        return losses

    def _step(self, images: Tensor) -> Tensor:
        with self.autocast():
            value = images if self.encoder is None else self.encoder(images)
        losses = []
        for stage in self.stages:
            with self.autocast():
                output = stage.network(value)
            loss = self.criterion(output, images)
            stage.backward(loss, self.group)
            stage.optimizer.step()
            losses.append(loss.detach())
            value = output.detach()
        return torch.stack(losses)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """What each stage makes of the pictures, in evaluation mode."""
        with evaluating(*self.modules):
            value = images if self.encoder is None else self.encoder(images)
            made = []
            for stage in self.stages:
                value = stage.network(value)
                made.append(value)
        return made

    def losses(self, images: Tensor) -> Tensor:
        """Each stage's loss in evaluation mode. [stages]"""
        return torch.stack([self.criterion(made, images) for made in self.outputs(images)])
