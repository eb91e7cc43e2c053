"""Train the faces that come with the package (eyescream_py/pretrained/).

    python -m scripts.train_pretrained --dataset dataset/out_aug_64x64 --scale 16 --epochs 600

trains with `--recipe best` in gray on faces that generate_dataset.py made of LFW, and writes
faces16.net: the averaged G and its D as half-precision tensors, with the options of their training.
Further flags of train.py, after `--`, win.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import torch

from eyescream_py import torch7
from eyescream_py.networks import checkpoints

ROOT = Path(__file__).resolve().parents[1]
BOX = ROOT / "eyescream_py" / "pretrained"
PRIVATE = ("save", "dataset", "network")  # options that name places of the machine


def halved(network: torch.nn.Module) -> torch7.TorchObject:
    """The network as a Torch 7 object whose numbers are HalfTensors, without gradients."""
    whole = torch7.from_module(network, as_read=False)
    _halve(whole)
    return whole


def _halve(value: object) -> None:
    if isinstance(value, torch7.TorchObject):
        for name in [name for name in value.fields if str(name).startswith("grad")]:
            del value.fields[name]
        _halve(value.fields)
    elif isinstance(value, torch7.Table | dict):
        for key, part in list(value.items()):
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                value[key] = part.half()
            else:
                _halve(part)


def box(run: Path, out: Path) -> None:
    """Write `out` from the checkpoint that a run left in its folder."""
    path = run / "adversarial.net"
    content = checkpoints.read(path)
    table = {
        "G": halved(checkpoints.module(content, "G_ema", path)),
        "D": halved(checkpoints.module(content, "D", path)),
        "opt": {k: v for k, v in content["opt"].items() if k not in PRIVATE},
        "epoch": content["epoch"],
    }
    with open(out, "wb") as file:
        torch7.save(file, table)
    print(f"Written: {out} ({out.stat().st_size} bytes)")


@click.command(help=__doc__)
@click.option("--dataset", required=True, help="Faces of generate_dataset.py.")
@click.option("--scale", default=16, show_default=True, type=click.Choice([16, 32]))
@click.option("--epochs", default=600, show_default=True)
@click.option("--gpu", default=-1, show_default=True)
@click.option("--run", default="", help="Folder of the run (default: logs/pretrained SCALE).")
@click.option("--out", default=str(BOX), show_default=False, help="Folder of the result.")
@click.argument("more", nargs=-1)
def main(
    dataset: str, scale: int, epochs: int, gpu: int, run: str, out: str, more: tuple[str, ...]
) -> None:
    folder = Path(run or f"logs/pretrained{scale}")
    command = [
        sys.executable, "train.py", "--noplot", "--recipe=best", "--grayscale", f"--scale={scale}",
        f"--dataset={dataset}", f"--epochs={epochs}", f"--gpu={gpu}", f"--save={folder}",
        "--saveFreq=100", *more,
    ]  # fmt: skip
    code = subprocess.run(command, check=False, cwd=ROOT).returncode
    if code:
        sys.exit(code)  # train.py has said why
    box(folder, Path(out) / f"faces{scale}.net")


if __name__ == "__main__":
    main()
