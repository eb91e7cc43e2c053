"""Training pictures: decoded once, kept as uint8 on the training device, drawn by index.

`load_dataset` is the way in. It takes a folder of pictures, a Torch 7 file with an (N,C,H,W)
tensor, or, where the default folder does not exist, the faces embedded in scikit-image.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyescream_py.data import embedded
from eyescream_py.data.cache import cached_rows
from eyescream_py.data.decode import decode_all, decode_files
from eyescream_py.data.pictures import ENDINGS, IN_WORDS
from eyescream_py.data.walk import FoundFile, Walk, walk
from eyescream_py.system.device import free_memory
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.places import as_script, dataset_folder, own_cache
from eyescream_py.system.voice import counted, printable, say

DEFAULT_FOLDER = dataset_folder() / "out_aug_64x64"
EMBEDDED = "embedded"
EMBEDDED_NAME = "100 embedded LFW faces of scikit-image"
BROKEN_SHARE = 0.05  # a folder with more broken pictures than this (and more than one) is refused
VALIDATION_SHARE = 0.1
RESIDENT_SHARE = 0.5  # of a device's free memory, for the whole data set
CODE_VERSION = 2  # of what decoding makes of a file; raise it when the pixels change
_AUGMENTED_NAME = re.compile(r"(\d{6})_\d{3}\.\w+$")  # generate_dataset.py's IIIIII_AAA.jpg


@dataclass(frozen=True)
class Dataset:
    """Pictures and the words that name them.

    images: uint8 (N,C,H,W), or float in 0..1 where a Torch 7 file gave such. borders: ascending row
    numbers at which a new source picture begins; None: every row is a picture of its own. target:
    the device that rows are handed out on, where it is not the one that holds them.
    """

    images: torch.Tensor
    name: str
    borders: tuple[int, ...] | None = None
    target: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where rows are handed out."""
        return self.target or self.images.device

    @property
    def streamed(self) -> bool:
        """Too large for the device: the pictures stay in host memory."""
        return self.device != self.images.device

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, indices: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(n,C,H,W) in 0..1 of the rows `indices` (int64, on `device`); fit for CUDA graph capture
        unless `streamed`."""
        rows = self.images.index_select(0, indices.to(self.images.device)).to(self.device)
        return rows.to(dtype).div_(255) if rows.dtype == torch.uint8 else rows.to(dtype)

    def split(self, validation: int, force: bool = False) -> tuple[Dataset, Dataset]:
        """(validation, training): the first `validation` rows, and the others.

        At most a tenth of the rows validates unless `force` says that the number is meant. The cut
        is moved down to where a new source picture begins, so that copies of one picture never
        stand on both sides; only where the first picture alone is more than that, it is moved up.
        Raises UserError where one of the two would be empty.
        """
        if force and validation >= len(self):
            raise UserError(
                f"--validation={validation}: {self.name} holds {counted(len(self), 'image')}, and "
                "some have to train; give a smaller number"
            )
        wanted = validation if force else min(validation, int(len(self) * VALIDATION_SHARE))
        cut = self._picture_border(max(wanted, 1))
        if self.borders is not None and not any(self.borders):
            raise UserError(
                f"{self.name}: there are copies of one picture only, which cannot both "
                "train and validate; give more pictures"
            )
        if not 0 < cut < len(self):
            raise UserError(
                f"{self.name}: {counted(len(self), 'image')} cannot be split into {validation} for "
                "validation and some for training; give more pictures"
            )
        return self.rows(0, cut), self.rows(cut, len(self))

    def _picture_border(self, wanted: int) -> int:
        if self.borders is None:
            return wanted
        inner = [border for border in self.borders if border > 0]
        return max((b for b in inner if b <= wanted), default=min(inner, default=len(self)))

    def rows(self, start: int, stop: int) -> Dataset:
        """The pictures from row `start` up to `stop`, sharing memory."""
        borders = self.borders
        if borders is not None:
            borders = tuple(b - start for b in borders if start <= b < stop)
        return Dataset(self.images[start:stop], self.name, borders, self.target)


def load_dataset(
    path: str | Path | None,
    channels: int,
    size: int,
    device: torch.device | str = "cpu",
    *,
    cache: bool = True,
    progress: bool = True,
    augment_seed: int = 43,
    sized_by: str = "",
) -> Dataset:
    """Pictures as (N,channels,size,size) on `device`; prints what it loads in Lua's words.

    path: a folder of pictures (data/pictures.py says of which formats) at any depth, a `.t7` file
    of pictures (data/tensor_files.py says in which forms), `embedded`, or None for the default
    folder, without which the embedded faces are used. cache: keep the decoded pixels on disk and
    take them from there when the folder has not changed. augment_seed: of the embedded faces'
    copies. sized_by: the flags that decide channels and size, for the error where a file has
    others. Raises UserError where the pictures cannot be had.
    """
    say("Loading new training data...")
    if path is None:
        path = DEFAULT_FOLDER
        if not DEFAULT_FOLDER.exists():
            say(f"No folder {_shown(DEFAULT_FOLDER)}: using the {EMBEDDED_NAME}.")
            path = EMBEDDED
    if not str(path):
        raise UserError("the data set's path is empty; give a folder of pictures or a .t7 file")
    if path == EMBEDDED:
        data = _load_embedded(channels, size, augment_seed)
    elif Path(path).suffix.lower() == ".t7":
        data = _load_t7(Path(path), channels, size, sized_by)
    else:
        data = _load_folder(Path(path), channels, size, cache, progress)
    return _placed(data, torch.device(device))


def _placed(data: Dataset, device: torch.device) -> Dataset:
    """On the device where it takes a part of the free memory, else in host memory (a large cache
    stays on disk, mapped), from which every epoch's pictures are brought."""
    free = free_memory(device)
    if free is not None and data.images.nbytes > RESIDENT_SHARE * free:
        say(
            f"<dataset> {data.images.nbytes / 1e9:.0f} GB of pictures stay in host memory: the "
            f"device has {free / 1e9:.0f} GB free"
        )
        return Dataset(data.images, data.name, data.borders, device)
    return Dataset(data.images.to(device), data.name, data.borders)


