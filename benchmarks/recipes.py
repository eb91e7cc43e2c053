"""Which options give the better faces in the same CPU time.

python -m benchmarks.recipes --seen FOLDER --unseen FOLDER --out FOLDER [RECIPE ...]

Every recipe (a name below, or flags in quotes) trains on --seen until its process has used --cpu
seconds, is stopped by SIGTERM as a person would with Ctrl-C, and is measured against --unseen. The
lines go to OUT/figures.jsonl, one folder per recipe keeps its network and its evaluation. On a
machine with other jobs, which make the same work cost more processor time, --epochs compares after
equal work instead.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
RUN = ("--noplot", "--gpu=-1", "--threads=1", "--saveFreq=100000")
TICKS = os.sysconf("SC_CLK_TCK")
AVERAGED = "--G_ema=0.995"
RECIPES = {
    "lua": "",
    "averaged": AVERAGED,
    "upsampling G": f"{AVERAGED} --G_arch=upsampling",
    "D b": f"{AVERAGED} --D_arch=b",
    "slower": f"{AVERAGED} --G_adam_lr=0.0003 --D_adam_lr=0.0003",
    "smooth": f"{AVERAGED} --D_smooth=0.1",
    "R1": f"{AVERAGED} --D_r1=0.1",
    "spectral": f"{AVERAGED} --D_spectral=1.5",
    "views": f"{AVERAGED} --D_augment=translation,cutout",
    "mirror": f"{AVERAGED} --D_augment=mirror",
    "batch 32": f"{AVERAGED} --batchSize=32",
    "gate": f"{AVERAGED} --D_maxAcc=0.85",
}


def cpu_seconds(process: int) -> float:
    """User and system time that the process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def train(flags: list[str], seen: str, folder: Path, seconds: float) -> float:
    """CPU seconds used."""
    command = [sys.executable, str(ROOT / "train.py"), *RUN, f"--dataset={seen}", *flags]
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen([*command, f"--save={folder}"], stdout=output, stderr=output)
        used = 0.0
        while process.poll() is None and used < seconds:
            used = cpu_seconds(process.pid)
            time.sleep(0.5)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        if process.wait(300):
            raise SystemExit(f"{folder}/output.txt: training ended with {process.returncode}")
    return used


def measure(folder: Path, seen: str, unseen: str, images: int, *more: str) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "eyescream_py", "evaluate", str(folder / "adversarial.net"),
        f"--dataset={seen}", f"--heldout={unseen}", f"--images={images}", f"--writeto={folder}",
        "--threads=1", "--gpu=-1", *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return json.loads((folder / "evaluation.json").read_text())


def line(name: str, flags: list[str], folder: Path, used: float, found: Any) -> dict[str, Any]:
    epochs = (folder / "metrics.jsonl").read_text().splitlines()
    generated = found["swd"]["generated"]
    return {
        "recipe": name,
        "flags": " ".join(flags),
        "cpu_seconds": round(used),
        "epochs": len(epochs),
        "D_accuracy": round(json.loads(epochs[-1])["D_accuracy"], 3),
        **{f"swd {level}": round(value, 1) for level, value in generated.items()},
        "swd floor": round(found["swd"]["real"]["mean"], 1),
        "diversity": round(found["diversity"]["generated"] / found["diversity"]["real"], 2),
        "nearer_to_training": round(found["nearer_to_training"], 2),
    }


@click.command(help=__doc__)
@click.argument("recipes", nargs=-1)
@click.option("--seen", required=True, help="Folder of training pictures.")
@click.option("--unseen", required=True, help="Folder of pictures of other people.")
@click.option("--flags", default="--scale=16 --grayscale", show_default=True)
@click.option("--cpu", default=600.0, show_default=True, help="CPU seconds per recipe.")
@click.option("--epochs", default=0, help="Stop after these, whatever the time.")
@click.option("--images", default=1000, show_default=True, help="Pictures compared.")
@click.option("--seed", default=1, show_default=True)
@click.option("--out", required=True, help="Folder for the runs.")
def main(
    recipes: tuple[str, ...], seen: str, unseen: str, flags: str, cpu: float, epochs: int,
    images: int, seed: int, out: str,
) -> None:  # fmt: skip
    for name in recipes or RECIPES:
        folder = Path(out) / name.replace(" ", "_").replace("/", "_")
        folder.mkdir(parents=True)
        own = [
            *flags.split(),
            *RECIPES.get(name, name).split(),
            f"--seed={seed}",
            f"--epochs={epochs}",
        ]
        used = train(own, seen, folder, math.inf if epochs else cpu)
        last = measure(folder, seen, unseen, images, "--no-ema")
        figures = line(name, own, folder, used, measure(folder, seen, unseen, images))
        figures["swd mean of the last G"] = round(last["swd"]["generated"]["mean"], 1)
        print(json.dumps(figures), flush=True)
        with open(Path(out) / "figures.jsonl", "a") as file:
            file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
