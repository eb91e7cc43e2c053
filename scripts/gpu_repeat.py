"""Runs of the trainers, repeated and continued: all that they save has to be equal to the bit.

A part of `make gpu-check`:

    python -m scripts.gpu_repeat [--gpu 0] --dataset FOLDER [--tiny]
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

import click
import torch
from click.testing import CliRunner

from eyescream_py import torch7
from tests.small_runs import assert_same

CASES = {  # name -> command, its file, flags
    "16 px gray": ("train", "adversarial.net", ("--scale=16", "--grayscale")),
    "16 px gray, fp32": ("train", "adversarial.net", ("--scale=16", "--grayscale",
                         "--precision=fp32")),
    "32 px colour": ("train", "adversarial.net", ("--scale=32",)),
    "R1, EMA, views": ("train", "adversarial.net", ("--scale=16", "--D_r1=1", "--G_ema=0.99",
                       "--D_augment=colour,translation,cutout", "--D_maxAcc=0.9")),
    "c2f": ("train_c2f", "adversarial_c2f_16_to_32.net", ("--grayscale", "--parzenImages=20")),
    "denoiser": ("train_denoiser", "denoiser_1x16x16.net", ("--grayscale",)),
}  # fmt: skip
# by the processor, where auto could choose another type for each run
TINY = ("--scale=8", "--grayscale", "--batchSize=4", "--N_epoch=12", "--precision=fp32")


def train(script: str, save: Path, *flags: str) -> None:
    main = importlib.import_module(f"eyescream_py.cli.{script}").main
    done = CliRunner().invoke(main, [f"--save={save}", "--noplot", *flags])
    if done.exit_code:
        raise RuntimeError(f"{script} {' '.join(flags)}: {done.output[-600:]}") from done.exception


def differences(script: str, file: str, flags: tuple[str, ...], folder: Path) -> list[str]:
    """What differs of a run that was repeated, and of one that was continued after an epoch."""
    for name in ("first", "again"):
        train(script, folder / name, *flags, "--epochs=2")
    train(script, folder / "continued", *flags, "--epochs=1")
    train(script, folder / "continued", *flags, "--epochs=2", f"--network={file}")
    found = []
    first = torch7.load(folder / "first" / file)
    for name in ("again", "continued"):
        try:
            assert_same(first, torch7.load(folder / name / file))
        except AssertionError as error:
            found.append(f"{name}: {(str(error).splitlines() or ['?'])[0][:60]}")
    return found


@click.command()
@click.option("--gpu", default=0)
@click.option("--dataset", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--tiny", is_flag=True, help="One case of tiny size, to try the script.")
def main(gpu: int, dataset: Path, tiny: bool) -> None:
    cases = {"tiny": ("train", "adversarial.net", TINY)} if tiny else CASES
    wrong = []
    for name, (script, file, flags) in cases.items():
        more = (f"--gpu={gpu}", f"--dataset={dataset}", *(() if tiny else ("--N_epoch=400",)))
        if script == "train_denoiser":
            more = more[:2]
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = differences(script, file, (*flags, *more), Path(folder))
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
