"""Photographs from folders -> batches of (input, target), prepared in worker processes.

What item number n is depends on the seed and n alone: not on the number of workers, nor on where a
run was resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eyescream_py.data.pictures import ENDINGS, PictureError, open_picture, picture_size
from eyescream_py.data.walk import Walk, left_out_line, walk
from eyescream_py.ganless_hd.contours import photo_input
from eyescream_py.system.device import wants_pinned
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write, remove_stale_temporaries
from eyescream_py.system.folders import make_folder
from eyescream_py.system.processes import usable_cores
from eyescream_py.system.progress import Progress
from eyescream_py.system.voice import counted, printable, warn

BROKEN = (PictureError, OSError, ValueError, cv2.error)
LONGEST = 8  # a photograph's longer side in shorter ones; of longer ones the middle is taken
COPIES, OWN = "resized copies", "files of this run"
TRIES = 100
BATCHES_AHEAD = 4
OPENER = 2  # raised when a file decodes to other pixels

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class FoundPhotos:
    """Picture files by sorted path, and in one line what was left out (empty: nothing)."""

    paths: list[Path]
    left_out: str


def find_photos(roots: Iterable[str | Path], outside: Path | None = None) -> FoundPhotos:
    """Every picture file under the folders, at any depth (`data.walk` tells the rules).

    Names with `.cached` are passed over, and what lies below `outside`: a run's own sheets.

    Raises UserError for a folder that does not exist or when there is no picture at all.
    """
    paths: set[Path] = set()
    left_out: dict[str, list[str]] = {}
    for root in roots:
        found = _walked(root)
        for path in found.paths:
            reason = _passed_over(path, outside)
            if reason:
                found.leave_out(reason, path.name)
            else:
                paths.add(path)
        for reason, names in found.left_out.items():
            left_out.setdefault(reason, []).extend(names)
    line = left_out_line(left_out)
    if not paths:
        folders = ", ".join(printable(root) for root in roots)
        raise UserError(f"--dataroota: no pictures under {folders}{line and f' ({line})'}")
    return FoundPhotos(sorted(paths), line)


def _walked(root: str | Path) -> Walk:
    if not Path(root).is_dir():
        raise UserError(f"--dataroota={printable(root)}: no such folder")
    try:
        return walk(root, ENDINGS)
    except OSError as error:
        raise UserError(f"--dataroota={printable(root)}: {why(error)}") from error


def _passed_over(path: Path, outside: Path | None) -> str:
    """Why a picture is not for training; empty for the others."""
    if ".cached" in str(path):
        return COPIES
    return OWN if outside and _is_below(path, outside) else ""


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())


@dataclass(frozen=True)
class Survey:
    """What the headers of the picture files say."""

    usable: list[Path]
    small: list[Path] = field(default_factory=list)  # shorter side below the size that is cut out
    broken: list[Path] = field(default_factory=list)


def survey(photos: list[Path], smallest: int, skip_small: bool) -> Survey:
    """Read every header; broken files are left out, and with `skip_small` those with a side <
    `smallest`.

    Raises UserError when nothing is left.
    """
    sides = []
    with ThreadPoolExecutor(16) as pool, Progress(len(photos), "headers") as progress:
        for side in pool.map(_shorter_side, photos):
            sides.append(side)
            progress.update(1)
    known = list(zip(photos, sides, strict=True))
    broken = [path for path, side in known if side is None]
    small = [path for path, side in known if side is not None and side < smallest]
    passed_over = {*broken, *(small if skip_small else ())}
    usable = [path for path in photos if path not in passed_over]
    if not usable:
        raise UserError(
            f"--dataroota: none of {counted(len(photos), 'picture')} can be used: broken "
            f"{len(broken)}, with a side under {smallest} pixels {len(small)} (--small=enlarge "
            "takes those)"
        )
    return Survey(usable, small, broken)


def _shorter_side(path: Path) -> int | None:
    try:
        return min(picture_size(path))
    except PictureError:
        return None


def load_photo(path: str | Path) -> np.ndarray:
    """A picture file as (H, W, 3) uint8, upright, opaque. Raises PictureError."""
    return np.asarray(open_picture(path, "RGB"))


def not_too_long(picture: np.ndarray) -> np.ndarray:
    """Of (H, W, 3) longer than `LONGEST` the middle: a line of pixels would become gigabytes."""
    longest = LONGEST * min(picture.shape[:2])
    top, left = (max(0, (length - longest) // 2) for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + longest, left : left + longest])


def resize_shorter_side(picture: np.ndarray, side: int) -> np.ndarray:
    """Plain bilinear (no anti-aliasing): the shorter side becomes `side`, the other int(side *
    ratio); of one that is too long, see `not_too_long`.
    """
    picture = not_too_long(picture)
    height, width = picture.shape[:2]
    ratio = max(height, width) / min(height, width)
    size = (int(side * ratio), side) if width >= height else (side, int(side * ratio))
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class ResizedPhotos:
    """Photographs with the shorter side at `load_size`; copies of the first `limit` stay in
    `folder`.

    A copy is an .npy file that is mapped, so that a crop reads little more than itself. Its name
    depends on the photograph's path, size, time of change and on `load_size`.
    """

    photos: list[Path]
    load_size: int
    folder: Path | None = None
    limit: int = 0

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8; raises one of `BROKEN`."""
        path = self.photos[index]
        if self.folder is None or index >= self.limit:
            return resize_shorter_side(load_photo(path), self.load_size)
        copy = self._copy_name(self.folder, path)
        try:
            return np.load(copy, mmap_mode="r")
        except (OSError, ValueError):  # not there yet, or damaged
            picture = resize_shorter_side(load_photo(path), self.load_size)
            with contextlib.suppress(OSError):  # a full disk costs time, not the run
                self._keep(copy, picture)
            return picture

    @staticmethod
    def _keep(copy: Path, picture: np.ndarray) -> None:
        make_folder(copy.parent)
        with atomic_write(copy) as file:
            np.save(file, picture)

    def _copy_name(self, folder: Path, path: Path) -> Path:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{self.load_size}|{OPENER}"
        name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
        return folder / name[:2] / f"{name}.npy"


