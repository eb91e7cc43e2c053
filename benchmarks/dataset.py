"""Speed of generate_dataset.py and of reading a folder, each beside the obvious way, alternately
in one run.

usage: python -m benchmarks.dataset --path=LFW [--photos 20] [--rounds 5] [--memory 20000] Times
are CPU seconds of one process (so of one core), each side's fastest round; the ratio is what
counts. With --memory the last table is the host memory that decoding that many files takes.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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


def obvious_face(picture: Image.Image, law: Augmentation) -> Image.Image:
    """Flip, brightness, warp of the whole photo, crop, resize: one after another, by
    scikit-image."""
    from skimage import transform

    pixels = np.asarray(picture, np.float64)
    if law.flip:
        pixels = pixels[:, ::-1]
    pixels = np.clip(pixels * law.brightness, 0, 255)
    to_corner = transform.SimilarityTransform(translation=(-124.5, -124.5))
    to_centre = transform.SimilarityTransform(translation=(124.5, 124.5))
    turned = transform.AffineTransform(
        scale=(law.scale, law.scale), rotation=np.deg2rad(law.rotation), translation=law.shift
    )
    whole = to_corner + turned + to_centre
    warped = transform.warp(pixels / 255, whole.inverse, order=1, mode="edge")
    resized = transform.resize(warped[92:176, 83:167], (64, 64), order=1)
    return Image.fromarray(np.rint(resized * 255).astype(np.uint8))


def obvious_generation(photos: list[Path], out: Path) -> None:
    for index, path in enumerate(photos):
        picture = Image.open(path).convert("RGB")
        for copy in range(COPIES):
            face = obvious_face(picture, draw(43, index, copy))
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


def generator() -> ModuleType:
    """dataset/generate_dataset.py as a module."""
    path = ROOT / "eyescream_py" / "cli" / "generate_dataset.py"
    spec = importlib.util.spec_from_file_location("generate_dataset", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fastest(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each side's fastest round; every round runs all sides, one after another."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - started)
    return best


def difference(photos: list[Path]) -> tuple[float, float]:
    """Mean absolute difference (of 255) of our faces to the obvious ones: average, worst face."""
    differences = []
    for index, path in enumerate(photos):
        picture, law = Image.open(path).convert("RGB"), draw(43, index, 1 + index % (COPIES - 1))
        ours = np.asarray(augmentation.face(picture, law)).astype(float)
        obvious = np.asarray(obvious_face(picture, law)).astype(float)
        differences.append(np.abs(ours - obvious).mean())
    return float(np.mean(differences)), float(np.max(differences))


def generation_table(lfw: Path, names: list[str], photos: int, rounds: int) -> list[str]:
    generate = generator()
    with tempfile.TemporaryDirectory() as scratch:
        job = generate.Job(lfw, Path(scratch) / "aug", Path(scratch) / "plain", 43)
        for folder in (job.augmented, job.plain):
            folder.mkdir()
        some = list(enumerate(names[:photos]))
        sides: dict[str, Callable[[], object]] = {
            "obvious loop": lambda: obvious_generation([lfw / n for _, n in some], job.augmented),
            "generate_dataset.py": lambda: generate.make_faces(job, some),
        }
        seconds = fastest(sides, rounds)
    average, worst = difference([lfw / name for name in names[:100]])
    return [
        "### generate_dataset.py (read, augment, crop, resize, JPEG, write), one core\n",
        *_table(seconds, photos * COPIES, "obvious loop"),
        f"\nMean absolute difference on {min(100, len(names))} augmented faces: {average:.2f} of "
        f"255 on average, {worst:.2f} at the worst.\n",
    ]


def reading_table(folder: Path, rounds: int) -> list[str]:
    names = walk(folder, ENDINGS).names[:2000]
    sides: dict[str, Callable[[], object]] = {
        "Pillow, resize": lambda: obvious_reading(folder, names),
        "Pillow, draft mode": lambda: draft_reading(folder, names),
        "dataset_decode.py (Lua's image.scale)": lambda: decode_files(folder, names, 1, 16),
    }
    seconds = fastest(sides, rounds)
    title = f"### Reading {len(names)} JPEGs of 64x64 as 16x16 gray, one core\n"
    return [title, *_table(seconds, len(names), "Pillow, resize"), ""]


def _table(seconds: dict[str, float], count: int, base: str) -> list[str]:
    rows = ["| | pictures per second | ms per picture | ratio |", "|---|---|---|---|"]
    for name, total in seconds.items():
        ratio = seconds[base] / total
        rows.append(f"| {name} | {count / total:.0f} | {1000 * total / count:.2f} | {ratio:.1f} |")
    return rows


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


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


@click.command(help=__doc__)
@click.option("--path", required=True, help="Folder of LFW photos (250x250).")
@click.option("--photos", default=20, show_default=True, help="How many the loops work on.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--memory", default=0, help="Measure the memory with this many files (0: not).")
@click.option("--out", help="Append the tables to this file.")
def main(path: str, photos: int, rounds: int, memory: int, out: str | None) -> None:
    names = walk(Path(path), ENDINGS).names
    photos = min(photos, len(names))
    lines = [f"## Data, {time.strftime('%Y-%m-%d')}, {machine()}\n"]
    lines += generation_table(Path(path), names, photos, rounds)
    with tempfile.TemporaryDirectory() as scratch:
        generate = generator()
        job = generate.Job(Path(path), Path(scratch) / "aug", Path(scratch) / "plain", 43)
        for folder in (job.augmented, job.plain):
            folder.mkdir()
        generate.make_faces(job, list(enumerate(names[:100])))
        lines += reading_table(job.augmented, rounds)
        if memory:
            lines += memory_table(job.augmented, memory)
    text = "\n".join(lines)
    click.echo(text)
    if out:
        with open(out, "a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
