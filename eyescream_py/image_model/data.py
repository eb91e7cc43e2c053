"""Folders of pictures as shuffled batches.

Every picture is read once, resized, and kept as 8 bit between its own minimum and maximum, so a
data set of 13,000 faces at 128 px takes 217 MB. A batch is float32 with mean 0 and a span of
exactly 1 per picture, hence inside [-1, 1]: the seed's preprocessing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from eyescream_py.data.pictures import ENDINGS, IN_WORDS, PictureError, read_pixels
from eyescream_py.data.walk import walk
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.progress import each
from eyescream_py.system.text import read_lines
from eyescream_py.system.voice import counted, say, warn

_PAIR = re.compile(r"^(?P<name>.+)_(?P<side>[DI])$")


def list_pictures(folder: str | Path, flag: str) -> list[Path]:
    """The picture files of `folder`, at any depth, sorted by path; one line counts what else is
    there. UserError if there are none.
    """
    return list_files(folder, ENDINGS, f"pictures ({IN_WORDS})", flag)


def list_files(
    folder: str | Path, endings: Sequence[str], words: str, flag: str, beside: Sequence[str] = ()
) -> list[Path]:
    """The same for files of any `endings`, called `words` where there are none; those that end as
    `beside` says belong to them, and are not counted.
    """
    if not Path(folder).is_dir():
        wrong = "is no folder" if Path(folder).exists() else "does not exist"
        raise UserError(f"{flag}: {folder} {wrong}; name a folder")
    try:
        found = walk(folder, (*endings, *beside))
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be read ({why(error)})") from None
    line = found.line()
    files = [path for path in found.paths if path.name.lower().endswith(tuple(endings))]
    if not files:
        raise UserError(f"{flag}: {folder} holds no {words}{line and f' ({line})'}")
    if line:
        warn(f"{folder}: {line}")
    return files


def by_stem(files: list[Path], flag: str) -> dict[str, Path]:
    """name without ending -> file; UserError where two files differ in their ending only."""
    return by_name({path: path.stem for path in files}, flag)


def by_name(names: dict[Path, str], flag: str) -> dict[str, Path]:
    """The names of files -> the files; UserError where two have one."""
    named = {name: path for path, name in names.items()}
    for path, name in names.items():
        if named[name] != path:
            raise UserError(
                f"{flag}: {path} and {named[name]} have one name but for folder and ending; "
                "rename one of them"
            )
    return named


def read_picture(path: Path, channels: int) -> np.ndarray:
    """A picture as float32 (channels, H, W) in 0..255; `channels` 1 is grey, 3 is RGB. Depth maps
    of more than 8 bits keep their depth as fractions.

    Raises UserError where the file is no readable picture.
    """
    try:
        values = read_pixels(path, "L" if channels == 1 else "RGB")
    except PictureError as error:
        raise UserError(
            f"{path}: cannot be read as a picture ({error}); remove or replace it"
        ) from None
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return np.broadcast_to(planes, (channels, *planes.shape[1:]))


def resize(planes: np.ndarray, size: int) -> np.ndarray:
    """(C, H, W) -> (C, size, size) by cubic-spline zoom, as the seed did."""
    if planes.shape[1:] == (size, size):
        return planes
    factors = (1, size / planes.shape[1], size / planes.shape[2])
    return ndimage.zoom(planes, factors, order=3, mode="nearest")


def stretch(planes: np.ndarray) -> np.ndarray | None:
    """Minimum to 0, maximum to 1; None for a constant or non-finite picture, which has no range."""
    low, high = float(planes.min()), float(planes.max())
    if not np.isfinite(high - low) or high - low <= 1e-6 * max(abs(low), abs(high), 1e-6):
        return None
    return (planes - low) / (high - low)


def to_bytes(planes: np.ndarray) -> np.ndarray:
    """uint8 of the same shape, minimum to 0 and maximum to 255; a constant picture is 0."""
    stretched = stretch(planes)
    return np.round(255 * (np.zeros_like(planes) if stretched is None else stretched)).astype("u1")


def load_picture(path: Path, size: int, channels: int) -> np.ndarray | None:
    """uint8 (C, size, size) from 0 to exactly 255, or None for a constant picture."""
    stretched = stretch(resize(read_picture(path, channels), size))
    return None if stretched is None else np.round(255 * stretched).astype(np.uint8)


def normalise(stored: Tensor) -> Tensor:
    """uint8 (N, C, S, S) -> float32 with mean 0 and, where the bytes span 0..255, a span of 1."""
    return centred(stored.float() / 255)


def centred(batch: Tensor) -> Tensor:
    """(N, C, S, S) with each picture's mean taken off."""
    return batch - batch.mean((1, 2, 3), keepdim=True)


