"""The files that the documents speak of, small: a folder of photos, an old checkpoint, a scan.

Faces are the 100 that scikit-image brings, checkpoints those of `tests/golden`, photographs are
rendered, but for the astronaut's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from skimage.data import astronaut

from eyescream_py import torch7
from eyescream_py.data.embedded import embedded_faces
from eyescream_py.srez.make_data import render_face

GOLDEN = Path("tests/golden")


def write_reader_files(place: Path) -> None:
    """Write them into `place`, a copy of the project."""
    faces = (embedded_faces()[:, 0] * 255).round().byte().numpy()  # [100,25,25]
    for folder, first in (("FOLDER", 0), ("PEOPLE", 50)):
        _write_faces(place / folder, faces[first : first + 50])
    np.save(place / "pictures.npy", np.kron(faces[:40, :16, :16], np.ones((1, 1, 1), np.uint8)))
    _write_lfw(place / "LFW", 30)
    for folder in ("photos", "more/photos"):
        _write_photos(place / folder, 6)
    _write_portraits(place / "PHOTOS", 6)
    photo = _photo(99)
    photo.save(place / "me.jpg", quality=95)
    photo.resize((1200, 1400)).save(place / "huge.jpg", quality=95)
    drawing = photo.convert("L").filter(ImageFilter.FIND_EDGES)
    drawing.point(lambda value: 0 if value > 40 else 255).save(place / "sketch.png")
    shutil.copy(place / GOLDEN / "adversarial_mini.net", place / "old.net")
    shutil.copy(place / GOLDEN / "train_images.t7", place / "train_images.t7")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    torch7.save(place / "old.t7", torch7.from_module(network))


def _write_faces(folder: Path, faces: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, face in enumerate(faces):
        Image.fromarray(face).resize((64, 64)).save(folder / f"face_{number:03d}.png")


def _photo(seed: int) -> Image.Image:
    return render_face(seed).resize((250, 306)).crop((0, 28, 250, 278))


def _write_photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        _photo(number).save(folder / f"photo_{number}.jpg", quality=95)


def _write_portraits(folder: Path, count: int) -> None:
    """Parts of a real photograph that a detector finds a face in."""
    folder.mkdir(parents=True)
    picture = Image.fromarray(astronaut())
    for number in range(count):
        left, top = 60 + 8 * number, 5 * number
        box = (left, top, left + 320, top + 320)
        picture.crop(box).save(folder / f"portrait_{number}.jpg", quality=95)


def _write_lfw(folder: Path, count: int) -> None:
    """LFW's layout: 250x250 photographs, one folder per person, two of each."""
    for number in range(count):
        person = f"Person_{number // 2:02d}"
        (folder / person).mkdir(parents=True, exist_ok=True)
        path = folder / person / f"{person}_{number % 2 + 1:04d}.jpg"
        _photo(1000 + number).save(path, quality=95)
