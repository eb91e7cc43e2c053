"""Model-based reconstructions to compare with: adjoint, CG-SENSE, wavelet-L1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from eyescream_py.mln.forward import Acquisition


def adjoint_image(
    acquisition: Acquisition, signal: Tensor, compensation: Tensor | None = None
) -> Tensor:
    """Density-compensated adjoint, (B, C, M) -> (B, bands, N, N).

    compensation: (M,) areas in k-space (see trajectories.density_compensation); None keeps the
    samples as they are: the zero-filled image of Cartesian data.
    """
    weighted = (
        signal
        if compensation is None
        else signal * compensation.to(signal.device, signal.real.dtype)
    )
    return acquisition.adjoint(weighted)


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int, start: Tensor | None = None
) -> Tensor:
    """Solve A x = right for positive definite A, per leading-axis item, by `iterations` steps."""
    solution = torch.zeros_like(right) if start is None else start.clone()
    residual = right - apply(solution) if start is not None else right.clone()
    direction = residual.clone()
    power = _power(residual)
    for _ in range(iterations):
        image = apply(direction)
        step = power / _dot(direction, image).clamp_min(1e-30)
        solution += step * direction
        residual -= step * image
        fresh = _power(residual)
        direction = residual + fresh / power.clamp_min(1e-30) * direction
        power = fresh
    return solution


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Real part of the inner product per item, shaped to multiply it."""
    products = (a.conj() * b).real.flatten(1).sum(1)
    return products.reshape(-1, *[1] * (a.dim() - 1))


def _power(a: Tensor) -> Tensor:
    return _dot(a, a)


