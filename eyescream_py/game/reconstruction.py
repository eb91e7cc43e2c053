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
    gradient flows from one stage into another. With ``as_lua`` a stage runs those before it once
    more, after their step (new weights, noise, masks and statistics), and all stages' optimizers
    go on with one count of steps and one set of moments: what the Lua denoiser does. With
    ``with_penalty`` the losses that `step` returns include the stage's penalty.
    """

    def __init__(
        self,
        stages: Sequence[Learner],
        criterion: Criterion,
        encoder: nn.Module | None = None,
        group: Alone | None = None,
        autocast: Autocast = contextlib.nullcontext,
        as_lua: bool = False,
        with_penalty: bool = False,
    ) -> None:
        self.autocast = autocast
        self.as_lua, self.with_penalty = as_lua, with_penalty
        for stage in stages:
            exact_output(stage.network)
        self.stages, self.criterion, self.encoder = list(stages), criterion, encoder
        self.group = group or Alone()
        if as_lua:
            for stage in self.stages[1:]:
                stage.optimizer.moments = self.stages[0].optimizer.moments

    @property
    def modules(self) -> list[nn.Module]:
        """All networks that run, a frozen encoder first."""
        networks = [stage.network for stage in self.stages]
        return networks if self.encoder is None else [self.encoder, *networks]

    def step(self, images: Tensor) -> Tensor:
        """One optimizer step of every stage on (n,C,H,W); each stage's loss before it. [stages]"""
        with self.group.sharing(len(images)):
            losses = self._step(self.group.rows(images))
            self.group.average_([losses])
        return losses

    def _step(self, images: Tensor) -> Tensor:
        losses = []
        value = self._given(images, 0)
        for number, stage in enumerate(self.stages):
            if number and self.as_lua:
                value = self._given(images, number)
            with self.autocast():
                output = stage.network(value)
            loss = self.criterion(output, images)
            losses.append(self._logged(stage, loss))
            stage.backward(loss, self.group)
            if self.as_lua:  # the count of whichever stage took the last step
                stage.optimizer.t = self.stages[number - 1].optimizer.t
            stage.optimizer.step()
            value = output.detach()
        return torch.stack(losses)

    def _given(self, images: Tensor, number: int) -> Tensor:
        """What a stage gets from those before it, which run for this."""
        with self.autocast():
            value = images if self.encoder is None else self.encoder(images)
            for stage in self.stages[:number]:
                with torch.no_grad():
                    value = stage.network(value)
        return value

    def _logged(self, stage: Learner, loss: Tensor) -> Tensor:
        penalty = stage.penalty.value(stage.optimizer.parameters) if self.with_penalty else 0.0
        return loss.detach() + penalty

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
