"""A smooth B0 map estimated from a scan itself: joint estimation of image and field.

The field is a sum of low-order cosines. For a trial field the image is the regularised least-
squares one; what it leaves unexplained, |A(B0) x - s|^2, is minimised over the cosines' amplitudes
(variable projection: at the optimal image its gradient is that with the image held fixed), beside
their squares in units of `deviations`: a scan says little of its field, and without them the
amplitudes would explain its noise. Following Sutton, Noll and Fessler (IEEE TMI 2004) in the
alternation, with a coarse-to-fine schedule: first the early, low-frequency samples, which off-
resonance has turned little, then ever later ones, with ever finer fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eyescream_py.mln.baselines import cg_sense
from eyescream_py.mln.forward import Acquisition, segment_phases
from eyescream_py.mln.nufft import FourierOperator, choose_operator
from eyescream_py.mln.trajectories import segment_interpolation


@dataclass(frozen=True)
class Stage:
    """One step of the schedule: the share of the readout used, cosine orders per axis, optimiser
    steps.
    """

    share: float
    order: int
    steps: int


TURNS = 0.3  # of the whole field, usual at 3 T within 10 ms
SCHEDULE = (Stage(0.3, 2, 6), Stage(0.5, 4, 8), Stage(0.75, 6, 8), Stage(1.0, 8, 12))


@dataclass(frozen=True)
class Estimate:
    """turns: off-resonance over the whole readout, (N, N); residuals: weighted |A x - s| / |s|
    after each stage, and before the first for the full readout without any field.
    """

    turns: Tensor
    residuals: list[float]


def estimate_turns(
    trajectory: np.ndarray,
    coils: Tensor,
    mask: Tensor,
    signal: Tensor,
    segments: int = 7,
    schedule: tuple[Stage, ...] = SCHEDULE,
    say: Callable[[str], None] = print,
) -> Estimate:
    """Estimate the field from one scan.

    trajectory (2, M) in acquisition order; coils (C, N, N); mask (N, N); signal (1, C, M). Only the
    product of field and time enters, so the answer is in turns over the readout: divide by its
    seconds for Hz.
    """
    problem = _Problem(trajectory, coils, signal, segments, torch.ones(signal.shape[-1]))
    nothing = torch.zeros_like(mask)
    problem = replace(problem, weights=_block_weights(problem.at(1.0).error(nothing)))
    amplitudes = torch.zeros(1, 1)
    residuals = [problem.at(1.0).residual(nothing)]
    for stage in schedule:
        part = problem.at(stage.share)
        amplitudes = _padded(amplitudes, stage.order)
        amplitudes = _minimise(part, amplitudes, stage.steps)
        residuals.append(part.residual(cosine_field(amplitudes, mask.shape[-1])))
        say(f"first {stage.share:.0%}, cosine order {stage.order}: residual {residuals[-1]:.4f}")
    return Estimate(cosine_field(amplitudes, mask.shape[-1]) * (mask > 0), residuals)


def cosine_field(amplitudes: Tensor, side: int) -> Tensor:
    """Sum of amplitudes[a, b] cos(pi a r) cos(pi b u), r and u the pixel centres on 0..1; (side,
    side).
    """
    line = (torch.arange(side) + 0.5) / side
    waves = torch.cos(torch.pi * torch.arange(len(amplitudes))[:, None] * line)  # [order+1,N]
    return waves.T @ amplitudes @ waves


def deviations(order: int) -> Tensor:
    """The usual size of each amplitude in turns over the readout, (order + 1, order + 1): fields
    are smooth.
    """
    waves = torch.arange(order + 1).square()
    return TURNS / (1 + waves[:, None] + waves)


def _padded(amplitudes: Tensor, order: int) -> Tensor:
    wider = torch.zeros(order + 1, order + 1)
    wider[: len(amplitudes), : len(amplitudes)] = amplitudes
    return wider


def _block_weights(error: Tensor, blocks: int = 20) -> Tensor:
    """Weights (M,), mean 1, that undo how the error (1, C, M) of a fit falls along the readout.

    The central samples fit worst in absolute terms (coil maps are never exact) although hardly any
    off-resonance has acted on them; unweighted, they would decide the field. One weight per block:
    the inverse of its root-mean-square error.
    """
    sizes = [part.abs().square().mean().sqrt() for part in error.tensor_split(blocks, -1)]
    counts = [part.shape[-1] for part in error.tensor_split(blocks, -1)]
    weights = torch.cat(
        [(1 / size).expand(count) for size, count in zip(sizes, counts, strict=True)]
    )
    return weights / weights.mean()


@dataclass(frozen=True)
class _Problem:
    trajectory: np.ndarray
    coils: Tensor
    signal: Tensor
    segments: int
    weights: Tensor

    def at(self, share: float) -> _Part:
        """The problem of the first `share` of the samples."""
        count = max(16, round(share * self.trajectory.shape[1]))
        operator = choose_operator(
            self.trajectory[:, :count], self.coils.shape[-1], self.coils.device, 1e-4
        )
        shares = segment_interpolation(np.linspace(0, 1, count), self.segments)
        return _Part(
            operator,
            self.coils,
            self.signal[..., :count],
            torch.from_numpy(shares).to(torch.complex64),
            self.weights[:count],
            share,
        )


@dataclass(frozen=True)
class _Part:
    operator: FourierOperator
    coils: Tensor
    signal: Tensor
    interpolation: Tensor
    weights: Tensor
    share: float
    iterations: int = 10
    ridge: float = 1e-2

    def acquisition(self, turns: Tensor) -> Acquisition:
        phases = segment_phases(turns, len(self.interpolation), self.share)
        return Acquisition(self.operator, self.coils[None], phases[None], self.interpolation[None])

    def image(self, turns: Tensor) -> Tensor:
        acquisition = self.acquisition(turns)
        return cg_sense(acquisition, self.signal, self.iterations, self.ridge, self.weights)

    def misfit(self, turns: Tensor, image: Tensor) -> Tensor:
        """sum w |A x - s|^2 / sum w |s|^2."""
        error = self.acquisition(turns).forward(image) - self.signal
        power = (self.weights * self.signal.abs().square()).sum()
        return (self.weights * error.abs().square()).sum() / power

    def error(self, turns: Tensor) -> Tensor:
        """A x - s at the best image, (1, C, M)."""
        with torch.no_grad():
            return self.acquisition(turns).forward(self.image(turns)) - self.signal

    def residual(self, turns: Tensor) -> float:
        with torch.no_grad():
            return float(self.misfit(turns, self.image(turns)).sqrt())


def _minimise(part: _Part, amplitudes: Tensor, steps: int) -> Tensor:
    """L-BFGS over the amplitudes; each evaluation solves for the image anew. What is minimised is
    minus the logarithm of a probability: the noise is taken to be what the first field leaves.
    """
    variable = amplitudes.clone().requires_grad_(True)
    usual = deviations(len(amplitudes) - 1)
    side = part.coils.shape[-1]
    noise = part.residual(cosine_field(amplitudes, side)) ** 2 / part.signal.numel()
    optimizer = torch.optim.LBFGS(
        [variable],
        lr=1.0,
        max_iter=steps,
        max_eval=2 * steps,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-9,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        field = cosine_field(variable, side)
        image = part.image(field.detach())
        unlikely = part.misfit(field, image) / noise + (variable / usual).square().sum() / 2
        unlikely.backward()
        return unlikely

    optimizer.step(closure)
    return variable.detach()
