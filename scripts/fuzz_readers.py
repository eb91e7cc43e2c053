"""Damage files of the siblings' kinds and read them: each must be read or refused in one line.

    python -m scripts.fuzz_readers --inputs=20000 --seed=1

One process per reader, whose memory is watched. Prints a table: inputs, refused, faults, the
growth of resident memory. Ends with code 1 where anything but an error of ours came out.
"""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Reader = Callable[[Path], object]
SPICE = (
    b"nan", b"inf", b"-1", b"0", b"1e999", b"9" * 25, b"\0", b"\n", b'"', b"[", b"{", b"}",
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"999999999999", b"../", b"\xef\xbb\xbf",
)  # fmt: skip


def safetensors_seed() -> tuple[str, bytes, Reader]:
    import torch
    from safetensors.torch import save

    from eyescream_py.system.safe_tensors import load_module, read_header

    def build() -> torch.nn.Module:
        return torch.nn.Linear(3, 5)

    content = save(build().state_dict(), {"format": "a", "options": json.dumps({"a": [1, 2.5]})})
    return "a.safetensors", content, lambda path: load_module(read_header(path), build)


def ply_seed() -> tuple[str, bytes, Reader]:
    from eyescream_py.image_model.ply import read_ply

    points = "\n".join(f"{x} {y} {x * y / 9}" for x in range(4) for y in range(4))
    head = "ply\nformat ascii 1.0\nelement vertex 16\nproperty float x\nproperty float y\n"
    tail = "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    return "a.ply", (head + tail + points + "\n3 0 1 2\n").encode(), read_ply


def abs_seed() -> tuple[str, bytes, Reader]:
    from eyescream_py.image_model.prepare import read_abs

    size = 4
    flags = " ".join(["1"] * size * size)
    axis = " ".join(f"{i / 3:.3f}" for i in range(size * size))
    text = f"{size} rows\n{size} columns\npixels (flag X Y Z):\n{flags}\n{axis}\n{axis}\n{axis}\n"
    return "a.abs.gz", gzip.compress(text.encode()), read_abs


def abs_text_seed() -> tuple[str, bytes, Reader]:
    _, content, reader = abs_seed()
    return "a.abs", gzip.decompress(content), reader


def params_seed() -> tuple[str, bytes, Reader]:
    from eyescream_py.mln.params import Params, params_text, read_params

    return "Params.txt", params_text(Params()).encode(), read_params


def trajectory_seed() -> tuple[str, bytes, Reader]:
    import scipy.io

    from eyescream_py.mln.mat import read_mat

    file = io.BytesIO()
    scipy.io.savemat(file, {"Trajm2": np.exp(1j * np.arange(30.0))[None]})
    return "a.mat", file.getvalue(), lambda path: read_mat(path, ["Trajm2"])


def picture_seed(kind: str, ending: str) -> Callable[[], tuple[str, bytes, Reader]]:
    def seed() -> tuple[str, bytes, Reader]:
        from PIL import Image

        from eyescream_py.data.pictures import open_picture, read_pixels

        def read(path: Path) -> object:
            return open_picture(path, alpha=True), read_pixels(path, "L")

        file = io.BytesIO()
        noise = np.random.default_rng(1).integers(0, 256, (24, 20, 3), np.uint8)
        Image.fromarray(noise).save(file, kind)
        return f"a{ending}", file.getvalue(), read

    return seed


SEEDS: dict[str, Callable[[], tuple[str, bytes, Reader]]] = {
    "safetensors": safetensors_seed,
    "ply": ply_seed,
    "abs": abs_text_seed,
    "abs.gz": abs_seed,
    "params": params_seed,
    "mat": trajectory_seed,
    **{kind.lower(): picture_seed(kind, f".{kind.lower()}")
       for kind in ("JPEG", "PNG", "PPM", "WEBP", "BMP", "TIFF", "GIF")},
}  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, a piece taken out, doubled or replaced, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            case 3:
                data[at : at + rng.randint(0, 8)] = rng.choice(SPICE)
            case 4:
                flipped = (data[at] if at < len(data) else 0) ^ 1 << rng.randrange(8)
                data[at : at + 1] = bytes([flipped])
            case _:
                del data[at:]
        if not data:
            data = bytearray(b" ")
    return bytes(data)


def work(name: str, inputs: int, seconds: float, seed: int, results: multiprocessing.Queue) -> None:
    """Read damaged files; put (inputs, refused, faults, growth in MB) into `results`."""
    from eyescream_py.data.pictures import PictureError
    from eyescream_py.system.errors import UserError
    from eyescream_py.system.safe_tensors import TensorsError

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    file_name, content, read = SEEDS[name]()
    rng = random.Random(seed)  # noqa: S311
    done = refused = 0
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_name
        path.write_bytes(content)
        read(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        end, latest = time.process_time() + seconds, time.monotonic() + 10 * seconds
        # .mat files are read in a process of their own, whose time is not ours
        while done < inputs and time.process_time() < end and time.monotonic() < latest:
            data = damaged(content, rng)
            path.write_bytes(data)
            done += 1
            try:
                read(path)
            except (UserError, PictureError, TensorsError) as error:
                refused += 1
                if "\n" in str(error).strip():
                    faults.append(f"more than one line: {error!r}")
            except Exception:
                faults.append(traceback.format_exc())
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((done, refused, faults, grown))


@click.command(help=__doc__)
@click.option("--inputs", default=20_000, show_default=True, help="Per reader.")
@click.option("--seconds", default=60.0, show_default=True, help="Of a processor, per reader.")
@click.option("--seed", default=1, show_default=True)
@click.option("--only", default="", help="Readers, separated by commas.")
def main(inputs: int, seconds: float, seed: int, only: str) -> None:
    bad = False
    print("| reader | inputs | refused | faults | memory, MB |\n|---|---|---|---|---|")
    for name in [n for n in SEEDS if not only or n in only.split(",")]:
        spawn = multiprocessing.get_context("spawn")
        results: multiprocessing.Queue = spawn.Queue()
        process = spawn.Process(target=work, args=(name, inputs, seconds, seed, results))
        process.start()
        while process.is_alive() and results.empty():
            time.sleep(0.1)
        if results.empty():
            print(f"| {name} | ? | ? | process ended with {process.exitcode} | ? |")
            bad = True
            continue
        done, refused, faults, grown = results.get()
        process.join()
        print(f"| {name} | {done:,} | {refused:,} | {len(faults)} | {grown:.0f} |", flush=True)
        for fault in faults[:2]:
            print(fault, file=sys.stderr)
        bad = bad or bool(faults)
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
