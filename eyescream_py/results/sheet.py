"""One picture that shows what a generator makes: named grids below each other, enlarged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from eyescream_py.system.files import atomic_write

WIDTH = 1056  # pixels, without the margins
CAPTION = 26  # pixels of a line of text
MARGIN = 8


@dataclass(frozen=True)
class Section:
    """`images` [N,C,H,W] in 0..1, `columns` of them in a row, under a caption."""

    caption: str
    images: Tensor
    columns: int


def write_sheet(path: Path, sections: list[Section]) -> None:
    """Write the sections as one PNG. Raises OSError where the file cannot be written."""
    parts = [part for section in sections for part in (_caption(section.caption), _grid(section))]
    height = sum(part.height for part in parts) + MARGIN
    page = Image.new("RGB", (WIDTH + 2 * MARGIN, height), "white")
    y = 0
    for part in parts:
        page.paste(part, (MARGIN, y))
        y += part.height
    with atomic_write(path) as file:
        page.save(file, "PNG")


def _caption(text: str) -> Image.Image:
    line = Image.new("RGB", (WIDTH, CAPTION), "white")
    ImageDraw.Draw(line).text((0, 6), text, fill="black")
    return line


def _grid(section: Section) -> Image.Image:
    """Pictures enlarged to fill the width, two pixels of white between them."""
    n, channels = section.images.shape[:2]
    side = WIDTH // section.columns - 2
    pixels = (section.images.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    tiles = pixels.expand(n, 3 if channels == 1 else channels, -1, -1).permute(0, 2, 3, 1)
    rows = -(-n // section.columns)
    page = Image.new("RGB", (WIDTH, rows * (side + 2)), "white")
    for i, tile in enumerate(np.ascontiguousarray(tiles.numpy())):
        row, column = divmod(i, section.columns)
        picture = Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC)
        page.paste(picture, (column * (side + 2), row * (side + 2)))
    return page
