"""Procedural faces in CelebA's align-and-crop frame, for tests and first tries without any
download.

`python -m eyescream_py.srez.make_data --dataset DIR --count N` writes 178x218 JPEG files: a skin
ellipse where CelebA's faces lie, hair, eyes, brows, nose, mouth, side light, a background with a
gradient, and some of each varied.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

import random

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from eyescream_py.system import voice
from eyescream_py.system.commands import Command
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import new_folder
from eyescream_py.system.numbers import FILES, SEED
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import each
from eyescream_py.system.voice import counted

FRAME = (178, 218)  # width, height
FACE_CENTRE = (89, 115)
OVERSAMPLING = 3  # drawn larger and reduced, for smooth edges
SKINS = ((240, 205, 180), (224, 172, 135), (190, 130, 95), (140, 90, 62), (95, 62, 45))
HAIRS = ((30, 22, 18), (75, 48, 28), (130, 85, 45), (200, 165, 100), (120, 120, 120))
EYES = ((60, 40, 25), (70, 95, 60), (80, 110, 150))
Colour = tuple[int, int, int]


class _Painter:
    """Ellipses and lines in frame coordinates on an oversampled canvas."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        s = OVERSAMPLING
        self._draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def arc(
        self,
        place: tuple[float, float, float, float],
        span: tuple[float, float],
        colour: Colour,
        thickness: float,
    ) -> None:
        """Part of the ellipse `place` = (x, y, rx, ry), `span` in degrees clockwise."""
        x, y, rx, ry = place
        s = OVERSAMPLING
        box = ((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s)
        self._draw.arc(box, *span, fill=colour, width=round(thickness * s))


def render_face(seed: int) -> Image.Image:
    """One 178x218 RGB face; a seed always makes the same face."""
    rng = random.Random(seed)  # noqa: S311
    skin, hair = _vary(rng, rng.choice(SKINS)), _vary(rng, rng.choice(HAIRS))
    image = _background(rng)
    painter = _Painter(image)
    x, y = (c + rng.uniform(-4, 4) for c in FACE_CENTRE)
    rx, ry = rng.uniform(42, 50), rng.uniform(56, 66)
    painter.ellipse(x, y - 12, rx + rng.uniform(6, 14), ry + rng.uniform(2, 12), hair)
    painter.ellipse(x, y + ry + 25, rx * 0.55, 45, _scale(skin, 0.85))
    painter.ellipse(x, y, rx, ry, skin)
    painter.ellipse(x + rng.uniform(-8, 8), y - ry + 5, rx * 0.8, rng.uniform(8, 20), hair)
    iris = rng.choice(EYES)
    for side in (-1, 1):
        _eye(painter, rng, (x + side * rng.uniform(18, 21), y - 5), (skin, iris, hair))
    _nose_and_mouth(painter, rng, x, y, skin)
    return _light(image.filter(ImageFilter.GaussianBlur(1.2 * OVERSAMPLING / 2)), seed, rng)


def _vary(rng: random.Random, colour: Colour, by: float = 14) -> Colour:
    r, g, b = (min(255, max(0, round(c + rng.uniform(-by, by)))) for c in colour)
    return r, g, b


def _scale(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b


def _background(rng: random.Random) -> Image.Image:
    corners = [[[rng.randrange(30, 230) for _ in range(3)] for _ in range(2)] for _ in range(2)]
    size = (FRAME[0] * OVERSAMPLING, FRAME[1] * OVERSAMPLING)
    return Image.fromarray(np.array(corners, np.uint8)).resize(size, Image.Resampling.BILINEAR)


def _eye(
    painter: _Painter,
    rng: random.Random,
    place: tuple[float, float],
    colours: tuple[Colour, Colour, Colour],
) -> None:
    (x, y), (skin, iris, hair) = place, colours
    opening = rng.uniform(3.2, 5.0)
    painter.ellipse(x, y - 1, 11, opening + 3, _scale(skin, 0.8))
    painter.ellipse(x, y, 9, opening, (238, 236, 232))
    painter.ellipse(x + rng.uniform(-1, 1), y, 4.2, min(4.2, opening), iris)
    painter.ellipse(x, y, 2, 2, (12, 10, 10))
    painter.ellipse(x + 1.4, y - 1.4, 0.9, 0.9, (255, 255, 255))
    painter.arc((x, y - 5, 12, rng.uniform(6, 9)), (200, 340), _scale(hair, 0.8), rng.uniform(2, 4))


def _nose_and_mouth(
    painter: _Painter, rng: random.Random, x: float, y: float, skin: Colour
) -> None:
    dark = _scale(skin, 0.72)
    painter.ellipse(x, y + 19, 8, 6, _scale(skin, 1.06))
    for side in (-1, 1):
        painter.ellipse(x + side * 5, y + 23, 2.6, 1.6, dark)
    lips = _vary(rng, (170, 75, 75), 25)
    width, height = rng.uniform(14, 19), rng.uniform(3.5, 6.5)
    painter.ellipse(x, y + 39, width, height, lips)
    if rng.random() < 0.5:
        painter.ellipse(x, y + 39, width * 0.75, height * 0.5, (240, 235, 228))
    else:
        painter.arc((x, y + 36, width, 4), (20, 160), _scale(lips, 0.6), 1.4)


def _light(image: Image.Image, seed: int, rng: random.Random) -> Image.Image:
    """Reduce to the frame, light from one side, a little grain."""
    values = np.asarray(image.resize(FRAME, Image.Resampling.BOX), np.float32)
    across = np.linspace(-1, 1, FRAME[0])[None, :, None] * rng.uniform(-0.25, 0.25)
    down = np.linspace(-1, 1, FRAME[1])[:, None, None] * rng.uniform(-0.15, 0.15)
    grain = np.random.default_rng(seed).normal(0, 3, (*values.shape[:2], 1))
    return Image.fromarray((values * (1 + across + down) + grain).clip(0, 255).astype(np.uint8))


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dataset", type=PATH, default="srez/dataset", show_default=True, help="Folder to write to."
)
@click.option("--count", type=FILES, default=1000, show_default=True, help="Number of faces.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the faces.")
def main(dataset: str, count: int, seed: int) -> None:
    """Render faces to try srez on; existing files are never overwritten."""
    folder = new_folder(dataset)
    for i in each(range(count), "faces"):
        with atomic_write(folder / f"{i + 1:06d}.jpg", synced=False) as file:
            render_face(seed * 1_000_000 + i).save(file, format="JPEG", quality=92)
    voice.say(f"{counted(count, 'face')} of 178x218 in {folder}")


if __name__ == "__main__":
    main()
