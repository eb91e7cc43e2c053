"""Damaged checkpoints, Params.txt and BART files of mln: each is opened or refused in one line.

python -m fuzz.mln_files [--inputs 200000] [--seed 0] [--mat 200]

Starts from the golden files of the tests; changes bytes, cuts, doubles parts, and swaps numbers and
words. `--mat` .mat and HDF5 files go through the reader's child process as well (slow: a process
each). Anything but a UserError ends the run and leaves the file in fuzz/findings/.
"""

from __future__ import annotations

import contextlib
import random
import re
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from eyescream_py.mln.checkpoints import load_checkpoint, restore_network
from eyescream_py.mln.exchange import from_ismrmrd
from eyescream_py.mln.formats.cfl import read_cfl
from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.params import Params, params_text, read_params
from eyescream_py.system.errors import UserError

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "mln" / "golden"
FINDINGS = Path(__file__).parent / "findings"
WORDS = (b"-1", b"0", b"1e9", b"NaN", b"[]", b'"x"', b"null", b"9" * 400, b"[" * 99, b'"', b"\xff")


def changed(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, most of them in the first kilobytes."""
    for _ in range(rng.randint(1, 4)):
        near = rng.random() < 0.8
        at = rng.randrange(min(len(data), 2048) if near else len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1 and rng.random() < 0.2:
            data = data[:at] or b"\0"
        elif kind == 2:
            data = data[:at] + data[at : at + rng.randrange(64)] + data[at:]
        else:
            data = _word_changed(data, rng)
    return data


def _word_changed(data: bytes, rng: random.Random) -> bytes:
    """One number or word of the first kilobytes becomes another one."""
    words = list(re.finditer(rb"[-+.\w]+", data[:2048]))
    if not words:
        return data
    word = rng.choice(words)
    return data[: word.start()] + rng.choice(WORDS) + data[word.end() :]


def read_checkpoint(path: Path) -> None:
    restore_network(load_checkpoint(path))


def readers(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """Name of the file -> a good one and what reads it."""
    text = params_text(Params()) + 'DatasetMatFN "a b"\n'
    (folder / "b.cfl").write_bytes((GOLDEN / "bart_t.cfl").read_bytes())
    golden = GOLDEN / "old_checkpoint.safetensors"
    return {
        "a.safetensors": (golden.read_bytes(), read_checkpoint),
        "Params.txt": (text.encode(), read_params),
        "b.hdr": ((GOLDEN / "bart_t.hdr").read_bytes(), read_cfl),
    }


def slow_readers(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """Those that start a process for every file."""
    write_mat(folder / "whole.mat", {"Data": [[1.0, 2.0, 3.0]]})
    return {
        "c.mat": ((folder / "whole.mat").read_bytes(), lambda path: read_mat(path, ["Data"])),
        "d.h5": (
            (GOLDEN / "ismrmrd.h5").read_bytes(),
            lambda path: from_ismrmrd(str(path), 0, "auto"),
        ),
    }


@click.command()
@click.option("--inputs", default=200_000, show_default=True)
@click.option("--mat", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(inputs: int, mat: int, seed: int) -> None:
    """Try all and say how many were opened and how much memory was taken."""
    rng = random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, count in ((readers(folder), inputs), (slow_readers(folder), mat)):
            for file, (whole, read) in kind.items():
                _try(folder / file, whole, read, count, rng)


def _try(
    path: Path, whole: bytes, read: Callable[[Path], object], count: int, rng: random.Random
) -> None:
    before, opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(count):
        data = changed(whole, rng)
        path.write_bytes(data)
        try:
            with contextlib.suppress(UserError):
                read(path)
                opened += 1
        except BaseException:
            FINDINGS.mkdir(exist_ok=True)
            (FINDINGS / f"mln_{path.name}").write_bytes(data)
            raise
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    click.echo(f"{path.name}: {count} tried, {opened} opened, {grown:.0f} MiB above the start")


if __name__ == "__main__":
    main()
