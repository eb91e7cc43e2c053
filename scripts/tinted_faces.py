"""Gray photographs of faces -> coloured squares, for the network that comes with ganless-hd.

    python -m scripts.tinted_faces LFW_FOLDER OUT_FOLDER

Cuts the head out of every 250x250 photograph (140 px) and writes copies whose colours are not the
photograph's but a smooth field of random tints. A network trained on them learns to take the
colours from its 16x16 colour map, which it could not from grays. docs/ganless_hd.md has the
command that trains on the result.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from PIL import Image

HEAD = (55, 50, 195, 190)  # left, top, right, bottom in an LFW photograph
TINT_CELLS = 4
STRONGEST = 0.45  # of a channel's brightness


def tinted(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) uint8 -> (H, W, 3) uint8, of the same mean brightness where nothing saturates."""
    height, width = gray.shape
    tints = rng.uniform(-STRONGEST, STRONGEST, (TINT_CELLS, TINT_CELLS, 3))
    tints += rng.normal(0, 0.15, 3)  # one light over the whole picture
    tints -= tints.mean(2, keepdims=True)
    field = cv2.resize(tints.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(gray[..., None] * (1 + field), 0, 255).astype(np.uint8)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--copies", default=2, show_default=True)
def main(source: Path, target: Path, copies: int) -> None:
    """Write COPIES coloured squares for every .jpg below SOURCE into TARGET."""
    target.mkdir(parents=True, exist_ok=True)
    photos = sorted(source.rglob("*.jpg"))
    for number, path in enumerate(photos):
        with Image.open(path) as photo:
            gray = np.asarray(photo.convert("L").crop(HEAD))
        for copy in range(copies):
            picture = tinted(gray, np.random.default_rng((number, copy)))
            Image.fromarray(picture).save(target / f"{path.stem}_{copy}.jpg", quality=92)
    click.echo(f"{copies * len(photos)} pictures in {target}")


if __name__ == "__main__":
    main()
