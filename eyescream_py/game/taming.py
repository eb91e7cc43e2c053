"""What keeps D from running away from G: augmented views, a slope penalty, bounded weights.

None of it is in the Lua program and none is on by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyescream_py.game.answers import Logits
from eyescream_py.networks.modes import plain

if TYPE_CHECKING:
    from eyescream_py.torch7.random import RandomSource

SHIFT = 1 / 8  # of the side, at most
HOLE = 1 / 2  # side of the hole, of the picture's


class DiffAugment:
    """Differentiable augmentation (Zhao et al. 2020): D sees real and generated pictures alike
    changed at random, so that a small data set is harder to learn by heart.

    `kinds` are some of `cli.options.AUGMENTATIONS`. Pictures [N,C,H,W] in 0..1 become pictures of
    the same shape, which may leave 0..1. Seven numbers per picture are drawn, whatever the kinds,
    and an eighth where the saturation of "colour" is changed, too.
    """

    def __init__(self, kinds: Sequence[str], source: RandomSource) -> None:
        self.kinds, self.source = tuple(kinds), source

    def __call__(self, images: Tensor) -> Tensor:
        saturated = "colour" in self.kinds and images.shape[1] == 3
        draws = torch.empty(len(images), 7 + saturated, device=images.device)
        draws = self.source.uniform_(draws, 0, 1).to(images.dtype)
        brightness, contrast, down, right, top, left, side, *saturation = draws.T
        if "colour" in self.kinds:
            images = images + (_each(brightness) - 0.5) / 2
            for share in saturation:
                grey = images.mean(1, keepdim=True)
                images = (images - grey) * (2 * _each(share)) + grey
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (images - mean) * (_each(contrast) + 0.5) + mean
        if "mirror" in self.kinds:
            images = torch.where(_each(side) < 0.5, images, images.flip(3))
        if "translation" in self.kinds:
            images = shifted(images, 2 * down - 1, 2 * right - 1)
        if "cutout" in self.kinds:
            images = images * (1 - hole(images, top, left))
        return images


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def shifted(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each picture moved by whole pixels, at most SHIFT of its side; zeros come in at the border.

    `down` and `right` [N] lie in [-1,1]; where they are uniform, the farthest moves come half as
    often as each other one.
    """
    n, _, height, width = images.shape
    most = max(1, round(SHIFT * height))
    padded = F.pad(images, (most, most, most, most))
    rows = _start(down, most) + torch.arange(height, device=images.device)
    columns = _start(right, most) + torch.arange(width, device=images.device)
    pictures = torch.arange(n, device=images.device).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[pictures, rows.unsqueeze(2), columns.unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)


def _start(move: Tensor, most: int) -> Tensor:
    """First padded row (or column) of each picture. [N,1]"""
    return (most - (move * most).round().long()).clamp(0, 2 * most).unsqueeze(1)


