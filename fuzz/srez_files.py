"""Damaged checkpoints and test lists of srez: every one is opened or refused in one line.

python -m fuzz.srez_files [--inputs 20000] [--seed 0]

Starts from a new checkpoint and from those that tests keep of earlier versions; changes bytes,
cuts, doubles parts, and swaps values of the headers. Anything but a UserError ends the run and
leaves the file as `fuzz_crash.bin`.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import tempfile
from pathlib import Path

import click
import torch

from eyescream_py.srez.checkpoints import load_generator, read_checkpoint, restore, save_checkpoint
from eyescream_py.srez.data import split
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import build_networks
from eyescream_py.system.errors import UserError
from fuzz.ganless_files import WORDS, cut, doubled, flipped

KEPT = Path(__file__).parents[1] / "tests" / "srez" / "checkpoints"
TINY = Options(width=1 / 64, sample_size=32)
LISTED = "3\n1 2\r\nJosé a.jpg\nb.jpg\n".encode()


def seeds(folder: Path) -> list[bytes]:
    """Good checkpoints."""
    new = save_checkpoint(folder, build_networks(TINY, torch.device("cpu")), TINY, 3, 1.0)
    kept = [KEPT / f"{name}.safetensors" for name in ("first_resnet", "second_deconv")]
    return [path.read_bytes() for path in (new, *kept)]


def header_changed(data: bytes, rng: random.Random) -> bytes:
    """A value of the header, of the options in it, or of one tensor's entry becomes another."""
    length = int.from_bytes(data[:8], "little")
    word = rng.choice(WORDS)
    try:
        header = json.loads(data[8 : 8 + length])
        if rng.random() < 0.6:
            told = json.loads(header["__metadata__"]["options"])
            told[rng.choice(list(told))] = "@"
            text = json.dumps(told).replace('"@"', word)
            header["__metadata__"]["options"] = text
        else:
            table = header[rng.choice(list(header))]
            table[rng.choice(list(table))] = word if "format" in table else "@"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return flipped(data, rng)
    packed = json.dumps(header).replace('"@"', word).encode()
    return len(packed).to_bytes(8, "little") + packed + data[8 + length :]


def changed(data: bytes, rng: random.Random) -> bytes:
    """One to three changes."""
    for _ in range(rng.randint(1, 3)):
        data = (
            rng.choice((flipped, cut, doubled, header_changed, header_changed))(data, rng) or b"0"
        )
    return data


def open_checkpoint(path: Path) -> None:
    """As upscale opens it, and as --resume does."""
    load_generator(path)
    stored = read_checkpoint(path)
    restore(build_networks(stored.options, torch.device("cpu")), stored, stored.options, path)


def open_list(path: Path) -> None:
    split(["José a.jpg", "b.jpg", "c.jpg", "d.jpg"], 1, 0, str(path))


@click.command()
@click.option("--inputs", default=20_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(inputs: int, seed: int) -> None:
    """Print how many were opened and refused, and the memory above the start."""
    torch.set_num_threads(1)
    rng = random.Random(seed)  # noqa: S311
    opened = 0
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.safetensors"
        good = seeds(Path(name))
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(inputs):
            is_list = number % 4 == 3
            data = flipped(doubled(LISTED, rng), rng) if is_list else changed(rng.choice(good), rng)
            path.write_bytes(data)
            try:
                with contextlib.suppress(UserError):
                    (open_list if is_list else open_checkpoint)(path)
                    opened += 1
            except BaseException:
                Path("fuzz_crash.bin").write_bytes(data)
                raise
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    click.echo(f"{opened} of {inputs} opened, the others refused; {grown / 1024:.0f} MB more")


if __name__ == "__main__":
    main()
