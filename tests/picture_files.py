"""Picture files for tests, made from the pictures inside scikit-image's wheel."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data


def faces() -> np.ndarray:
    """uint8 (100,25,25)."""
    return np.rint(data.lfw_subset()[:100] * 255).astype(np.uint8)


def write_faces(folder: Path, count: int, suffix: str = ".png") -> list[Path]:
    """Gray 25x25 faces in files that keep them exactly; their names sort in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"face_{i:03d}{suffix}" for i in range(count)]
    for path, face in zip(paths, faces(), strict=False):
        Image.fromarray(face).save(path)
    return paths


def write_photos(folder: Path, count: int) -> list[Path]:
    """250x250 colour JPEGs in LFW's layout: different parts of the astronaut picture."""
    picture = Image.fromarray(data.astronaut())
    paths = []
    for i in range(count):
        path = folder / f"Person_{i // 2:02d}" / f"Person_{i // 2:02d}_{i % 2 + 1:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top = 17 * i % 260, 29 * i % 260
        picture.crop((left, top, left + 250, top + 250)).save(path, quality=95)
        paths.append(path)
    return paths
