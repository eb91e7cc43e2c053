"""Folders of synthetic heads, under the seed's names, in place of the licensed data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eyescream_py.image_model.heads import LOOK, POSE, SHAPE, Head, build_head, draw, render
from eyescream_py.image_model.ply import write_ply
from eyescream_py.image_model.prepare import save_grey, save_pixels
from eyescream_py.system.folders import new_folder
from eyescream_py.system.progress import each

SETS = ("Faces_depth", "Faces_real", "Faces_ND", "Faces_ND_test", "Faces_depth_test", "Faces_ply")


def make_head(seed: int, group: str, index: int, size: int) -> tuple[Head, np.ndarray, np.ndarray]:
    """Head number `index` of a `group` of people, its depth map and its photo, (size, size).

    The same numbers give the same head, however many others are made; groups share no person.
    """
    rng = np.random.default_rng([seed, SETS.index(group), index])
    shape, look, pose = draw(SHAPE, rng), draw(LOOK, rng), draw(POSE, rng)
    head = build_head(shape, look, pose, samples=4 * size)
    return head, *render(head, look, pose, size, rng)


def make_data(
    output: str | Path, size: int, unpaired: int, pairs: int, tests: int, meshes: int, seed: int
) -> None:
    """Write the folders of SETS below `output`; UserError if one of them holds files already.

    Faces_depth and Faces_real: `unpaired` depth maps, and photos of other people. Faces_ND: `pairs`
    of `_D` and `_I`. Faces_ND_test: `tests` pairs of new people, whose depth maps are
    in Faces_depth_test too. Faces_ply: `meshes` binary PLY files.
    """
    folders = {name: new_folder(Path(output) / name) for name in SETS[: 6 if meshes else 5]}
    jobs = [("Faces_depth", unpaired), ("Faces_real", unpaired), ("Faces_ND", pairs)]
    jobs += [("Faces_ND_test", tests), ("Faces_ply", meshes)]
    work = [(group, index) for group, count in jobs for index in range(count)]
    for group, index in each(work, "heads"):
        head, depth, photo = make_head(seed, group, index, size)
        path = folders[group] / f"{index:05d}"
        if group == "Faces_ply":
            write_ply(f"{path}.ply", head.mesh())
        if group in ("Faces_depth", "Faces_depth_test"):
            save_grey(Path(f"{path}.png"), depth)
        if group == "Faces_real":
            _save_photo(Path(f"{path}.png"), photo)
        if group in ("Faces_ND", "Faces_ND_test"):
            save_grey(Path(f"{path}_D.png"), depth)
            _save_photo(Path(f"{path}_I.png"), photo)
        if group == "Faces_ND_test":
            save_grey(folders["Faces_depth_test"] / f"{index:05d}.png", depth)


def _save_photo(path: Path, photo: np.ndarray) -> None:
    save_pixels(path, np.round(255 * photo).astype(np.uint8))
