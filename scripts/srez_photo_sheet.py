"""Ten photos, reduced until their faces are 16 pixels wide, then enlarged by `--run upscale`.

    python -m scripts.srez_photo_sheet FOLDER WORK SHEET.jpg

Every so many of FOLDER's pictures are taken; those in which no face is found are passed over. The
sheet shows before (pixels as squares), bicubic, ours, and the photo itself at the same size.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from eyescream_py.srez.data import list_pictures
from eyescream_py.srez.faces import find_faces
from eyescream_py.srez.options import Options
from eyescream_py.srez.photos import Photo, open_photo, resized
from eyescream_py.srez.upscale import run_upscale

PHOTOS = 10
FACE = 16
SCALE = 4
COLUMNS = 2


def reduced(photo: Photo) -> Photo | None:
    """The photo with its largest face FACE pixels wide; None where none is found."""
    faces = find_faces(photo)
    if not faces:
        return None
    ratio = FACE / faces[0][2]
    image = Image.fromarray(photo.pixels)
    size = [max(1, round(n * ratio)) for n in image.size]
    return Photo(np.asarray(image.resize((size[0], size[1]), Image.Resampling.BOX)))


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
def main(folder: Path, work: Path, sheet: Path) -> None:
    small = work / "small"
    if small.exists():
        raise click.BadParameter(f"{small} is there already; name another folder")
    small.mkdir(parents=True)
    photos = reduce_some(folder, small)
    if not photos:
        raise click.BadParameter(f"no face is found in the pictures of {folder}")
    run_upscale(Options(), (str(small),), "photo", str(work / "large"), torch.device("cpu"))
    _save([_row(photo, stem, work) for stem, photo in photos.items()], sheet)


def reduce_some(folder: Path, small: Path) -> dict[str, Photo]:
    """Up to PHOTOS photos with a face, by their names; reduced ones are written into `small`."""
    names = list_pictures(folder)
    photos: dict[str, Photo] = {}
    for name in names[:: max(1, len(names) // (2 * PHOTOS))]:
        if len(photos) == PHOTOS:
            break
        photo = open_photo(folder / name)
        before = reduced(photo)
        if before is not None:
            photos[Path(name).stem] = photo
            Image.fromarray(before.pixels).save(small / f"{Path(name).stem}.png")
    return photos


def _row(photo: Photo, stem: str, work: Path) -> np.ndarray:
    before = open_photo(work / "small" / f"{stem}.png")
    ours = open_photo(work / "large" / f"{stem}_x{SCALE}.png")
    size = (ours.width, ours.height)
    squares = before.pixels.repeat(SCALE, 0).repeat(SCALE, 1)
    row = [squares, resized(before.pixels, *size), ours.pixels, resized(photo.pixels, *size)]
    return np.concatenate(row, 1)


def _save(rows: list[np.ndarray], path: Path) -> None:
    """Rows side by side in COLUMNS columns, on white."""
    tall, wide = (max(row.shape[i] for row in rows) + 6 for i in (0, 1))
    lines = -(-len(rows) // COLUMNS)
    canvas = np.full((tall * lines, wide * COLUMNS, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        y, x = i // COLUMNS * tall, i % COLUMNS * wide
        canvas[y : y + row.shape[0], x : x + row.shape[1]] = row
    Image.fromarray(canvas).save(path, quality=90)


if __name__ == "__main__":
    main()
