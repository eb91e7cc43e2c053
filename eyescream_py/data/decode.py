"""Picture files -> uint8 pixels at the working size. Imports no torch, so worker processes start
fast."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from eyescream_py.torch7.image import LUMA, scale_matrix

SUFFIXES = (".jpg", ".jpeg", ".png", ".pgm", ".ppm")
FORMATS = ("JPEG", "PNG", "PPM")  # told by the content, whatever the name ends in
MAX_PIXELS = 50_000_000  # beyond what photos have: a mistake or a bomb
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class BrokenPictureError(Exception):
    """Why one picture of a folder is left out."""


@dataclass(frozen=True)
class PictureFile:
    """One file of a data set folder with what tells whether it changed."""

    name: str  # relative to the folder, with forward slashes
    size: int  # bytes
    mtime: int  # nanoseconds


def list_pictures(folder: Path) -> list[PictureFile]:
    """The picture files of a folder and of its direct sub-folders, sorted by name.

    Raises OSError where the folder cannot be read.
    """
    pictures = list(_pictures_in(folder, ""))
    with os.scandir(folder) as entries:
        subfolders = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    for name in subfolders:
        pictures += _pictures_in(folder / name, name + "/")
    return sorted(pictures, key=lambda picture: picture.name)


def _pictures_in(folder: Path, prefix: str) -> Iterator[PictureFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] != "." and entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                status = entry.stat()
                yield PictureFile(prefix + entry.name, status.st_size, status.st_mtime_ns)


def decode_picture(path: Path, channels: int, size: int) -> np.ndarray:
    """One file -> uint8 (channels,size,size): turned upright, cut to its centred square, scaled as
    Lua does.

    Gray is the Rec. 601 luma, transparent parts are white, 16 bits become 8. Raises
    BrokenPictureError with the reason.
    """
    pixels = _read_pixels(path, gray=channels == 1)
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    scaled = _to_working_size(_luma(planes) if channels == 1 and len(planes) == 3 else planes, size)
    return np.broadcast_to(scaled, (channels, size, size))


def _read_pixels(path: Path, gray: bool) -> np.ndarray:
    """(H,W) or (H,W,3) float32 in 0..255."""
    with opened(path) as picture:
        if gray and picture.format == "JPEG":
            picture.draft("L", picture.size)  # a JPEG's own luma plane: no colour is computed
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in _SIXTEEN_BIT:
            return np.asarray(upright, np.float32) * np.float32(255 / 65535)
        return np.asarray(_as_8_bit(upright), np.float32)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture file, not yet decoded; what is wrong with it inside the block is a
    BrokenPictureError."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise BrokenPictureError(f"{picture.width}x{picture.height} pixels are too many")
            yield picture
    except Image.DecompressionBombError as error:
        raise BrokenPictureError("more pixels than any photo has") from error
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError) as error:
        raise BrokenPictureError(_reason(error)) from error


def _as_8_bit(picture: Image.Image) -> Image.Image:
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _luma(planes: np.ndarray) -> np.ndarray:
    return np.tensordot(np.asarray(LUMA, np.float32), planes, 1)[None]


def _to_working_size(planes: np.ndarray, size: int) -> np.ndarray:
    side = min(planes.shape[1:])
    top, left = (planes.shape[1] - side) // 2, (planes.shape[2] - side) // 2
    square = planes[:, top : top + side, left : left + side]
    matrix = _matrix(side, size)
    return np.clip(np.rint(matrix @ (square @ matrix.T)), 0, 255).astype(np.uint8)


_matrix = functools.lru_cache(maxsize=16)(scale_matrix)


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        return "no JPEG, PNG, PGM or PPM picture"
    return text.split(": '/")[0]


@dataclass(frozen=True)
class Decoded:
    """Some files' pictures, uint8 (n,C,S,S), and (row, reason) of those that are broken, black
    here."""

    rows: np.ndarray
    broken: list[tuple[int, str]]


def decode_files(folder: Path, names: list[str], channels: int, size: int) -> Decoded:
    rows = np.zeros((len(names), channels, size, size), np.uint8)
    broken = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS judges
        for row, name in enumerate(names):
            try:
                rows[row] = decode_picture(folder / name, channels, size)
            except BrokenPictureError as error:
                broken.append((row, str(error)))
    return Decoded(rows, broken)