def _shown(path: Path) -> str:
    """The shorter of the absolute and the relative way to write a path."""
    return printable(min(str(path), os.path.relpath(path), key=len))


def _load_embedded(channels: int, size: int, seed: int) -> Dataset:
    images = embedded.augmented_faces(channels, size, seed)
    say(f"<dataset> Loaded {embedded.PICTURES} filepaths")
    borders = tuple(range(0, len(images), embedded.COPIES))
    return Dataset(images, EMBEDDED_NAME, borders)


def _load_t7(path: Path, channels: int, size: int, sized_by: str) -> Dataset:
    # imported here, since most runs have no use for Torch 7's reader
    from eyescream_py.data.tensor_files import read_pictures

    images = read_pictures(path, channels, size, sized_by)
    say(f"<dataset> Loaded {len(images)} filepaths")
    return Dataset(images, _shown(path))


def _load_folder(folder: Path, channels: int, size: int, cache: bool, progress: bool) -> Dataset:
    found = _listed(folder)
    names = found.names
    say(f"<dataset> Loaded {len(names)} filepaths")
    shape = (len(names), channels, size, size)

    def fill(rows: np.ndarray) -> dict[str, Any]:
        broken = decode_all(folder, names, rows, progress)
        _refuse_too_many(folder, len(names), broken)
        return {"broken": broken}

    if cache:
        rows, notes = _cached(folder, found.files, shape, fill)
    else:
        rows = np.empty(shape, np.uint8)
        notes = fill(rows)
    broken = _still_broken(folder, names, rows, notes["broken"])
    if line := found.line(broken):
        say(line)
    if broken:
        out = {name for name, _ in broken}
        keep = np.array([name not in out for name in names])
        rows, names = rows[keep], [name for name in names if name not in out]
    return Dataset(torch.from_numpy(rows), _shown(folder), _borders(names))


