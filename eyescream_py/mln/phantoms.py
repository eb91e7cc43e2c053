"""Procedural images and maps: Shepp-Logan, random ellipses, coil sensitivities, B0 fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Toft's contrast: intensity, half-axes along x and y, centre x and y, rotation in degrees.
_SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def _axes(side: int) -> tuple[Floats, Floats]:
    line = (np.arange(side) - side // 2) / (side / 2)
    return np.meshgrid(line, line, indexing="ij")


def _ellipse(side: int, a: float, b: float, x0: float, y0: float, degrees: float) -> Floats:
    """A soft-edged ellipse, (side, side), 1 inside; half-axes and centre relative to half the
    side.
    """
    rows, columns = _axes(side)
    turn = np.deg2rad(degrees)
    x, y = columns - x0, -rows - y0
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    return np.clip((1.0 - radius) * min(a, b) * side / 2 + 0.5, 0.0, 1.0)


def shepp_logan(side: int) -> Floats:
    """The Shepp-Logan head (modified contrast), (side, side), 0..1 (Toft, 1996)."""
    image = np.zeros((side, side))
    for intensity, *shape in _SHEPP_LOGAN:
        image += intensity * _ellipse(side, *shape)
    return np.clip(image, 0.0, 1.0)


def random_ellipses(side: int, rng: np.random.Generator, count: int = 40) -> Floats:
    """A sum of `count` random ellipses with a little smooth shading, (side, side), 0..1."""
    image = np.zeros((side, side))
    for _ in range(count):
        a, b = np.exp(rng.uniform(np.log(0.02), np.log(0.6), 2))
        x0, y0 = rng.uniform(-0.9, 0.9, 2)
        image += rng.uniform(-0.5, 1.0) * _ellipse(side, a, b, x0, y0, rng.uniform(0, 180))
    image *= 1.0 + 0.3 * smooth_field(side, rng, 3)
    image = np.clip(image, 0.0, None)
    return image / max(image.max(), 1e-12)


def smooth_field(side: int, rng: np.random.Generator, order: int = 3) -> Floats:
    """A random sum of cosines up to `order` half-waves per side, (side, side), scaled to -1..1."""
    line = (np.arange(side) + 0.5) / side
    waves = np.cos(np.pi * np.outer(np.arange(order + 1), line))
    amplitude = rng.standard_normal((order + 1, order + 1)) / (
        1 + np.add.outer(*[np.arange(order + 1)] * 2)
    )
    amplitude[0, 0] = 0.0
    field = waves.T @ amplitude @ waves
    return field / max(np.abs(field).max(), 1e-12)


def b0_field(side: int, peak_hz: float, rng: np.random.Generator) -> Floats:
    """A smooth off-resonance map in Hz, (side, side), reaching +-`peak_hz`."""
    return peak_hz * smooth_field(side, rng, 3)


def disc_mask(side: int, radius: float = 0.95) -> NDArray[np.float32]:
    """1 inside the centred disc of `radius` half-sides, else 0, (side, side)."""
    rows, columns = _axes(side)
    return (np.hypot(rows, columns) <= radius).astype(np.float32)


def coil_maps(
    side: int, coils: int, mask: NDArray[np.float32] | None = None
) -> NDArray[np.complex128]:
    """Sensitivities of `coils` loops around the object, (coils, side, side).

    Each falls off as a Lorentzian from its place on a circle and turns its phase slowly; the root
    of the sum of squares is 1, times `mask` where given.
    """
    rows, columns = _axes(side)
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = []
    for angle in angles:
        y, x = rows - 1.2 * np.sin(angle), columns - 1.2 * np.cos(angle)
        maps.append(np.exp(1j * (np.arctan2(y, x) + angle)) / (0.4 + y**2 + x**2))
    stack = np.array(maps)
    stack /= np.sqrt((np.abs(stack) ** 2).sum(0))
    return stack if mask is None else stack * mask.astype(np.float64)
