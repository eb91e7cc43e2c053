"""The LFW augmentation of the Lua program's data set: its law, and its warp composed with crop and
resize.

The law (`generate_dataset.py` of 2015): flip with p=.5, brightness factor 0.9..1.1, and one affine
warp about the centre with scale 0.82..1.10 (both axes alike), rotation of whole degrees in -8..8
and shifts of whole pixels in -5..5 of a 250x250 photo. The numbers of a copy come from (seed,
picture, copy) alone, so neither the number of processes nor an interruption changes them. Copy 0
is the picture as it is. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

COPIES = 20  # the picture itself and 19 augmented ones
PHOTO = 250  # side of an LFW photo in pixels
BOX = (83, 92, 167, 176)  # left, top, right, bottom of the face; right and bottom exclusive
FACE = 64  # side of a written face in pixels


@dataclass(frozen=True)
class Augmentation:
    """What is done to one copy of a picture, in this order: flip, brightness, then the affine
    warp."""

    flip: bool = False
    brightness: float = 1.0
    scale: float = 1.0
    rotation: int = 0  # degrees
    shift: tuple[int, int] = (0, 0)  # right and down, in pixels of a 250x250 photo


def draw(seed: int, picture: int, copy: int) -> Augmentation:
    """The augmentation of one copy; copy 0 is the identity."""
    if copy == 0:
        return Augmentation()
    random = np.random.Generator(np.random.PCG64([seed, picture, copy]))
    return Augmentation(
        flip=bool(random.random() < 0.5),
        brightness=random.uniform(0.9, 1.1),
        scale=random.uniform(0.82, 1.10),
        rotation=int(random.integers(-8, 8, endpoint=True)),
        shift=(
            int(random.integers(-5, 5, endpoint=True)),
            int(random.integers(-5, 5, endpoint=True)),
        ),
    )


def source_transform(augmentation: Augmentation, shift_unit: float = 1.0) -> np.ndarray:
    """(2,3) matrix from a place in the augmented picture to its place in the original.

    Both are counted from the picture's centre, right and down; `shift_unit` is what one pixel of a
    250x250 photo is in the unit of these places.
    """
    angle = math.radians(augmentation.rotation)
    cosine, sine = math.cos(angle) / augmentation.scale, math.sin(angle) / augmentation.scale
    turn = np.array([[cosine, sine], [-sine, cosine]])
    if augmentation.flip:
        turn[0] = -turn[0]
    shift = turn @ augmentation.shift * shift_unit
    return np.column_stack([turn, -shift])


def face(photo: Image.Image, augmentation: Augmentation) -> Image.Image:
    """250x250 RGB photo -> its 64x64 augmented face: warp, crop and resize as one bilinear
    sampling."""
    left, top, right, bottom = BOX
    crop = np.array(
        [
            [(right - left) / FACE, 0, left - PHOTO / 2],
            [0, (bottom - top) / FACE, top - PHOTO / 2],
            [0, 0, 1],
        ]
    )
    matrix = source_transform(augmentation) @ crop
    matrix[:, 2] += PHOTO / 2
    small = photo.transform(
        (FACE, FACE), Image.Transform.AFFINE, matrix.ravel().tolist(), Image.Resampling.BILINEAR
    )
    return small if augmentation.brightness == 1 else _brightened(small, augmentation.brightness)


def _brightened(picture: Image.Image, factor: float) -> Image.Image:
    table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(int).tolist()
    return picture.point(table * len(picture.getbands()))
