"""Speed of generate_dataset.py and of reading a folder, each beside the obvious ways, which take
turns.

    python -m benchmarks.dataset --path=LFW [--photos 20] [--rounds 5] [--memory 20000]

Times are processor seconds of one process, medians over the rounds; the ratio is what counts. With
--memory the last table is the host memory that decoding that many files takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
from PIL import Image

from benchmarks.report import OutputFile, Table, machine, today, write_measured
from benchmarks.sides import medians
from eyescream_py.cli import generate_dataset
from eyescream_py.data import augmentation
from eyescream_py.data.augmentation import COPIES, Augmentation, draw
from eyescream_py.data.decode import decode_files
from eyescream_py.data.pictures import ENDINGS
from eyescream_py.data.walk import walk

ROOT = Path(__file__).resolve().parents[1]
MEMORY_SCRIPT = """
import re, sys
from pathlib import Path
from eyescream_py.data.decode import decode_files
from eyescream_py.data.pictures import ENDINGS
from eyescream_py.data.walk import walk
from eyescream_py.system.processes import worker_processes

STATUS = Path("/proc/self/status")

def peak(status):
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024

if __name__ == "__main__":
    import torch
    torch.zeros(1)
    before = peak(STATUS.read_text())
    from eyescream_py.data.dataset import load_dataset
    data = load_dataset(sys.argv[1], 3, 32, progress=False)
    above = peak(STATUS.read_text()) - before
    folder = Path(sys.argv[1])
    names = walk(folder, ENDINGS).names[:256]
    with worker_processes(1) as pool:
        pool.submit(decode_files, folder, names, 3, 32).result()
        worker = peak(pool.submit(STATUS.read_text).result())
    print("RESULT", len(data), data.images.numel(), above, worker)
"""


Obvious = Callable[[Image.Image, Augmentation], Image.Image]


def _warp(law: Augmentation) -> np.ndarray:
    """The turn, scale and shift of a 250x250 photo about its centre, (3,3), from old to new."""
    from skimage import transform

    to_corner = transform.SimilarityTransform(translation=(-124.5, -124.5))
    to_centre = transform.SimilarityTransform(translation=(124.5, 124.5))
    turned = transform.AffineTransform(
        scale=(law.scale, law.scale), rotation=np.deg2rad(law.rotation), translation=law.shift
    )
    return (to_corner + turned + to_centre).params


def by_skimage(picture: Image.Image, law: Augmentation) -> Image.Image:
    """Flip, brightness, warp of the whole photo, crop, resize: one after another, as the Lua
    program did it."""
    from skimage import transform

    pixels = np.asarray(picture, np.float64)
    if law.flip:
        pixels = pixels[:, ::-1]
    pixels = np.clip(pixels * law.brightness, 0, 255)
    back = transform.AffineTransform(matrix=_warp(law)).inverse
    warped = transform.warp(pixels / 255, back, order=1, mode="edge")
    resized = transform.resize(warped[92:176, 83:167], (64, 64), order=1)
    return Image.fromarray(np.rint(resized * 255).astype(np.uint8))


def by_opencv(picture: Image.Image, law: Augmentation) -> Image.Image:
    """The same steps on bytes by OpenCV, which is quick at each of them."""
    pixels = np.asarray(picture)
    if law.flip:
        pixels = cv2.flip(pixels, 1)
    pixels = cv2.convertScaleAbs(pixels, alpha=law.brightness)
    warped = cv2.warpAffine(
        pixels, _warp(law)[:2], (250, 250), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return Image.fromarray(cv2.resize(warped[92:176, 83:167], (64, 64)))


def obvious_generation(photos: list[Path], out: Path, obvious: Obvious) -> None:
    """Every photo's copies by `obvious`, written as JPEGs."""
    for index, path in enumerate(photos):
        picture = Image.open(path).convert("RGB")
        for copy in range(COPIES):
            face = obvious(picture, draw(43, index, copy))
            face.save(out / f"{index:06d}_{copy:03d}.jpg", quality=90)


def obvious_reading(folder: Path, names: list[str]) -> np.ndarray:
    """Every picture whole, then Pillow's own resize; what a plain loader does."""
    pictures = []
    for name in names:
        picture = Image.open(folder / name).convert("L").resize((16, 16), Image.Resampling.BOX)
        pictures.append(np.asarray(picture, np.float32) / 255)
    return np.stack(pictures)


def draft_reading(folder: Path, names: list[str]) -> np.ndarray:
    """Pillow's draft mode: the JPEG decoder itself makes 16x16 of 64x64."""
    pictures = []
    for name in names:
        with Image.open(folder / name) as picture:
            picture.draft("L", (16, 16))
            pictures.append(np.asarray(picture, np.float32) / 255)
    return np.stack(pictures)


def difference(photos: list[Path], obvious: Obvious) -> tuple[float, float]:
    """Mean absolute difference (of 255) of our faces to the obvious ones: average, worst face."""
    differences = []
    for index, path in enumerate(photos):
        picture, law = Image.open(path).convert("RGB"), draw(43, index, 1 + index % (COPIES - 1))
        ours = np.asarray(augmentation.face(picture, law)).astype(float)
        theirs = np.asarray(obvious(picture, law)).astype(float)
        differences.append(np.abs(ours - theirs).mean())
    return float(np.mean(differences)), float(np.max(differences))


