"""Picture files -> uint8 pixels at the working size. Imports no torch, so worker processes start
fast."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyescream_py.data.pictures import PictureError, read_pixels
from eyescream_py.torch7.image import scale_matrix


def decode_picture(path: Path, channels: int, size: int) -> np.ndarray:
    """One file -> uint8 (channels,size,size): turned upright, cut to its centred square, scaled as
    Lua does.

    Gray is the Rec. 601 luma, transparent parts are white, 16 bits become 8. Raises PictureError
    with the reason.
    """
    pixels = read_pixels(path, "L" if channels == 1 else "")
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return np.broadcast_to(_to_working_size(planes, size), (channels, size, size))


def _to_working_size(planes: np.ndarray, size: int) -> np.ndarray:
    side = min(planes.shape[1:])
    top, left = (planes.shape[1] - side) // 2, (planes.shape[2] - side) // 2
    square = planes[:, top : top + side, left : left + side]
    matrix = _matrix(side, size)
    return np.clip(np.rint(matrix @ (square @ matrix.T)), 0, 255).astype(np.uint8)


_matrix = functools.lru_cache(maxsize=16)(scale_matrix)


@dataclass(frozen=True)
class Decoded:
    """Some files' pictures, uint8 (n,C,S,S), and (row, reason) of those that are broken, black
    here."""

    rows: np.ndarray
    broken: list[tuple[int, str]]


def decode_files(folder: Path, names: list[str], channels: int, size: int) -> Decoded:
    rows = np.zeros((len(names), channels, size, size), np.uint8)
    broken = []
    for row, name in enumerate(names):
        try:
            rows[row] = decode_picture(folder / name, channels, size)
        except PictureError as error:
            broken.append((row, str(error)))
    return Decoded(rows, broken)