def _still_broken(
    folder: Path, names: list[str], rows: np.ndarray, broken: Sequence[Sequence[str]]
) -> list[tuple[str, str]]:
    """Those of `broken` that still are; the others are put into `rows`. A cache names what was
    forbidden, or larger than the memory, on the day it was made."""
    places = {name: row for row, name in enumerate(names)}
    again = decode_files(folder, [name for name, _ in broken], *rows.shape[1:3])
    reasons = dict(again.broken)
    for number, (name, _) in enumerate(broken):
        if number not in reasons:
            rows[places[name]] = again.rows[number]
    return [(broken[number][0], reason) for number, reason in again.broken]


def _listed(folder: Path) -> Walk:
    if folder.is_file():
        raise UserError(f"{_shown(folder)} is a file; give a folder of pictures or a .t7 file")
    try:
        found = walk(folder, ENDINGS)
    except FileNotFoundError as error:
        raise UserError(f"the data set folder {_shown(folder)} does not exist") from error
    except OSError as error:
        reason = why(error)
        raise UserError(f"cannot read the data set folder {_shown(folder)}: {reason}") from error
    if not found.files:
        left_out = f" ({found.line()})" if found.line() else ""
        raise UserError(
            f"no pictures ({IN_WORDS}) in the data set folder {_shown(folder)} or below it"
            f"{left_out}; {as_script('dataset/generate_dataset')} makes them from LFW"
        )
    return found


def _cached(
    folder: Path, pictures: Sequence[FoundFile], shape: tuple[int, ...], fill: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    content = "\n".join(f"{p.name}\0{p.size}\0{p.mtime}" for p in pictures)
    home = str(folder.resolve())
    key = {
        "code_version": CODE_VERSION,
        "folder": home,
        "files": len(pictures),
        "content": _digest(content),
        "channels": shape[1],
        "size": shape[2],
    }
    name = f"{folder.resolve().name:.60}_{shape[1]}x{shape[2]}x{shape[2]}_{_digest(home)[:8]}"
    try:
        return cached_rows(_cache_folder(folder) / name, key, shape, fill)
    except OSError as error:
        say(f"Not keeping the decoded pictures on disk: {why(error)}")
        rows = np.empty(shape, np.uint8)
        return rows, fill(rows)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _cache_folder(folder: Path) -> Path:
    """`.cache` beside the data set where that can be written, else the person's own cache folder.

    Raises OSError where there is none (a container's user often has no home).
    """
    beside = folder.resolve().parent
    if os.access(beside, os.W_OK):
        return beside / ".cache"
    return own_cache()


def _refuse_too_many(folder: Path, files: int, broken: list[tuple[str, str]]) -> None:
    if len(broken) == files or len(broken) > max(1, BROKEN_SHARE * files):
        raise UserError(
            f"{len(broken)} of {files} pictures in {_shown(folder)} are broken: {_named(broken)}; "
            "repair or remove them"
        )


def _named(broken: Sequence[Sequence[str]], most: int = 3) -> str:
    named = ", ".join(f"{name} ({reason})" for name, reason in broken[:most])
    return printable(named) + (f" and {len(broken) - most} more" if len(broken) > most else "")


def _borders(names: list[str]) -> tuple[int, ...] | None:
    """Where a new picture begins among names sorted like generate_dataset.py's; None for other
    folders."""
    matches = [_AUGMENTED_NAME.search(name) for name in names]
    if not all(matches):
        return None
    pictures = [match[1] for match in matches if match]
    return tuple(i for i, picture in enumerate(pictures) if i == 0 or pictures[i - 1] != picture)
