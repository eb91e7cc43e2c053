"""Batches as PNG files: every picture stretched from its minimum (black) to its maximum (white)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from eyescream_py.image_model.data import to_bytes
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder


def to_unit(batch: Tensor) -> Tensor:
    """(N, C, H, W) of any range -> each picture from 0 to exactly 1; a constant one becomes 0."""
    low = batch.amin((1, 2, 3), keepdim=True)
    span = batch.amax((1, 2, 3), keepdim=True) - low
    return (batch - low) / span.clamp_min(1e-8)


def to_pixels(picture: Tensor) -> np.ndarray:
    """(C, H, W) -> uint8 RGB (H, W, 3), stretched, grey replicated, never transposed."""
    pixels = to_bytes(picture.detach().float().cpu().numpy()).transpose(1, 2, 0)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def save_row(path: Path, pictures: list[Tensor]) -> None:
    """Pictures (C, H, W) side by side, each stretched by itself, as one PNG."""
    row = np.concatenate([to_pixels(picture) for picture in pictures], axis=1)
    with atomic_write(path) as file:
        Image.fromarray(row).save(file, "png")


def save_samples(folder: Path, generated: Tensor, source: Tensor, number: int) -> None:
    """`<i>.png` for the first `number` pictures: generated left, source right."""
    make_folder(folder)
    for i in range(min(number, len(generated))):
        save_row(folder / f"{i}.png", [generated[i], source[i]])
