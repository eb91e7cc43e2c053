"""Reading and writing a large .net: this package, torch's own format, and PyPI's torchfile.

    python -m benchmarks.torch7 [--megabytes 500] [--rounds 7] [--output FILE]

The same weights (a VGG-like tree of nn modules) stand in both formats, in the page cache. All
sides run alternately in one process; wall time, medians. A side that "uses" the weights adds up
all of them, since a mapped file is read only then. Peak memory is measured in a process of its own
per side, above what it held before reading. torchfile: `pip install torchfile`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.report import OutputFile, Table, machine, today, write_measured
from benchmarks.sides import medians
from eyescream_py import torch7

Action = Callable[[], Any]


def network(megabytes: int) -> torch7.TorchObject:
    """Convolutions of 512 planes and Linear layers, with about so many megabytes of weights."""
    layers, left, generator = torch7.Table(), megabytes * 250_000, torch.Generator().manual_seed(1)
    while left > 0:
        linear = len(layers) % 4 == 3
        shape = (4096, 4096) if linear and left > 2 * 4096**2 else (512, 512, 3, 3)
        weight, bias = (torch.randn(s, generator=generator) for s in (shape, shape[:1]))
        name = "nn.Linear" if len(shape) == 2 else "nn.SpatialConvolution"
        layers[len(layers) + 1] = torch7.TorchObject(name, torch7.Table(weight=weight, bias=bias))
        left -= weight.numel() + bias.numel()
    return torch7.TorchObject("nn.Sequential", torch7.Table(modules=layers))


def weights(net: torch7.TorchObject) -> dict[str, torch.Tensor]:
    """Every tensor of `network`'s result, by layer and name."""
    layers = net.fields["modules"].items()
    return {f"{i}.{k}": t for i, layer in layers for k, t in layer.fields.items()}


def total(values: Any) -> float:
    """The sum of all weights: every byte of them is read."""
    if isinstance(values, torch7.TorchObject):
        values = weights(values)
    return sum(float(tensor.sum()) for tensor in values.values())


def readers(folder: Path) -> dict[str, Action]:
    """The sides that read `a.net` or `a.pth`; torchfile where it is installed."""
    net, pth = folder / "a.net", folder / "a.pth"
    sides: dict[str, Action] = {
        "torch7.load": lambda: torch7.load(net),
        "torch.load(mmap=True)": lambda: torch.load(pth, mmap=True),
        "torch.load": lambda: torch.load(pth),
        "torch7.load, used": lambda: total(torch7.load(net)),
        "torch.load(mmap=True), used": lambda: total(torch.load(pth, mmap=True)),
        "torch.load, used": lambda: total(torch.load(pth)),
    }
    if importlib.util.find_spec("torchfile"):
        import torchfile

        sides["torchfile.load"] = lambda: torchfile.load(str(net))
    return sides


def peak_bytes(folder: Path, name: str) -> int:
    """How far memory rose at most in a fresh process that reads once with side `name`."""
    words = ["-m", "benchmarks.torch7", "--peak-of", name, "--folder", str(folder)]
    command, root = [sys.executable, *words], Path(__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return int(result.stdout)


def print_peak(folder: Path, name: str) -> None:
    """In the process of its own: the bytes by which memory rose."""
    action = readers(folder)[name]
    torch.ones(10).sum()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of the imports, is forgotten
    before = status("VmRSS")
    kept = action()
    print(status("VmHWM") - before)
    del kept


def status(field: str) -> int:
    """Bytes that Linux gives for this process under `field`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def tables(folder: Path, megabytes: int, rounds: int) -> list[str]:
    """The lines of the page, from files that are written into `folder`."""
    net = network(megabytes)
    tensors = weights(net)
    size = sum(tensor.nbytes for tensor in tensors.values())
    torch7.save(folder / "a.net", net)
    torch.save(tensors, folder / "a.pth")
    writers: dict[str, Action] = {
        "torch7.save": lambda: torch7.save(folder / "b.net", net),
        "torch.save": lambda: torch.save(tensors, folder / "b.pth"),
    }
    reading, writing = Table("reading", "MB/s", "peak memory / tensors"), Table("writing", "MB/s")
    for name, took in medians(writers, rounds, time.perf_counter).items():
        writing.add(name, f"{size / 1e6 / took:.0f}")
    for name, took in medians(readers(folder), rounds, time.perf_counter).items():
        peak = f"{peak_bytes(folder, name) / size:.2f}" if "used" not in name else ""
        reading.add(name, f"{size / 1e6 / took:.0f}", peak)
    head = f"{size / 1e6:.0f} MB of float32 weights, medians of {rounds} alternating rounds."
    return [head, "", reading.markdown(), "", writing.markdown()]


@click.command(help=__doc__)
@click.option("--megabytes", default=500, show_default=True, help="Weights in the file.")
@click.option("--rounds", default=7, show_default=True, help="Turns of each side.")
@click.option("--output", type=OutputFile(), help="Also write the tables there.")
@click.option("--folder", type=click.Path(path_type=Path), help="For the files [a temporary one].")
@click.option("--peak-of", hidden=True)
def main(
    megabytes: int, rounds: int, output: Path | None, folder: Path | None, peak_of: str | None
) -> None:
    if peak_of and folder:
        print_peak(folder, peak_of)
        return
    with tempfile.TemporaryDirectory(dir=folder) as name:
        lines = tables(Path(name), megabytes, rounds)
    text = "\n".join(["# Torch 7 files", "", f"{machine()}, {today()}", "", *lines, ""])
    print(text)
    if output:
        write_measured(output, text)


if __name__ == "__main__":
    main()
