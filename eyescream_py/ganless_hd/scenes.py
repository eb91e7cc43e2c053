"""Procedural photographs for a first try without any: gradients, ellipses, polygons, stripes,
noise.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import new_folder
from eyescream_py.system.progress import each

JPEG_QUALITY = 92


def scene(size: int, rng: np.random.Generator) -> Image.Image:
    """One scene, `size` x `size` pixels: a sky-like gradient, 6 to 14 soft-edged shapes, fine
    grain.
    """
    image = Image.fromarray(_gradient(size, rng))
    for _ in range(rng.integers(6, 15)):
        image.paste(_texture(size, rng), mask=_shape(size, rng))
    grain = rng.normal(0, 4, (size, size, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _gradient(size: int, rng: np.random.Generator) -> np.ndarray:
    """Two colours along a random direction."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) / np.sqrt(2) + 0.5
    first, second = rng.uniform(0, 255, (2, 3))
    return (first + along[..., None] * (second - first)).astype(np.uint8)


def _texture(size: int, rng: np.random.Generator) -> Image.Image:
    """What a shape is filled with: a gradient, stripes or clouds."""
    kind = rng.integers(3)
    base = _gradient(size, rng).astype(float)
    if kind == 1:
        y, x = np.mgrid[0:size, 0:size]
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.02, 0.15) * size
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
        base += 45 * wave[..., None]
    elif kind == 2:
        coarse = rng.uniform(0, 255, (8, 8)).astype(np.uint8)
        clouds = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        base += 0.5 * (np.asarray(clouds, dtype=float)[..., None] - 128)
    return Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))


def _shape(size: int, rng: np.random.Generator) -> Image.Image:
    """A mask: an ellipse or a polygon of 3 to 7 corners, its edge a little soft."""
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    centre, radii = rng.uniform(0, size, 2), rng.uniform(0.05, 0.3, 2) * size
    if rng.random() < 0.5:
        pen.ellipse([*(centre - radii), *(centre + radii)], fill=255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        corners = centre + radii * np.stack((np.cos(angles), np.sin(angles)), 1)
        pen.polygon([tuple(corner) for corner in corners.tolist()], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))


def write_scenes(folder: Path, count: int, size: int, seed: int) -> None:
    """`scene_00000.jpg`, ... in `folder`, new or empty; scene n depends on `seed` and n alone.
    Raises UserError, OSError.
    """
    new_folder(folder)
    for number in each(range(count), "scenes"):
        data = io.BytesIO()
        picture = scene(size, np.random.default_rng((seed, number)))
        picture.save(data, "JPEG", quality=JPEG_QUALITY)
        with atomic_write(folder / f"scene_{number:05d}.jpg", synced=False) as file:
            file.write(data.getvalue())
