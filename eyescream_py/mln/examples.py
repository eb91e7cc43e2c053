"""Crops and phases of many training images at once, on a device: `data.random_crop` and
`random_phase` of the same draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Of B images: place (B, 6) int64, which are number, three flips (left-right, up-down, turned
    left), top and left; phase (B, 11) float64 in 0..1.
    """

    place: Tensor
    phase: Tensor

    @classmethod
    def of(cls, rngs: list[np.random.Generator], images: NDArray[Any], side: int) -> Draws:
        """One draw of each generator in turn, in the order of `random_crop` and `random_phase`."""
        places, phases = [], []
        for rng in rngs:
            number = rng.integers(len(images))
            flips = rng.random(3) < 0.5
            sizes = images.shape[:0:-1] if flips[2] else images.shape[1:]
            corner = [rng.integers(size - side + 1) for size in sizes]
            places.append([number, *flips, *corner])
            phases.append(rng.random(11))
        return cls(torch.tensor(np.array(places, np.int64)), torch.tensor(np.array(phases)))


def stack_on(device: torch.device, images: NDArray[Any]) -> Tensor:
    """The images (count, H, W) in a type that torch can index on every device."""
    wide = images.dtype.kind == "u" and images.dtype.itemsize > 1
    kind = np.dtype(np.int64) if wide else images.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(images, kind)).to(device)


def crops_at_once(stack: Tensor, side: int, draws: Draws) -> Tensor:
    """`random_crop` for each draw: (B, side, side) float64 on the stack's device."""
    place = draws.place.to(stack.device, non_blocking=True)
    number, flip_x, flip_y, turn, top, left = (column[:, None, None] for column in place.T)
    height, width = stack.shape[1:]
    line = torch.arange(side, device=stack.device)
    rows, columns = top + line[:, None], left + line  # [B,side,1], [B,1,side]
    # in the picture before it was turned, and before it was flipped
    row = torch.where(turn > 0, columns, rows)
    column = torch.where(turn > 0, width - 1 - rows, columns)
    row = torch.where(flip_y > 0, height - 1 - row, row)
    column = torch.where(flip_x > 0, width - 1 - column, column)
    crops = stack[number, row, column].double()
    least = 1e-6 if stack.is_floating_point() else 1.0
    return crops / crops.amax((1, 2), keepdim=True).clamp_min(least)


def phases_at_once(
    side: int, u: Tensor, linear: float = 5.0, quadratic: float = 0.1, scale: float = 2.0
) -> Tensor:
    """`random_phase` for each row of u (B, 11): (B, side, side) float64."""
    line = torch.linspace(-math.pi, math.pi, side, dtype=u.dtype, device=u.device)
    x, y = line[None, :], line[:, None]
    share = (u - 0.5).T[..., None, None]  # [11,B,1,1]

    def wave(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.sin(linear * (a * x + b * y) + quadratic * (c * x**2 + d * y**2))

    swing = share[8] * wave(*share[0:4]) + share[9] * wave(*share[4:8])
    return swing * 2 * math.pi * scale + 2 * math.pi * share[10]
