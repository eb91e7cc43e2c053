"""Image and coil maps together, for scans whose centre of k-space is itself undersampled.

Regularised non-linear inversion (Uecker et al., Magn. Reson. Med. 60:674, 2008): the samples are
A(x c) with image x and coils c = W u, where W makes u's high frequencies expensive. Each Gauss-
Newton step solves the linearised problem by conjugate gradients with a damping that is halved from
step to step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eyescream_py.mln.baselines import conjugate_gradient
from eyescream_py.mln.nufft import FourierOperator


@dataclass(frozen=True)
class JointImage:
    """image (N, N) and coils (C, N, N): only their products are determined."""

    image: Tensor
    coils: Tensor


def joint_inversion(
    operator: FourierOperator, signal: Tensor, steps: int = 15, iterations: int = 30
) -> JointImage:
    """signal (C, M) -> image and coils; `steps` of Gauss-Newton with `iterations` of CG each."""
    side, coils = operator.side, signal.shape[0]
    problem = _Problem(operator, _smoothness(side).to(signal.device))
    data = signal * (100 / signal.norm())
    # First guess of the paper: a constant image and no coils, which a first step then finds.
    state = torch.zeros(1 + coils, side, side, dtype=torch.complex64, device=signal.device)
    state[0] = 1
    first, damping = state.clone(), 1.0
    for _ in range(steps):
        tangent = _Tangent(problem, state, damping)
        right = tangent.adjoint(data - problem.samples(state)) + damping * (first - state)
        state = state + conjugate_gradient(tangent.normal, right[None], iterations)[0]
        damping /= 2
    return JointImage(state[0], problem.maps(state))


def _smoothness(side: int) -> Tensor:
    """(1 + 50 |k|^2)^(-8), k in cycles per pixel, zero frequency first: (N, N). Less smooth
    than the paper's, for maps with steep phase.
    """
    line = torch.fft.fftfreq(side)
    return (1 + 50 * (line[:, None].square() + line.square())).pow(-8)


@dataclass(frozen=True)
class _Problem:
    operator: FourierOperator
    weight: Tensor

    def maps(self, state: Tensor) -> Tensor:
        """W u for the coils of a state (1 + C, N, N): image first, then u."""
        return torch.fft.ifft2(self.weight * state[1:], norm="ortho")

    def samples(self, state: Tensor) -> Tensor:
        return self.operator.forward(state[0] * self.maps(state))


class _Tangent:
    """The derivative of the samples at one state, and its adjoint."""

    def __init__(self, problem: _Problem, state: Tensor, damping: float) -> None:
        self._problem, self._image, self._damping = problem, state[0], damping
        self._maps = problem.maps(state)

    def forward(self, change: Tensor) -> Tensor:
        images = change[0] * self._maps + self._image * self._problem.maps(change)
        return self._problem.operator.forward(images)

    def adjoint(self, samples: Tensor) -> Tensor:
        images = self._problem.operator.adjoint(samples)  # [C,N,N]
        to_image = (self._maps.conj() * images).sum(0, keepdim=True)
        spectra = torch.fft.fft2(self._image.conj() * images, norm="ortho")
        return torch.cat([to_image, self._problem.weight * spectra])

    def normal(self, change: Tensor) -> Tensor:
        """The damped normal operator, on one state in a batch of one."""
        return (self.adjoint(self.forward(change[0])) + self._damping * change[0])[None]