def cg_sense(
    acquisition: Acquisition,
    signal: Tensor,
    iterations: int = 12,
    ridge: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Minimise |W^(1/2) (A x - s)|^2 + ridge |x|^2 by conjugate gradients (Pruessmann et al.,
    2001).

    (B, C, M) -> (B, bands, N, N). weights (M,): optional density weights W; few iterations also
    regularise.
    """
    scale = None if weights is None else weights.to(signal.device, signal.real.dtype)

    def weighted(samples: Tensor) -> Tensor:
        return samples if scale is None else samples * scale

    def normal(images: Tensor) -> Tensor:
        return acquisition.adjoint(weighted(acquisition.forward(images))) + ridge * images

    with torch.no_grad():
        return conjugate_gradient(normal, acquisition.adjoint(weighted(signal)), iterations)


def wavelet_l1(
    acquisition: Acquisition,
    signal: Tensor,
    iterations: int = 30,
    threshold: float = 0.005,
    levels: int = 3,
) -> Tensor:
    """Minimise |A x - s|^2 / 2 + t |Wx|_1 by FISTA, W an orthonormal Haar transform shifted anew
    each step.

    threshold t is relative to the largest magnitude of the adjoint image (Beck and Teboulle, 2009).
    """
    with torch.no_grad():
        right = acquisition.adjoint(signal)
        step = 1.0 / largest_eigenvalue(acquisition, right[:1])
        limit = threshold * right.abs().amax((-2, -1), keepdim=True) * step
        estimate, ahead, pace = torch.zeros_like(right), torch.zeros_like(right), 1.0
        for number in range(iterations):
            gradient = acquisition.adjoint(acquisition.forward(ahead)) - right
            fresh = _shrink(ahead - step * gradient, limit, levels, number)
            following = (1 + (1 + 4 * pace**2) ** 0.5) / 2
            ahead = fresh + (pace - 1) / following * (fresh - estimate)
            estimate, pace = fresh, following
    return estimate


def largest_eigenvalue(acquisition: Acquisition, like: Tensor, iterations: int = 20) -> float:
    """A little more than the largest eigenvalue of A^H A, by power iteration on images like
    `like`, from a fixed start.
    """
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    vector = noise.to(like)
    for _ in range(iterations):
        vector = acquisition.adjoint(acquisition.forward(vector / vector.norm()))
    return 1.1 * vector.norm().item()


def linear_optimum(
    acquisition: Acquisition, signal: Tensor, power: Tensor, noise: float, iterations: int = 100
) -> Tensor:
    """The best linear estimate for stationary images: |A x - s|^2 + 2 noise^2 |x / sqrt(power)|^2.

    power (N, N): mean |unitary FFT|^2 of the images expected, zero frequency first; noise: standard
    deviation per real number of the samples. No linear network can do better for such images.
    """
    penalty = 2 * noise**2 / power.to(signal.device)

    def normal(images: Tensor) -> Tensor:
        spectrum = penalty * torch.fft.fft2(images, norm="ortho")
        return acquisition.adjoint(acquisition.forward(images)) + torch.fft.ifft2(
            spectrum, norm="ortho"
        )

    with torch.no_grad():
        return conjugate_gradient(normal, acquisition.adjoint(signal), iterations)


def radial_power(images: Tensor) -> Tensor:
    """Mean |unitary FFT|^2 of images (B, N, N), averaged over rings of equal |k|: (N, N)."""
    side = images.shape[-1]
    line = torch.fft.fftfreq(side, 1 / side)
    ring = torch.hypot(line[:, None], line).round().long().flatten()
    power = torch.fft.fft2(images, norm="ortho").abs().square().mean(0).flatten().cpu()
    sums = torch.zeros(int(ring.max()) + 1).index_add(0, ring, power)
    means = sums / torch.bincount(ring)
    return means[ring].reshape(side, side).clamp_min(1e-12 * float(means.max()))


def _shrink(images: Tensor, limit: Tensor, levels: int, number: int) -> Tensor:
    shifts = (number * 3 % 8, number * 5 % 8)
    coefficients = haar(images.roll(shifts, (-2, -1)), levels)
    size = coefficients.abs()
    kept = coefficients * ((size - limit).clamp_min(0) / size.clamp_min(1e-30))
    coarse = -(-images.shape[-1] // 2**levels)
    kept[..., :coarse, :coarse] = coefficients[..., :coarse, :coarse]
    return inverse_haar(kept, levels).roll((-shifts[0], -shifts[1]), (-2, -1))


def haar(images: Tensor, levels: int) -> Tensor:
    """Orthonormal 2-D Haar transform; the coarsest band ends in the top-left corner.

    A side may be odd: its last sample goes on alone, and the pair in which it is met later is
    weighted so that a constant image has no detail (unbalanced Haar; Girardi and Sweldens, 1997).
    """
    output = images.clone()
    for size, last in _scales(images.shape[-1], levels):
        output[..., :size, :size] = _split(_split(output[..., :size, :size], last).mT, last).mT
    return output


def _scales(side: int, levels: int) -> list[tuple[int, float]]:
    """Of each level its side, and how large a constant image's last sample is beside its others."""
    scales, last = [], 1.0
    for _ in range(levels):
        scales.append((side, last))
        last = (last if side % 2 else math.hypot(1, last)) / 2**0.5
        side = -(-side // 2)
    return scales


def _split(block: Tensor, last: float) -> Tensor:
    pairs = block.shape[-1] // 2
    even, odd, alone = block[..., 0 : 2 * pairs : 2], block[..., 1::2], block[..., 2 * pairs :]
    low, high = _turned(even, odd, last if alone.shape[-1] == 0 else 1.0)
    return torch.cat([low, alone, high], -1)


def inverse_haar(coefficients: Tensor, levels: int) -> Tensor:
    """The inverse, and adjoint, of `haar`."""
    output = coefficients.clone()
    for size, last in reversed(_scales(output.shape[-1], levels)):
        output[..., :size, :size] = _join(_join(output[..., :size, :size].mT, last).mT, last)
    return output


def _join(block: Tensor, last: float) -> Tensor:
    pairs = block.shape[-1] // 2
    low, alone, high = block.split([pairs, block.shape[-1] - 2 * pairs, pairs], -1)
    even, odd = _turned(low, high, last if alone.shape[-1] == 0 else 1.0)
    return torch.cat([torch.stack([even, odd], -1).flatten(-2), alone], -1)


def _turned(a: Tensor, b: Tensor, last: float) -> tuple[Tensor, Tensor]:
    """(a + b, a - b) / sqrt 2, its own inverse; of the last pair (a + w b, w a - b) / |(1, w)| for
    the weight w = `last`.
    """
    one, other = (a + b) / 2**0.5, (a - b) / 2**0.5
    if last != 1:
        length = math.hypot(1, last)
        one[..., -1] = (a[..., -1] + last * b[..., -1]) / length
        other[..., -1] = (last * a[..., -1] - b[..., -1]) / length
    return one, other
