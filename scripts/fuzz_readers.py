"""Damage files of the siblings' kinds and read them: each must be read or refused in one line.

    python -m scripts.fuzz_readers --inputs=20000 --seed=1

Each reader has a process of its own, whose memory is watched; one that an input ends is replaced.
Prints a table: inputs, refused, inputs that ended their process, faults, the growth of resident
memory. Ends with code 1 where anything but an error of ours came out, or a process died that the
package does not keep apart itself, as it does for .mat and HDF5.
"""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PER_PROCESS = 5_000
MEMORY = "/dev/shm"  # where files cost nothing  # noqa: S108
COUNTED = ("inputs", "refused", "died", "faults", "grown", "seconds")
IN_A_CHILD = ("mat", "packed.mat", "hdf5", "ismrmrd")  # read by a process of their own
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


def in_process(kind: str, wanted: str) -> Reader:
    """What `mat.read_mat` does with a file, its child's half in this process: starting one for
    each input would take 200,000 times half a second."""
    from eyescream_py.mln.formats import mat, mat_child

    def read(path: Path) -> object:
        most = max(mat.LEAST_BYTES, mat.BYTES_PER_BYTE * path.stat().st_size)
        sent = io.BytesIO()
        mat_child.main(kind, str(path), [wanted], most, (0, 0), sent)
        sent.seek(0)
        return mat._received(sent, str(path), most, mat.FORMATS[kind])

    return read


def trajectory_seed(packed: bool = False) -> tuple[str, bytes, Reader]:
    import scipy.io

    file = io.BytesIO()
    trajectory = {"Trajm2": np.exp(1j * np.arange(30.0))[None]}
    scipy.io.savemat(file, trajectory, do_compression=packed)
    return "a.mat", file.getvalue(), in_process("mat", "Trajm2")


def packed_seed() -> tuple[str, bytes, Reader]:
    return trajectory_seed(packed=True)


def hdf5_seed() -> tuple[str, bytes, Reader]:
    import h5py  # type: ignore[import-untyped, unused-ignore]

    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset("Data", data=np.arange(24.0).reshape(2, 3, 4), compression="gzip")
        content.create_group("about").attrs["MATLAB_class"] = "struct"
    return "a.h5", file.getvalue(), in_process("mat", "Data")


def ismrmrd_seed() -> tuple[str, bytes, Reader]:
    golden = Path(__file__).resolve().parents[1] / "tests" / "mln" / "golden" / "ismrmrd.h5"
    return "a.h5", golden.read_bytes(), in_process("ismrmrd", "")


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
    "packed.mat": packed_seed,
    "hdf5": hdf5_seed,
    "ismrmrd": ismrmrd_seed,
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


def expected_errors(name: str) -> tuple[type[Exception], ...]:
    from eyescream_py.data.pictures import PictureError
    from eyescream_py.system.errors import UserError

    if name != "safetensors":  # torch takes more address space than .mat readers are allowed
        return UserError, PictureError
    from eyescream_py.system.safe_tensors import TensorsError

    return UserError, PictureError, TensorsError


class Counts:
    """What became of the inputs of one reader, in memory that forked processes share."""

    def __init__(self) -> None:
        self.shared = multiprocessing.RawArray("d", 6)

    def __getitem__(self, name: str) -> float:
        return self.shared[COUNTED.index(name)]

    def __setitem__(self, name: str, value: float) -> None:
        self.shared[COUNTED.index(name)] = value


def read_some(name: str, home: Path, seed: int, until: int, counts: Counts) -> None:
    """Read the next damaged files; the first thing that is no error of ours goes to `home`."""
    expected = expected_errors(name)
    file_name, content, read = SEEDS[name]()
    path = home / file_name
    path.write_bytes(content)
    read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while (number := int(counts["inputs"])) < until:
        path.write_bytes(damaged(content, random.Random(seed * 1_000_003 + number)))  # noqa: S311
        counts["inputs"] += 1
        try:
            read(path)
        except expected as error:
            counts["refused"] += 1
            if "\n" in str(error).strip():
                tell(home, counts, f"more than one line: {error!r}")
        except Exception:
            tell(home, counts, traceback.format_exc())
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        counts["grown"] = max(counts["grown"], grown / 1024)


def tell(home: Path, counts: Counts, fault: str) -> None:
    counts["faults"] += 1
    (home / "fault.txt").write_text(fault)


def work(name: str, home: Path, inputs: int, seconds: float, seed: int, counts: Counts) -> None:
    """In a process of its own: fork readers, each after the one before it, until all is read.

    A .mat reader limits its own processor time, so none reads more than `PER_PROCESS`.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # libtiff and libhdf5 talk
    SEEDS[name]()  # what it imports is imported once
    end = time.monotonic() + seconds
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while counts["inputs"] < inputs and (left := end - time.monotonic()) > 0:
        until = min(inputs, int(counts["inputs"]) + PER_PROCESS)
        pid = os.fork()
        if pid == 0:
            signal.alarm(int(left) + 1)
            read_some(name, home, seed, until, counts)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status and os.WTERMSIG(status) != signal.SIGALRM:
            counts["died"] += 1
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    counts["seconds"] = sum(u.ru_utime + u.ru_stime for u in usage)


def judged(name: str, inputs: int, seconds: float, seed: int) -> bool:
    """Whether a reader did well; prints its row."""
    counts = Counts()
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(name, Path(folder), inputs, seconds, seed, counts)
        )
        process.start()
        process.join()
        fault = Path(folder) / "fault.txt"
        if fault.exists():
            print(f"{name}: {fault.read_text()}", file=sys.stderr)
    shown = " | ".join(f"{number:,.0f}" for number in counts.shared)
    print(f"| {name} | {shown} |", flush=True)
    dead = counts["died"] > 0 and name not in IN_A_CHILD
    return process.exitcode == 0 and not counts["faults"] and not dead


@click.command(help=__doc__)
@click.option("--inputs", default=20_000, show_default=True, help="Per reader.")
@click.option("--seconds", default=60.0, show_default=True, help="Of the clock, per reader.")
@click.option("--seed", default=1, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Readers at a time.")
@click.option("--only", default="", help="Readers, separated by commas.")
def main(inputs: int, seconds: float, seed: int, jobs: int, only: str) -> None:
    print("| reader | inputs | refused | process died | faults | memory, MB | processor, s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    names = only.split(",") if only else list(SEEDS)
    with ThreadPoolExecutor(jobs) as pool:
        well = list(pool.map(lambda name: judged(name, inputs, seconds, seed), names))
    sys.exit(int(not all(well)))


if __name__ == "__main__":
    main()
