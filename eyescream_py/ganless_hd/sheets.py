"""Pictures of pictures: rows of input, output and target."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder

PADDING = 2


def sheet(columns: list[torch.Tensor]) -> np.ndarray:
    """One row per sample, one column per tensor (N, 3, H, W): uint8 (N*(H+2)+2, columns*(W+2)+2,
    3).

    Smallest to largest value of all columns together become 0 to 255; lines of 2 black pixels
    between.
    """
    pictures = torch.stack([column.detach().float().cpu() for column in columns], 1)
    low, high = pictures.min(), pictures.max()
    scaled = (pictures - low) / (high - low).clamp_min(1e-12)
    rows, count, channels, height, width = scaled.shape
    cell_height, cell_width = height + PADDING, width + PADDING
    page = torch.zeros(channels, rows * cell_height + PADDING, count * cell_width + PADDING)
    for row in range(rows):
        for column in range(count):
            top, left = row * cell_height + PADDING, column * cell_width + PADDING
            page[:, top : top + height, left : left + width] = scaled[row, column]
    return page.mul(255).round().byte().permute(1, 2, 0).numpy()


def to_bytes(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in -1..1 -> (H, W, 3) uint8."""
    values = picture.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255)
    return values.byte().permute(1, 2, 0).numpy()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8. Raises OSError."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    make_folder(path.parent)
    with atomic_write(path) as file:
        file.write(data.getvalue())
