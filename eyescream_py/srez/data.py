"""Face files -> 144x144 windows (uint8) with the colour means of their whole frames, cached on
disk.

The original augments the whole frame and then cuts a fixed 144x144 window. Cutting first gives the
same picture: the window lies symmetrically, so flipping commutes, and of the rest of the frame only
its colour means matter (contrast turns around them), which are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from eyescream_py.data import pictures
from eyescream_py.data.walk import walk
from eyescream_py.system.device import free_memory
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write, reserve
from eyescream_py.system.folders import make_folder
from eyescream_py.system.places import as_module
from eyescream_py.system.progress import Progress
from eyescream_py.system.text import read_lines
from eyescream_py.system.voice import counted, warn

WINDOW_SIDE = 144
DECODER = 2  # part of the cache's names: raised when a file decodes to other windows or means
LEFT_OUT_SHOWN = 3
FIXED_WINDOWS = {
    "celeba": (17, 52, "CelebA's align-and-crop pictures have 178x218"),
    "lfw": (53, 53, "LFW's pictures have 250x250"),
}
DECODE_THREADS = 4


@dataclass(frozen=True)
class Faces:
    """Some rows of the decoded pictures: windows (M,3,144,144) uint8 and, 0..1, the frames' mean R,
    G, B and max(R,G,B) (M,4) float32 are shared by all subsets of a data set; `rows` (N,) says
    which ones these faces are.
    """

    windows: Tensor
    means: Tensor
    rows: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, positions: list[int]) -> Faces:
        """The faces at `positions`; the decoded windows are shared."""
        names = tuple(self.names[i] for i in positions) if self.names else ()
        return Faces(self.windows, self.means, self.rows[positions], names)

    def pick(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(windows, means) of the faces at `positions` (n,)."""
        rows = self.rows[positions].to(self.windows.device, non_blocking=True)
        return self.windows[rows], self.means[rows]

    def to(self, device: torch.device) -> Faces:
        """On the device where the windows fit into half of its free memory, else where they are."""
        free = free_memory(device)
        if free is not None and self.windows.nbytes > free // 2:
            return self
        return Faces(self.windows.to(device), self.means.to(device), self.rows, self.names)

    def are_grey(self) -> bool:
        """Whether the first faces hold one channel three times."""
        windows, _ = self.pick(torch.arange(min(len(self), 64)))
        return bool((windows == windows[:, :1]).all())


