"""LFW photos (250x250) -> 64x64 faces, augmented: out_aug_64x64/ and out_unaug_64x64/ beside this
script.

Photo IIIIII (its place among all photos sorted by path) becomes IIIIII_000.jpg, the face as it is,
and IIIIII_001.jpg to IIIIII_019.jpg, augmented; the 000 files also go to out_unaug_64x64/. The
files depend on the photos and the seed only: neither on --jobs nor on interruptions. Run again
after an interruption, the script makes what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import click
from PIL import Image

from eyescream_py.data import augmentation
from eyescream_py.data.pictures import ENDINGS, IN_WORDS, PictureError, open_picture, picture_size
from eyescream_py.data.walk import Walk, walk
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import (
    atomic_write,
    create_new,
    remove_stale_temporaries,
    temporary_name,
)
from eyescream_py.system.folders import make_folder
from eyescream_py.system.numbers import SEED
from eyescream_py.system.places import PATH, dataset_folder
from eyescream_py.system.processes import usable_cores, worker_processes
from eyescream_py.system.progress import Progress
from eyescream_py.system.text import MOST_BYTES, read_bounded
from eyescream_py.system.voice import counted, say, warn

BLOCK = 16  # photos handed to a worker at once
JPEG_QUALITY = 90
RECORD = ".generated.json"  # in the output folder: what its pictures were made from
_FACE_NAME = re.compile(r"\d{6}_\d{3}\.jpg")


@dataclass(frozen=True)
class Job:
    """What a worker needs to know to turn photos into files."""

    photos: Path
    augmented: Path
    plain: Path
    seed: int


@click.command(cls=Command, help=__doc__)
@click.option(
    "--path",
    type=PATH,
    metavar="LFW",
    required=True,
    help="Folder of LFW photos, sub-folders included.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="FOLDER",
    default=str(dataset_folder()),
    help="Where the two output folders go (default: the project's dataset/).",
)
@click.option("--seed", type=SEED, default=43, show_default=True, help="Of the augmentation.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    default=usable_cores,
    help="Worker processes (default: one per core).",
)
@click.option("--overwrite", is_flag=True, help="Replace pictures made from other photos or seed.")
def main(path: str, out: str, seed: int, jobs: int, overwrite: bool) -> None:
    job = Job(Path(path), Path(out) / "out_aug_64x64", Path(out) / "out_unaug_64x64", seed)
    found = _photos_in(job.photos, without=(job.augmented, job.plain))
    names = found.names
    try:
        _prepare(job, names, overwrite)
        missing = _missing(job, names)
        if len(missing) < len(names):
            say(f"Done already: {len(names) - len(missing)} of {counted(len(names), 'photo')}.")
        broken = _generate(job, missing, jobs)
    except OSError as error:
        raise UserError(
            f"cannot write to {out}: {why(error)}; what is done stays, "
            "run the same command again to go on"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory?); run the same command again, "
            "with a smaller --jobs"
        ) from error
    _report(job, found, broken)


def _photos_in(folder: Path, without: Iterable[Path] = ()) -> Walk:
    """The picture files of LFW's folder, at any depth, sorted by path, but for some folders."""
    if not folder.is_dir():
        raise UserError(f"--path={folder} is no folder; give the folder of the LFW photos")
    try:
        found = walk(folder, ENDINGS, without)
    except OSError as error:
        raise UserError(f"--path={folder} cannot be read: {why(error)}") from error
    if not found.files:
        left_out = f" ({found.line()})" if found.line() else ""
        raise UserError(f"--path={folder}: no {IN_WORDS} files in it or below it{left_out}")
    return found