def cache_limit(gigabytes: float, load_size: int) -> int:
    """How many resized photographs of usual proportions (3:2) fit into `gigabytes` (10^9 bytes)."""
    return int(gigabytes * 1e9 / (load_size * load_size * 3 * 1.5))


def clean_cache(folder: Path) -> None:
    """Remove what killed runs left half written."""
    for part in folder.glob("??"):
        remove_stale_temporaries(part)


def random_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square cut out of `picture`, offsets uniform in 0 .. side - size - 1 (the last one stays
    unused).
    """
    height, width = picture.shape[:2]
    top, left = rng.integers(height - size), rng.integers(width - size)
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle."""
    top, left = ((side - size) // 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


def as_tensor(picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W), uint8."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def to_network(pictures: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 0..255 -> float32 -1..1 on the device; bytes travel, not floats."""
    return pictures.to(device, non_blocking=True).float().div_(127.5).sub_(1)


class ContourPhotos(Dataset[Pair]):
    """Item n: a random crop of a photograph drawn with replacement, and the input made of it.

    Both (3, size, size) uint8. A photograph that cannot be decoded is named once per worker,
    another takes its place.
    """

    def __init__(self, photos: ResizedPhotos, size: int, colormap: bool, seed: int) -> None:
        self.photos, self.size, self.colormap, self.seed = photos, size, colormap, seed
        self._named: set[int] = set()

    def __getitem__(self, number: int) -> Pair:
        rng = np.random.default_rng((self.seed, number))
        target = random_crop(self._draw(rng), self.size, rng)
        return as_tensor(photo_input(target, self.colormap)), as_tensor(target)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        for _ in range(TRIES):
            index = int(rng.integers(len(self.photos.photos)))
            try:
                return self.photos[index]
            except BROKEN as error:
                self._name_once(index, error)
        raise UserError(f"--dataroota: {TRIES} pictures in a row could not be decoded")

    def _name_once(self, index: int, error: BaseException) -> None:
        if index not in self._named:
            self._named.add(index)
            warn(printable(f"{self.photos.photos[index]}: cannot be decoded ({error})"))


@dataclass(frozen=True)
class EndlessBatches:
    """Item numbers, batch by batch and epoch after epoch; an epoch's last batch may be short.

    Starts at batch `first` (0-based) of the whole run.
    """

    items_per_epoch: int
    batch_size: int
    first: int = 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, a short last one included."""
        return -(-self.items_per_epoch // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, batch = divmod(self.first, self.batches_per_epoch)
        while True:
            start, end = epoch * self.items_per_epoch, (epoch + 1) * self.items_per_epoch
            for number in range(start + batch * self.batch_size, end, self.batch_size):
                yield list(range(number, min(number + self.batch_size, end)))
            epoch, batch = epoch + 1, 0


def make_loader(
    dataset: ContourPhotos, batches: EndlessBatches, workers: int, device: torch.device
) -> DataLoader[Pair]:
    """An endless loader; `workers` processes, at most one a core, decode, crop and find contours
    ahead of time.
    """
    workers = min(workers, usable_cores())
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=wants_pinned(device),
        prefetch_factor=BATCHES_AHEAD if workers else None,
        worker_init_fn=_start_worker,
    )


def _start_worker(number: int) -> None:
    """What strikes all processes at once (Ctrl-C, a closed terminal, `timeout`, a container that is
    stopped) is meant for the main one, which then ends the workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _spare_once)
    cv2.setNumThreads(0)


def _spare_once(number: int, frame: FrameType | None) -> None:
    """The second SIGTERM comes from the main process, for a worker that does not end otherwise."""
    signal.signal(number, signal.SIG_DFL)


def fixed_pairs(photos: ResizedPhotos, size: int, colormap: bool) -> Iterator[Pair]:
    """(input, target) of each photograph's middle, in order.

    Photographs that cannot be decoded are named and left out.
    """
    for index, path in enumerate(photos.photos):
        try:
            target = centre_crop(photos[index], size)
        except BROKEN as error:
            warn(printable(f"{path}: cannot be decoded ({error})"))
            continue
        yield as_tensor(photo_input(target, colormap)), as_tensor(target)


def fixed_batches(pairs: Iterable[Pair], batch_size: int) -> list[Pair]:
    """`pairs` stacked into batches; the last may be short."""
    every = list(pairs)
    starts = range(0, len(every), batch_size)
    chunks = (every[start : start + batch_size] for start in starts)
    return [(torch.stack([a for a, _ in c]), torch.stack([b for _, b in c])) for c in chunks]
