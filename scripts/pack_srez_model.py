"""A checkpoint's generator alone, in 16-bit floats: what srez ships for `--run upscale`.

python -m scripts.pack_srez_model CHECKPOINT TARGET
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import torch

from eyescream_py.srez.checkpoints import read_checkpoint, write_checkpoint
from eyescream_py.srez.options import Options

PLACES = ("dataset", "checkpoint_dir", "train_dir", "summary_dir", "cache_dir", "test_list")


def pack(checkpoint: Path, target: Path) -> int:
    """Write `target`, without the places of the machine that trained; returns its bytes."""
    stored = read_checkpoint(checkpoint)
    generator = {
        name: tensor.to(torch.float16)
        for name, tensor in stored.tensors.items()
        if name.startswith("generator/")
    }
    default = Options()
    options = dataclasses.replace(stored.options, **{n: getattr(default, n) for n in PLACES})
    write_checkpoint(target, dataclasses.replace(stored, tensors=generator, options=options))
    return target.stat().st_size


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def main(checkpoint: Path, target: Path) -> None:
    print(f"{target}: {pack(checkpoint, target)} bytes")


if __name__ == "__main__":
    main()