def list_pictures(
    folder: str | Path, flag: str = "--dataset=", without: Iterable[Path] = ()
) -> list[str]:
    """Sorted names, relative to `folder`, of the pictures in it and below it, but for the folders
    `without`; one line counts what else is there. UserError where there are none.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}{folder}: this is a file, give the folder that holds it")
    if not folder.is_dir():
        raise UserError(
            f"{flag}{folder}: no such folder; `{as_module('srez.make_data')}` renders "
            f"test faces, `{as_module('srez.download_data')}` fetches CelebA"
        )
    found = walk(folder, pictures.ENDINGS, without)
    if not found.names:
        left_out = f" ({found.line()})" if found.line() else ""
        raise UserError(f"{flag}{folder}: no pictures ({pictures.IN_WORDS}) in it{left_out}")
    if found.line():
        warn(f"{folder}: {found.line()}")
    return found.names


def open_picture(path: str | Path) -> Image.Image:
    """An RGB picture, upright, on white where it is transparent; UserError, naming the file, where
    it cannot be decoded.
    """
    try:
        return pictures.open_picture(path, "RGB")
    except pictures.PictureError as error:
        raise UserError(f"{path}: not a readable picture ({error})") from None


def cut_window(image: Image.Image, crop: str, path: str | Path) -> Image.Image:
    """The 144x144 window: CelebA's or LFW's fixed box, or (`none`) the largest centred square,
    resized.

    LFW's box (53,53)-(197,197) is the middle of its 250x250: the face with its hair, the part with
    real pixels, framed as CelebA's window frames it, without resampling.
    """
    demand_window(image.width, image.height, crop, path)
    if crop == "none":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        return image.resize((WINDOW_SIDE, WINDOW_SIDE), Image.Resampling.BOX, box)
    left, top, _ = FIXED_WINDOWS[crop]
    return image.crop((left, top, left + WINDOW_SIDE, top + WINDOW_SIDE))


def demand_window(width: int, height: int, crop: str, path: str | Path) -> None:
    """UserError, naming the picture, where `crop` does not fit into width x height pixels."""
    if crop == "none":
        if min(width, height) < WINDOW_SIDE // 2:
            raise UserError(f"{path}: {width}x{height} is too small, at least 72x72 is needed")
        return
    left, top, usual = FIXED_WINDOWS[crop]
    if width < left + WINDOW_SIDE or height < top + WINDOW_SIDE:
        raise UserError(
            f"{path}: {width}x{height} is too small for --crop={crop} ({usual}); "
            "--crop=none takes any face picture"
        )


def decode(path: Path, crop: str) -> tuple[np.ndarray, np.ndarray]:
    """One file -> window (144,144,3) uint8 and the frame's (4,) colour means; `none` has the window
    as its frame.
    """
    image = open_picture(path)
    window = np.asarray(cut_window(image, crop, path))
    frame = window if crop == "none" else np.asarray(image)
    means = [*frame.mean((0, 1)), frame.max(2).mean()]
    return window, np.asarray(means, np.float32) / 255


def load_faces(folder: str | Path, names: list[str], crop: str, cache_dir: str = "") -> Faces:
    """Decode `names` below `folder`, or take them from the cache, which any changed file makes
    stale. Pictures that cannot be used are left out and told; UserError where none can.
    """
    paths = [Path(folder) / name for name in names]
    if cache_dir:
        windows, means = _cached(Path(cache_dir), paths, names, crop)
    else:
        windows, means = _decode_all(paths, crop)
    usable = ~np.isnan(means[:, 0])
    broken = [paths[i] for i in np.flatnonzero(~usable)]
    if len(broken) == len(paths):
        decode(paths[0], crop)  # says why
    for path in broken[:LEFT_OUT_SHOWN]:
        warn(f"left out: {_reason(path, crop)}")
    if len(broken) > LEFT_OUT_SHOWN:
        warn(f"left out: {counted(len(broken) - LEFT_OUT_SHOWN, 'more picture')}")
    rows = np.flatnonzero(usable)
    kept = tuple(names[i] for i in rows)
    return Faces(torch.from_numpy(windows), torch.from_numpy(means), torch.from_numpy(rows), kept)


def _reason(path: Path, crop: str) -> str:
    try:
        decode(path, crop)
    except UserError as error:
        return str(error)
    return f"{path}: changed while it was read"


def split_digest(train: Faces, test: Faces, crop: str) -> str:
    """Which pictures a run learns from and which it never sees, as a short text to compare."""
    text = json.dumps([crop, sorted(train.names), sorted(test.names)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _cached(
    folder: Path, paths: list[Path], names: list[str], crop: str
) -> tuple[np.ndarray, np.ndarray]:
    """Windows as a memory map, so that a data set larger than memory can be drawn from."""
    key = _key(paths, names, crop)
    files = [folder / f"{key}.{part}.npy" for part in ("windows", "means")]
    if not all(file.is_file() for file in files):
        make_folder(folder)
        with atomic_write(files[0]) as out:
            windows = _mapped(out, (len(paths), 3, WINDOW_SIDE, WINDOW_SIDE))
            means = _decode_into(windows, paths, crop)
            windows.flush()
        with atomic_write(files[1]) as out:
            np.save(out, means)
    return np.load(files[0], mmap_mode="c"), np.load(files[1])


def _key(paths: list[Path], names: list[str], crop: str) -> str:
    facts = [[n, p.stat().st_size, p.stat().st_mtime_ns] for n, p in zip(names, paths, strict=True)]
    text = json.dumps([crop, WINDOW_SIDE, DECODER, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _mapped(file: BinaryIO, shape: tuple[int, ...]) -> np.memmap:
    """Bytes of an .npy file to be filled in place: those of CelebA's faces are 12.6 GB. Raises
    OSError where the disk lacks the room, which under a map would end the process.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)
    start = file.tell()
    reserve(file, math.prod(shape), start)
    return np.memmap(file, np.uint8, "r+", start, shape)


