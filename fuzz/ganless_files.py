"""Damaged networks and states of ganless-hd: every one is opened or refused in one line.

python -m fuzz.ganless_files [--inputs 200000] [--seed 0]

Starts from a network and a state (.safetensors) and from the network as .pth; changes bytes, cuts,
doubles parts, and swaps numbers and words of the headers. Anything but a UserError ends the run and
leaves the file as fuzz/findings/ganless.bin.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import torch

from eyescream_py.ganless_hd.checkpoints import read_network, write_pth, write_tensors
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options, resumed
from eyescream_py.ganless_hd.resuming import check_tensors, earlier_run, state_file
from eyescream_py.system.errors import UserError

FINDING = Path(__file__).parent / "findings" / "ganless.bin"
WIDTH = 0.01  # small files, many inputs
WORDS = (
    "-1",
    "0",
    "1e9",
    "NaN",
    "Infinity",
    "[]",
    "{}",
    '"x"',
    "null",
    "true",
    "9" * 400,
    "[" * 99,
)


def seeds(folder: Path) -> dict[str, bytes]:
    """A good file of each kind, by its ending."""
    network = UNet(WIDTH)
    about = {"kind": "network", "width": WIDTH, "imgSize": 64, "colormap": True}
    write_tensors(folder / "n.safetensors", network.state_dict(), about)
    write_pth(folder / "n.pth", network)
    torch.save(network.state_dict(), folder / "zip.pth")
    count = sum(p.numel() for p in network.parameters())
    run = {"weights": torch.zeros(count), "averaging.pushed": torch.tensor(0)}
    run |= {"averaging.iterates": torch.zeros(0, count)}
    options = {"width": WIDTH, "dataroota": ["x"], "imgSize": 64, "loadSize": 72, "lr": 0.001}
    progress = {"iteration": 3, "epoch_loss": 0.0, "epoch_steps": 6}
    told = {"kind": "run", "features": "a", "photos": "b", "options": options, "progress": progress}
    write_tensors(folder / "run.safetensors", run, told)
    names = ("n.safetensors", "n.pth", "zip.pth", "run.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def changed(data: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice((flipped, cut, doubled, header_changed))(data, rng) or b"\0"
    return data


def place(data: bytes, rng: random.Random) -> int:
    """Anywhere, mostly in the first kilobytes, where headers are."""
    return rng.randrange(min(len(data), 4096) if rng.random() < 0.8 else len(data))


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = place(data, rng)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if rng.random() < 0.2 else data


def doubled(data: bytes, rng: random.Random) -> bytes:
    start = place(data, rng)
    return data[:start] + data[start : start + rng.randrange(64)] + data[start:]


def header_changed(data: bytes, rng: random.Random) -> bytes:
    """A value of the JSON header, at any depth of our own description too, becomes another."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        told = json.loads(header["__metadata__"]["ganless_hd"])
        target = rng.choice([told, told.get("options", told), told.get("progress", told)])
        name = rng.choice(list(target))
        target[name] = "@"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return flipped(data, rng)
    text = json.dumps(told).replace('"@"', rng.choice(WORDS))
    header["__metadata__"]["ganless_hd"] = text
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data[8 + length :]


def open_state(path: Path) -> None:
    given = Options(out=str(path.parent.parent), resume=True)
    run = earlier_run(given)
    assert run is not None  # noqa: S101
    options = resumed(given, run.options, ())
    options.check()
    check_tensors(run, options.width)


@click.command()
@click.option("--inputs", default=200_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(inputs: int, seed: int) -> None:
    """Print how many were opened and refused, and the memory above the start."""
    torch.set_num_threads(1)
    rng = random.Random(seed)  # noqa: S311
    opened = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = seeds(folder)
        state = state_file(folder)
        state.parent.mkdir()
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(inputs):
            kind = rng.choice(list(good))
            path = state if kind.startswith("run") else folder / f"x{Path(kind).suffix}"
            data = changed(good[kind], rng)
            path.write_bytes(data)
            reader: Callable[[Path], object] = open_state if path == state else read_network
            try:
                with contextlib.suppress(UserError):
                    reader(path)
                    opened += 1
            except BaseException:
                FINDING.parent.mkdir(exist_ok=True)
                FINDING.write_bytes(data)
                raise
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    click.echo(
        f"{inputs} inputs: {opened} opened, {inputs - opened} refused, {grown // 1024} MB more"
    )


if __name__ == "__main__":
    main()
