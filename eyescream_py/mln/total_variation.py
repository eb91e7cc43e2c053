"""Total-variation reconstruction: accelerated steps on the data, dual steps on the image."""

from __future__ import annotations

import torch
from torch import Tensor

from eyescream_py.mln.baselines import largest_eigenvalue
from eyescream_py.mln.forward import Acquisition

INNER = 6  # dual steps per image step; the dual variable goes on where it was


def total_variation(
    acquisition: Acquisition, signal: Tensor, weight: float = 0.005, iterations: int = 40
) -> Tensor:
    """Minimise |A x - s|^2 / 2 + w TV(x), (B, C, M) -> (B, bands, N, N).

    TV is the sum over pixels of the length of the complex forward differences; the weight is
    relative to the largest magnitude of the adjoint image. Accelerated gradient steps on the data
    (FISTA), each followed by a few projected steps on the dual of the denoising problem (Beck and
    Teboulle, IEEE Trans. Image Process. 18:2419, 2009).
    """
    with torch.no_grad():
        right = acquisition.adjoint(signal)
        step = 1 / largest_eigenvalue(acquisition, right[:1])
        limit = step * weight * right.abs().amax((-2, -1), keepdim=True)[..., None, :, :]
        estimate, ahead, pace = torch.zeros_like(right), torch.zeros_like(right), 1.0
        dual = differences(estimate)
        for _ in range(iterations):
            moved = ahead - step * (acquisition.adjoint(acquisition.forward(ahead)) - right)
            for _ in range(INNER):
                smooth = moved - differences_adjoint(dual)
                dual = _into_ball(dual + differences(smooth) / 8, limit)  # 8 >= |D|^2
            fresh = moved - differences_adjoint(dual)
            following = (1 + (1 + 4 * pace**2) ** 0.5) / 2
            ahead = fresh + (pace - 1) / following * (fresh - estimate)
            estimate, pace = fresh, following
    return estimate


def differences(images: Tensor) -> Tensor:
    """Forward differences along both axes, (..., N, N) -> (..., 2, N, N); 0 at the far edges."""
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    down[..., :-1, :] = images[..., 1:, :] - images[..., :-1, :]
    right[..., :, :-1] = images[..., :, 1:] - images[..., :, :-1]
    return torch.stack([down, right], -3)


def differences_adjoint(pairs: Tensor) -> Tensor:
    """The exact adjoint of `differences`."""
    down, right = pairs.unbind(-3)
    images = torch.zeros_like(down)
    images[..., :-1, :] -= down[..., :-1, :]
    images[..., 1:, :] += down[..., :-1, :]
    images[..., :, :-1] -= right[..., :, :-1]
    images[..., :, 1:] += right[..., :, :-1]
    return images


def _into_ball(pairs: Tensor, radius: Tensor) -> Tensor:
    length = pairs.abs().square().sum(-3, keepdim=True).sqrt()
    return pairs * (radius / torch.maximum(length, radius).clamp_min(1e-30))