def hole(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """1 inside a square of HOLE of the side, whose centre lies anywhere in the picture, else 0.

    [N,1,H,W]; `top` and `left` [N] lie in [0,1).
    """
    height, width = images.shape[2:]
    inside = _within(top, height).unsqueeze(2) & _within(left, width).unsqueeze(1)
    return inside.unsqueeze(1).to(images.dtype)


def _within(place: Tensor, side: int) -> Tensor:
    """Which of `side` lines the hole covers: HOLE of them, or fewer at the border. [N,side]"""
    covered = int(HOLE * side + 0.5)
    # an even number of lines has its centre between two of them, or at one of both borders
    centre = (place * (side + 1 - covered % 2)).floor().unsqueeze(1)
    lines = torch.arange(side, device=place.device) - centre + covered // 2
    return (lines >= 0) & (lines < covered)


def squared_slope(logits: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared gradient of D's logit, with a graph.

    `logits` [N] are computed from `pictures` [N,...], which require gradients.
    """
    (slope,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return slope.square().sum() / len(logits)


class SlopePenalty:
    """R1 of Mescheder et al. 2018: weight/2 * mean squared slope of D's logit at real pictures.

    It is computed in every `every`-th step only, with `every` times the weight (Karras et al.
    2020), in a pass of its own by layers that can be differentiated twice. `weight` is an eighth
    of the papers' gamma: D's loss is a mean over real and generated pictures, theirs a sum, and
    pictures in 0..1 make slopes twice as steep as those in -1..1.
    """

    def __init__(self, weight: float, every: int = 1) -> None:
        self.weight, self.every, self.steps = weight, every, 0

    def due(self, ahead: int = 0) -> bool:
        """Whether the step after `ahead` others has the penalty."""
        return (self.steps + ahead) % self.every == 0

    def __call__(self, D: Logits, real: Tensor) -> Tensor | float:
        """To be added to D's loss of this step; `real` [N,C,H,W] as D sees it."""
        due = self.due()
        self.steps += 1
        if not due:
            return 0.0
        real = real.detach().requires_grad_()
        with plain(D.network):
            answers = D(real)
        return self.weight * self.every / 2 * squared_slope(answers, real)


class SpectralBound:
    """Keeps the largest singular value of every convolution and Linear of a network at `bound` or
    below, by a step of the power method and a rescaling after each of the optimizer's steps.

    Spectral normalisation (Miyato et al. 2018) as a projection: the weights stay plain weights,
    which every reader of the file understands.
    """

    def __init__(self, network: nn.Module, bound: float) -> None:
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self.weights, self.bound = [layer.weight for layer in layers], bound
        self.directions = [F.normalize(w.detach().new_ones(len(w)), dim=0) for w in self.weights]

    @torch.no_grad()
    def apply(self) -> None:
        """Scale down each weight whose largest singular value exceeds the bound."""
        for weight, u in zip(self.weights, self.directions, strict=True):
            matrix = weight.flatten(1)
            image = matrix @ F.normalize(matrix.T @ u, dim=0)
            norm = torch.linalg.vector_norm(image)
            u.copy_(image / norm.clamp(min=1e-12))
            weight.mul_((self.bound / norm).clamp(max=1))


@dataclass(frozen=True)
class Taming:
    """`augment` changes what D sees, `slope` is added to its loss, `bound` acts after its step."""

    augment: DiffAugment | None = None
    slope: SlopePenalty | None = None
    bound: SpectralBound | None = None

    def seen(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What D is shown of its inputs: the pictures augmented, a condition as it is."""
        return (self.augment(inputs[0]), *inputs[1:]) if self.augment else inputs

    def penalty(self, D: Logits, pictures: Tensor) -> Tensor | float:
        """On the real half of a batch."""
        return self.slope(D, pictures[: len(pictures) // 2]) if self.slope else 0.0

    def due(self, steps: int) -> tuple[bool, ...]:
        """In which of D's next steps the slope penalty will be computed."""
        return tuple(self.slope is not None and self.slope.due(i) for i in range(steps))

    @property
    def counted(self) -> int:
        """How many of D's steps the slope penalty was asked for."""
        return self.slope.steps if self.slope else 0

    def count(self, steps: int) -> None:
        """Count steps of D that ran without Python; a negative number takes some back."""
        if self.slope:
            self.slope.steps += steps

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"steps": self.slope.steps} if self.slope else {}
        return {**state, "directions": torch.cat(self.bound.directions)} if self.bound else state

    def set_state(self, state: dict[str, Any]) -> None:
        """Starts the power method anew where the file has no directions of this network."""
        if self.slope:
            self.slope.steps = int(state.get("steps", 0))
        ours = self.bound.directions if self.bound else []
        stored = state.get("directions")
        lengths = [len(u) for u in ours]
        if stored is not None and stored.numel() == sum(lengths):
            for u, part in zip(ours, stored.reshape(-1).split(lengths), strict=True):
                u.copy_(part)