class ShuffledQueue:
    """Indices 0..count-1 in random order, shuffled anew when used up."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count = count
        self.rng = rng
        self._waiting: list[int] = []

    def draw(self, number: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < number:
            if not self._waiting:
                self._waiting = self.rng.permutation(self.count).tolist()
            taken = number - len(drawn)
            drawn += self._waiting[:taken]
            self._waiting = self._waiting[taken:]
        return drawn

    def state(self) -> list[int]:
        return self._waiting

    def load_state(self, waiting: list[int]) -> None:
        """Go on where `state()` was taken; one of another data set starts a new round."""
        fits = all(isinstance(i, int) and 0 <= i < self.count for i in waiting)
        self._waiting = list(waiting) if fits and len(waiting) <= self.count else []


@dataclass(frozen=True)
class Augmentation:
    """How a drawn picture is changed, both pictures of a pair alike: mirrored half the time, and
    enlarged by `crop` pixels before a window of the old size is cut at a random place.
    """

    flip: bool = False
    crop: int = 0

    def __call__(self, sides: tuple[Tensor, ...], rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Float pictures (N, C, S, S) per side -> the same shapes."""
        count, size = len(sides[0]), sides[0].shape[-1]
        if self.crop:
            corners = rng.integers(0, self.crop + 1, (count, 2)).tolist()
            sides = tuple(_windows(side, size + self.crop, corners) for side in sides)
        if self.flip:
            mirrored = torch.from_numpy(rng.random(count) < 0.5)
            chosen = mirrored.to(sides[0].device, non_blocking=True)[:, None, None, None]
            sides = tuple(torch.where(chosen, side.flip(-1), side) for side in sides)
        return sides


def _windows(pictures: Tensor, enlarged: int, corners: list[list[int]]) -> Tensor:
    """Each of (N, C, S, S) enlarged to `enlarged` pixels and cut to S x S at its corner."""
    size = pictures.shape[-1]
    large = F.interpolate(pictures, (enlarged, enlarged), mode="bilinear")
    cut = [p[:, y : y + size, x : x + size] for p, (y, x) in zip(large, corners, strict=True)]
    return torch.stack(cut)


@dataclass
class Pictures:
    """One domain, or both sides of a paired set: uint8 (N, C, S, S) tensors of equal N."""

    sides: tuple[Tensor, ...]
    names: list[str]
    queue: ShuffledQueue
    augmentation: Augmentation = Augmentation()

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Pictures:
        """The same pictures with their tensors on `device`; the queue goes along."""
        return replace(self, sides=tuple(side.to(device) for side in self.sides))

    def turned(self) -> Pictures:
        """The same pairs with source and target exchanged."""
        return replace(self, sides=self.sides[::-1])

    def draw(self, number: int) -> tuple[Tensor, ...]:
        """A normalised batch (number, C, S, S) per side, augmented."""
        drawn_now = torch.tensor(self.queue.draw(number))
        indices = drawn_now.to(self.sides[0].device, non_blocking=True)
        drawn = tuple(side[indices].float() / 255 for side in self.sides)
        return tuple(centred(side) for side in self.augmentation(drawn, self.queue.rng))

    def all(self) -> tuple[Tensor, ...]:
        """Every picture, normalised, in the order of `names`."""
        return tuple(normalise(side) for side in self.sides)


