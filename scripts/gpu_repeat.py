"""Runs of the trainers, repeated and continued: all that they save has to be equal to the bit.

A part of `make gpu-check`:

    python -m scripts.gpu_repeat [--gpu 0] --dataset FOLDER [--tiny] [--part 1]
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from eyescream_py import torch7
from tests.small_runs import assert_same


class Case(Protocol):
    """A run that may be made in one part or two."""

    def train(self, save: Path, gpu: int, dataset: Path, parts: int, goes_on: bool) -> None:
        """Up to the end of so many parts, 1 or 2; `goes_on`: from where `save` is."""
        ...

    def saved(self, save: Path) -> Any:
        """What it has left behind."""
        ...


@dataclass(frozen=True)
class Faces:
    """A face trainer; a part is an epoch."""

    script: str
    file: str
    flags: tuple[str, ...]

    def train(self, save: Path, gpu: int, dataset: Path, parts: int, goes_on: bool) -> None:
        words = [f"--save={save}", "--noplot", *self.flags, f"--gpu={gpu}", f"--dataset={dataset}"]
        words += [f"--network={self.file}"] if goes_on else []
        invoke(f"eyescream_py.cli.{self.script}", *words, f"--epochs={parts}")

    def saved(self, save: Path) -> Any:
        return torch7.load(save / self.file)


@dataclass(frozen=True)
class GanlessHd:
    """ganless-hd; a part is a dozen steps."""

    flags: tuple[str, ...]

    def train(self, save: Path, gpu: int, dataset: Path, parts: int, goes_on: bool) -> None:
        words = ["train", f"--out={save}", "--noplot", "--nthread=0", *self.flags, f"--gpu={gpu}"]
        words += [f"--dataroota={dataset}", f"--cache={save.parent / 'cache'}"]
        words += ["--resume"] if goes_on else []
        invoke("eyescream_py.ganless_hd.__main__", *words, f"--max-steps={12 * parts}")

    def saved(self, save: Path) -> Any:
        return load_file(save / "saves" / "latest.safetensors")


def of_faces(*flags: str) -> Faces:
    return Faces("train", "adversarial.net", (*flags, "--N_epoch=400"))


CASES: dict[str, Case] = {
    "16 px gray": of_faces("--scale=16", "--grayscale"),
    "16 px gray, fp32": of_faces("--scale=16", "--grayscale", "--precision=fp32"),
    "32 px colour": of_faces("--scale=32"),
    "R1, EMA, views": of_faces("--scale=16", "--D_r1=1", "--G_ema=0.99", "--D_maxAcc=0.9",
                               "--D_augment=colour,translation,cutout"),
    "residual D": of_faces("--scale=16", "--recipe=large", "--D_arch=residual"),
    "c2f": Faces("train_c2f", "adversarial_c2f_16_to_32.net",
                 ("--grayscale", "--parzenImages=20", "--N_epoch=400")),
    "denoiser": Faces("train_denoiser", "denoiser_1x16x16.net", ("--grayscale",)),
    "ganless-hd": GanlessHd(("--loadSize=72", "--imgSize=64", "--batchSize=4")),
}  # fmt: skip
# by the processor, where auto could choose another type for each run
TINY: dict[str, Case] = {
    "tiny": Faces("train", "adversarial.net", ("--scale=8", "--grayscale", "--batchSize=4",
                                               "--N_epoch=12", "--precision=fp32")),
    "ganless-hd, tiny": GanlessHd(("--loadSize=72", "--imgSize=64", "--batchSize=2",
                                   "--width=0.125", "--features=random",
                                   "--features-width=0.125")),
}  # fmt: skip


def invoke(module: str, *words: str) -> None:
    done = CliRunner().invoke(importlib.import_module(module).main, list(words))
    if done.exit_code:
        raise RuntimeError(f"{' '.join(words)}: {done.output[-600:]}") from done.exception


def differences(case: Case, gpu: int, dataset: Path, folder: Path) -> list[str]:
    """What differs of a run that was repeated, and of one that was continued after its first
    part.
    """
    for name in ("first", "again"):
        case.train(folder / name, gpu, dataset, 2, False)
    for part in (1, 2):
        case.train(folder / "continued", gpu, dataset, part, part == 2)
    found = []
    first = case.saved(folder / "first")
    for name in ("again", "continued"):
        try:
            assert_same(first, case.saved(folder / name))
        except AssertionError as error:
            found.append(f"{name}: {(str(error).splitlines() or ['?'])[0][:60]}")
    return found


@click.command()
@click.option("--gpu", default=0)
@click.option("--dataset", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--tiny", is_flag=True, help="Cases of tiny size, to try the script.")
@click.option("--part", type=click.IntRange(0, 2), default=0, help="Of the cases; 0: both.")
def main(gpu: int, dataset: Path, tiny: bool, part: int) -> None:
    cases, wrong = list((TINY if tiny else CASES).items()), []
    cases = cases[part - 1 :: 2] if part else cases
    for name, case in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = differences(case, gpu, dataset, Path(folder))
            except (RuntimeError, OSError) as error:
                found = [str(error)]
        print(f"{name}: {'; '.join(found) or 'equal to the bit'}", flush=True)
        wrong += [name] if found else []
        torch.cuda.empty_cache()
    if wrong:
        print(f"not to the bit: {', '.join(wrong)}")
        sys.exit(1)
    print(f"{len(cases)} runs repeated and continued, all equal to the bit")


if __name__ == "__main__":
    main()