def _decode_all(paths: list[Path], crop: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows and means of all."""
    windows = np.zeros((len(paths), 3, WINDOW_SIDE, WINDOW_SIDE), np.uint8)
    return windows, _decode_into(windows, paths, crop)


def _decode_into(windows: np.ndarray, paths: list[Path], crop: str) -> np.ndarray:
    """Fill the windows; returns the means, which of a picture that cannot be used are NaN."""
    means = np.full((len(paths), 4), np.nan, np.float32)

    def decode_one(i: int) -> None:
        with contextlib.suppress(UserError):
            window, means[i] = decode(paths[i], crop)
            windows[i] = window.transpose(2, 0, 1)

    with ThreadPoolExecutor(DECODE_THREADS) as pool, Progress(len(paths), "pictures") as progress:
        for _ in pool.map(decode_one, range(len(paths))):
            progress.update(1)
    return means


def split(
    names: list[str], test_vectors: int, seed: int, test_list: str = ""
) -> tuple[list[int], list[int]]:
    """Indices (train, test) into `names`.

    Without a list: sorted groups, seeded shuffle, the last `test_vectors` pictures are the test
    set. A group is one file, or in a data set with a folder per person one folder: whoever is
    tested on is never trained on. With a list: the pictures it names, or counts from 1 (the fork
    held out CelebA numbers).
    """
    if test_list:
        test = _listed(names, test_list)
        held_out = set(test)
    else:
        groups = _groups(names)
        random.Random(seed).shuffle(groups)  # noqa: S311
        backwards: list[int] = []
        while groups and len(backwards) < test_vectors:
            backwards += reversed(groups.pop())
        test, held_out = backwards[:test_vectors][::-1], set(backwards)
    train = [i for i in range(len(names)) if i not in held_out]
    if not train:
        raise UserError(
            f"{counted(len(names), 'picture')}, {len(held_out)} of them held out: none is left to "
            "train on; give a larger --dataset or smaller --test_vectors"
        )
    return train, test


def _groups(names: list[str]) -> list[list[int]]:
    folders: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        folder = str(Path(name).parent)
        folders.setdefault(name if folder == "." else folder, []).append(i)
    if len(folders) == 1:  # one folder with everything in it says nothing about persons
        return [[i] for i in range(len(names))]
    return list(folders.values())


def _listed(names: list[str], test_list: str) -> list[int]:
    try:
        lines = read_lines(test_list)
    except OSError as error:
        reason = why(error)
        raise UserError(f"--test_list={test_list}: cannot be read ({reason})") from None
    index = {name: i for i, name in enumerate(names)}
    test = []
    for entry in _entries(lines, index):
        i = _count(entry) - 1 if entry.isascii() and entry.isdigit() else index.get(entry, -1)
        if not 0 <= i < len(names):
            raise UserError(f"--test_list={test_list}: {entry[:100]} is no picture of {len(names)}")
        test.append(i)
    if not test:
        raise UserError(f"--test_list={test_list}: names no picture")
    return list(dict.fromkeys(test))


def _entries(lines: list[str], index: dict[str, int]) -> list[str]:
    """A line is a name, blanks included, where there is such a picture; else its words count."""
    entries = []
    for line in lines:
        known = next((name for name in _spellings(line) if name in index), "")
        entries += [known] if known else line.split()
    return entries


def _spellings(line: str) -> Iterator[str]:
    """A line as a name, and as the name is written by `find .`, on Windows and on Macs."""
    yield line
    name = line.strip()
    yield name
    for plain in (name.removeprefix("./"), name.removeprefix(".\\").replace("\\", "/")):
        yield plain
        yield from (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))


def _count(digits: str) -> int:
    """A number, or 0 (no picture's) for more digits than any count has."""
    return int(digits) if len(digits) < 20 else 0


def load_split(
    folder: str,
    crop: str,
    test_vectors: int,
    seed: int,
    test_list: str,
    train_images: int,
    cache_dir: str,
) -> tuple[Faces, Faces]:
    """(training faces, held-out faces); `train_images` > 0 keeps that many of the former, drawn
    with the seed.
    """
    names = list_pictures(folder)
    split(names, test_vectors, seed, test_list)  # what cannot be is told before the long reading
    faces = load_faces(folder, names, crop, cache_dir)
    # A list may count pictures, those that cannot be used among them.
    train, test = split(names if test_list else list(faces.names), test_vectors, seed, test_list)
    if test_list:
        place = {name: i for i, name in enumerate(faces.names)}
        train, test = ([place[names[i]] for i in part if names[i] in place]
                       for part in (train, test))  # fmt: skip
        if not train or not test:
            raise UserError(f"--test_list={test_list}: no usable picture is left on one side of it")
    if train_images and train_images < len(train):
        train = sorted(random.Random(seed).sample(train, train_images))  # noqa: S311
    return faces.subset(train), faces.subset(test)