def generation_table(lfw: Path, names: list[str], photos: int, rounds: int) -> list[str]:
    """Making the faces of some photos, and how far the pictures are from those of plain steps."""
    with tempfile.TemporaryDirectory() as scratch:
        job, some = job_in(lfw, Path(scratch)), names[:photos]
        paths = [lfw / name for name in some]
        sides: dict[str, Callable[[], object]] = {
            "step by step, scikit-image": lambda: obvious_generation(
                paths, job.augmented, by_skimage
            ),
            "step by step, OpenCV": lambda: obvious_generation(paths, job.augmented, by_opencv),
            "generate_dataset.py": lambda: generate_dataset.make_faces(job, list(enumerate(some))),
        }
        seconds = medians(sides, rounds)
    lines = ["### generate_dataset.py (read, augment, crop, resize, JPEG, write), one core\n"]
    lines += [_table(seconds, photos * COPIES), ""]
    for name, way in (("scikit-image", by_skimage), ("OpenCV", by_opencv)):
        average, worst = difference([lfw / name for name in names[:100]], way)
        lines.append(
            f"Mean absolute difference from {name}'s on {min(100, len(names))} augmented faces: "
            f"{average:.2f} of 255 on average, {worst:.2f} at the worst."
        )
    return [*lines, ""]


def job_in(lfw: Path, scratch: Path) -> generate_dataset.Job:
    """Work of generate_dataset.py whose two folders are made below `scratch`."""
    job = generate_dataset.Job(lfw, scratch / "aug", scratch / "plain", 43)
    for folder in (job.augmented, job.plain):
        folder.mkdir()
    return job


def reading_table(folder: Path, rounds: int) -> list[str]:
    """Reading the pictures that the first table's program made, as train.py does at 16 px."""
    names = walk(folder, ENDINGS).names[:2000]
    sides: dict[str, Callable[[], object]] = {
        "Pillow, resize": lambda: obvious_reading(folder, names),
        "Pillow, draft mode": lambda: draft_reading(folder, names),
        "ours (Lua's image.scale)": lambda: decode_files(folder, names, 1, 16),
    }
    seconds = medians(sides, rounds)
    title = f"### Reading {len(names)} JPEGs of 64x64 as 16x16 gray, one core\n"
    return [title, _table(seconds, len(names)), ""]


def _table(seconds: dict[str, float], count: int) -> str:
    """A row per side; ratios are to the first."""
    table = Table("", "pictures per second", "ms per picture", "ratio")
    base = next(iter(seconds.values()))
    for name, total in seconds.items():
        ms = 1000 * total / count
        table.add(name, f"{count / total:.0f}", f"{ms:.2f}", f"{base / total:.1f}")
    return table.markdown()


def memory_table(folder: Path, files: int) -> list[str]:
    """Decode a folder of `files` links to the pictures of `folder` in a process of its own."""
    names = walk(folder, ENDINGS).names
    with tempfile.TemporaryDirectory() as scratch:
        links = Path(scratch) / "pictures"
        links.mkdir()
        for i in range(files):
            (links / f"{i:06d}.jpg").symlink_to((folder / names[i % len(names)]).resolve())
        script = Path(scratch) / "measure.py"
        script.write_text(MEMORY_SCRIPT)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(script), str(links)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = re.search(r"RESULT (\d+) (\d+) (-?\d+) (\d+)", done.stdout)
    assert found is not None
    loaded, size, peak, worker = (int(number) for number in found.groups())
    return [
        "### Host memory while decoding 32x32 colour\n",
        "| files | pixels, MB | peak above PyTorch's own, MB | a worker process, MB |",
        "|---|---|---|---|",
        f"| {loaded} | {size / 1e6:.1f} | {peak} | {worker} |",
        "",
    ]


@click.command(help=__doc__)
@click.option(
    "--path", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of LFW photos (250x250).",
)  # fmt: skip
@click.option("--photos", default=20, show_default=True, help="How many the loops work on.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--memory", default=0, help="Measure the memory with this many files (0: not).")
@click.option("--output", type=OutputFile(), help="Also write the tables here.")
def main(path: Path, photos: int, rounds: int, memory: int, output: Path | None) -> None:
    names = walk(path, ENDINGS).names
    photos = min(photos, len(names))
    lines = [f"# Data\n\n{machine()}, {today()}\n", *generation_table(path, names, photos, rounds)]
    with tempfile.TemporaryDirectory() as scratch:
        job = job_in(path, Path(scratch))
        generate_dataset.make_faces(job, list(enumerate(names[:100])))
        lines += reading_table(job.augmented, rounds)
        if memory:
            lines += memory_table(job.augmented, memory)
    text = "\n".join(lines)
    click.echo(text)
    if output:
        write_measured(output, text)


if __name__ == "__main__":
    main()