def _prepare(job: Job, names: list[str], overwrite: bool) -> None:
    """Make the output folders and note what they are made from; refuse to mix two data sets."""
    listed = "\n".join(names).encode(errors="surrogateescape")
    wanted = {
        "seed": job.seed,
        "photos": len(names),
        "names": hashlib.blake2b(listed, digest_size=16).hexdigest(),
        "copies": augmentation.COPIES,
    }
    for folder in (job.augmented, job.plain):
        make_folder(folder)
        remove_stale_temporaries(folder)
    record = job.augmented / RECORD
    faces = [f for f in job.augmented.iterdir() if _FACE_NAME.fullmatch(f.name)]
    if faces and _read(record) != wanted:
        if not overwrite:
            raise UserError(
                f"{job.augmented} holds {counted(len(faces), 'picture')} made from other photos "
                "or with another seed; give --overwrite to replace them"
            )
        for face in [*faces, *(job.plain / f.name for f in faces)]:
            face.unlink(missing_ok=True)
    with atomic_write(record) as file:
        file.write(json.dumps(wanted).encode())


def _read(record: Path) -> object:
    try:
        return json.loads(read_bounded(record, MOST_BYTES))
    except (OSError, ValueError):
        return None


def _missing(job: Job, names: list[str]) -> list[tuple[int, str]]:
    """(index, name) of the photos of which not all files are there."""
    there, plain = set(os.listdir(job.augmented)), set(os.listdir(job.plain))

    def done(index: int) -> bool:
        copies = [_face_name(index, copy) for copy in range(augmentation.COPIES)]
        return copies[0] in plain and there.issuperset(copies)

    return [(index, name) for index, name in enumerate(names) if not done(index)]


def _face_name(index: int, copy: int) -> str:
    return f"{index:06d}_{copy:03d}.jpg"


def _generate(job: Job, photos: list[tuple[int, str]], jobs: int) -> list[tuple[str, str]]:
    """Make the faces of `photos`; returns (name, reason) of the broken ones, sorted."""
    broken: list[tuple[str, str]] = []
    blocks = [photos[i : i + BLOCK] for i in range(0, len(photos), BLOCK)]
    with Progress(len(photos), "photos") as progress:
        try:
            for count, bad in _results(job, blocks, jobs):
                progress.update(count)
                broken += bad
        except KeyboardInterrupt:
            raise UserError("interrupted; run the same command again to go on") from None
    return sorted(broken)


def _results(
    job: Job, blocks: list[list[tuple[int, str]]], jobs: int
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    if min(jobs, len(blocks)) <= 1:
        yield from (make_faces(job, block) for block in blocks)
        return
    with worker_processes(min(jobs, len(blocks))) as pool:
        for result in as_completed([pool.submit(make_faces, job, block) for block in blocks]):
            yield result.result()


def make_faces(job: Job, photos: list[tuple[int, str]]) -> tuple[int, list[tuple[str, str]]]:
    """All copies of some photos; returns their number and (name, reason) of the broken ones."""
    broken = []
    for index, name in photos:
        try:
            photo = _read_photo(job.photos / name)
        except PictureError as error:
            broken.append((name, str(error)))
            continue
        for copy in range(augmentation.COPIES):
            face = augmentation.face(photo, augmentation.draw(job.seed, index, copy))
            data = _jpeg(face)
            _write(job.augmented / _face_name(index, copy), data)
            if copy == 0:
                _write(job.plain / _face_name(index, copy), data)
    return len(photos), broken


def _read_photo(path: Path) -> Image.Image:
    width, height = picture_size(path)
    if (width, height) != (augmentation.PHOTO, augmentation.PHOTO):
        raise PictureError(f"{width}x{height} pixels, LFW has 250x250")
    return open_picture(path, "RGB")


def _jpeg(face: Image.Image) -> bytes:
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all. Not synced: 20 pictures per photo would wait for the disk."""
    temporary = temporary_name(path)
    try:
        with create_new(temporary) as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _report(job: Job, found: Walk, broken: list[tuple[str, str]]) -> None:
    line, photos = found.line(broken), len(found.files)
    if len(broken) == photos:
        raise UserError(
            f"--path={job.photos}: none of its {counted(photos, 'photo')} could be used ({line})"
        )
    if line:
        warn(line)
    count = photos - len(broken)
    say(
        f"{counted(count, 'photo')}: {count * augmentation.COPIES} pictures in {job.augmented}, "
        f"{count} not augmented in {job.plain}"
    )