def load_rows(
    rows: list[tuple[Path, ...]],
    names: list[str],
    size: int,
    channels: int,
    rng: np.random.Generator,
) -> Pictures:
    """Decode rows of files, one per side; rows with a constant or broken picture are left out, and
    said. UserError where no row is left.
    """
    kept, kept_names, constant = [], [], []
    broken: list[str] = []
    for row, name in each(list(zip(rows, names, strict=True)), "pictures"):
        try:
            decoded = [load_picture(path, size, channels) for path in row]
        except UserError as error:
            broken.append(error.message)
            continue
        if any(picture is None for picture in decoded):
            constant.append(name)
            continue
        kept.append([torch.from_numpy(picture) for picture in decoded])
        kept_names.append(name)
    if constant:
        say(
            f"Left out {counted(len(constant), 'constant picture')}, {constant[0]} first: nothing "
            "to learn."
        )
    if broken:
        if not kept:
            raise UserError(broken[0])
        warn(f"left out: {len(broken)} broken, {broken[0]}")
    if not kept:
        raise UserError(f"{rows[0][0].parent}: holds only constant pictures; give others")
    sides = tuple(torch.stack(side) for side in zip(*kept, strict=True))
    return Pictures(sides, kept_names, ShuffledQueue(len(kept_names), rng))


def load_folder(
    folder: str | Path, flag: str, size: int, channels: int, rng: np.random.Generator
) -> Pictures:
    """One domain: the pictures of `folder`, at any depth."""
    files = list_pictures(folder, flag)
    return load_rows([(p,) for p in files], [p.stem for p in files], size, channels, rng)


def find_pairs(folder: str | Path, flag: str) -> dict[str, tuple[Path, Path]]:
    """name -> (depth map `<name>_D.*`, photo `<name>_I.*`) of a paired folder.

    Raises UserError where a file has no partner or no such ending.
    """
    found: dict[str, dict[str, Path]] = {}
    for stem, path in by_stem(list_pictures(folder, flag), flag).items():
        match = _PAIR.match(stem)
        if not match:
            raise UserError(f"{flag}: {path} is named neither NAME_D nor NAME_I; move it elsewhere")
        found.setdefault(match["name"], {})[match["side"]] = path
    lonely = sorted(name for name, sides in found.items() if len(sides) != 2)
    if lonely:
        raise UserError(
            f"{flag}: {lonely[0]} in {folder} lacks its _D or its _I picture "
            f"({len(lonely)} such in all); add the partner or remove the file"
        )
    return {name: (sides["D"], sides["I"]) for name, sides in sorted(found.items())}


def load_pairs(
    folder: str | Path, flag: str, size: int, channels: int, rng: np.random.Generator
) -> Pictures:
    """The paired set of `folder`: sides (depth maps, photos)."""
    pairs = find_pairs(folder, flag)
    return load_rows(list(pairs.values()), list(pairs), size, channels, rng)


def read_pair_list(path: str | Path) -> list[tuple[str, str]]:
    """(name of the one picture, of the other) per line, separated by a tab; UserError."""
    try:
        lines = read_lines(path)
    except OSError as error:
        raise UserError(f"--pair_list: {path} cannot be read ({why(error)})") from None
    rows = [line.split("\t") for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(name.strip() for name in row):
            raise UserError(
                f"--pair_list: {path}, pair {number}: give two names with a tab between"
            )
    if not rows:
        raise UserError(f"--pair_list: {path} holds no pairs")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def load_listed(
    listing: str | Path,
    folders: tuple[str, str],
    size: int,
    channels: int,
    rng: np.random.Generator,
) -> Pictures:
    """The pairs that the file `listing` names in `folders` (source, target)."""
    names = read_pair_list(listing)
    rows = [(Path(folders[0]) / one, Path(folders[1]) / other) for one, other in names]
    missing = next((path for row in rows for path in row if not path.is_file()), None)
    if missing:
        raise UserError(f"--pair_list: {listing} names {missing}, which is not there")
    return load_rows(list(rows), [Path(one).stem for one, _ in names], size, channels, rng)
