"""Which options draw the better faces in the same processor time.

    python -m benchmarks.recipes --seen FOLDER --unseen FOLDER --out FOLDER [RECIPE ...]

Every recipe (a name below, or flags in quotes) trains on --seen with every seed for about --cpu
seconds of processor time, two runs side by side, and is measured against --unseen. How many epochs
that is, is found by two short runs: learning rates that fall need to know it. The lines go to
OUT/figures.jsonl and OUT/table.md; one folder per run keeps its network, its evaluation and a grid.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import click

from benchmarks.faces_found import faces_found
from eyescream_py import load_generator
from eyescream_py.results.sampling import save_grid

ROOT = Path(__file__).parents[1]
RUN = ("--noplot", "--threads=1", "--saveFreq=100000", "--evaluate_every=0")
RECIPES = {
    "lua": "",
    "lua, averaged": "--G_ema=0.995",
    "best": "--recipe=best",
    "large": "--recipe=large",
    "best, Lua's G": "--recipe=best --G_arch=mlp",
    "best, Lua's D": "--recipe=best --D_arch=default",
    "best, R1 0.1": "--recipe=best --D_r1=0.1",
    "best, R1 0.02": "--recipe=best --D_r1=0.02",
    "best, rate 2e-3": "--recipe=best --D_adam_lr=0.002 --G_adam_lr=0.002",
    "best, rate 5e-4": "--recipe=best --D_adam_lr=0.0005 --G_adam_lr=0.0005",
    "best, no momentum": "--recipe=best --adam_beta1=0",
    "best, translation": "--recipe=best --D_augment=translation",
    "best, steady rate": "--recipe=best --lr_fall=1",
}


def processor_seconds(command: list[str], output: Path) -> float:
    """Run it; user and system time that it and its children took."""
    with open(output, "a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        said = output.read_text(errors="replace").strip().splitlines()
        raise click.ClickException(f"{output}: training failed: {said[-1] if said else status}")
    return used.ru_utime + used.ru_stime


def train(flags: list[str], folder: Path, epochs: int) -> float:
    """A run of so many epochs in `folder`; its processor seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "train.py", *RUN, *flags, f"--epochs={epochs}", f"--save={folder}"]
    return processor_seconds(command, folder / "output.txt")


def epochs_within(flags: list[str], folder: Path, seconds: float) -> int:
    """Epochs that take `seconds` of processor time, the start of the program left out."""
    short, long = (train(flags, folder / f"trial{n}", n) for n in (2, 8))
    return max(1, round(seconds * 6 / (long - short)))


def measure(folder: Path, seen: str, unseen: str, images: int, *more: str) -> dict[str, Any]:
    """What `evaluate` finds of the run in `folder`."""
    command = [
        sys.executable, "-m", "eyescream_py", "evaluate", str(folder / "adversarial.net"),
        f"--dataset={seen}", f"--heldout={unseen}", f"--images={images}", f"--writeto={folder}",
        "--threads=1", "--gpu=-1", *more,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, cwd=ROOT)
    if done.returncode:  # it has said why
        raise click.ClickException(f"{folder}: it could not be evaluated")
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def one_run(
    name: str, seed: int, epochs: int, flags: list[str], out: Path, seen: str, unseen: str,
    images: int,
) -> dict[str, Any]:  # fmt: skip
    """Train and measure; the row of figures is printed and added to OUT/figures.jsonl."""
    folder = out / f"{re.sub('[^A-Za-z0-9.]+', '_', name)}_{seed}"
    used = train([*flags, f"--seed={seed}"], folder, epochs)
    found, last = measure(folder, seen, unseen, images), None
    generated, real = found["swd"]["generated"], found["swd"]["real"]
    if "G_ema" in " ".join(flags) or "--recipe=" in " ".join(flags):
        last = measure(folder, seen, unseen, images, "--no-ema")["swd"]["generated"]["mean"]
        found = measure(folder, seen, unseen, images)
    made = load_generator(folder / "adversarial.net").sample(500)
    save_grid(folder / "grid.png", made[:100], 20)
    figures = {
        "recipe": name, "seed": seed, "flags": " ".join(flags), "epochs": epochs,
        "cpu_seconds": round(used),
        **{f"swd {level}": round(value, 1) for level, value in generated.items()},
        "floor": round(real["mean"], 1), "floor of images": round(real["image"], 1),
        "last G": last and round(last, 1),
        "diversity": round(found["diversity"]["generated"] / found["diversity"]["real"], 2),
        "nearer_to_training": round(found["nearer_to_training"], 2),
        "faces found": round(faces_found(made.numpy()), 2),
    }  # fmt: skip
    print(json.dumps(figures), flush=True)
    with open(out / "figures.jsonl", "a") as file:
        file.write(json.dumps(figures) + "\n")
    return figures


def table(rows: list[dict[str, Any]]) -> str:
    """One line per recipe: means over its seeds."""
    names = list(dict.fromkeys(row["recipe"] for row in rows))
    lines = [
        "| recipe | seeds | CPU s | epochs | mean SWD | whole pictures | last G | diversity "
        "| nearer to training | faces found |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ("cpu_seconds", "epochs", "swd mean", "swd image", "last G", "diversity")
    for name in names:
        of = [row for row in rows if row["recipe"] == name]
        cells = [
            f"{mean(row[key] for row in of):.4g}" if all(row[key] for row in of) else "-"
            for key in (*keys, "nearer_to_training", "faces found")
        ]
        spread = "/".join(f"{row['swd mean']:.0f}" for row in of)
        cells[2] += f" ({spread})"
        lines.append(f"| {name} | {len(of)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("recipes", nargs=-1)
@click.option("--seen", required=True, help="Folder of training pictures.")
@click.option("--unseen", required=True, help="Folder of pictures of other people.")
@click.option("--flags", default="--scale=16 --grayscale --gpu=-1", show_default=True)
@click.option("--cpu", default=600.0, show_default=True, help="CPU seconds per run.")
@click.option("--epochs", default=0, help="As many epochs, whatever the time.")
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--images", default=1000, show_default=True, help="Pictures compared.")
@click.option("--jobs", default=2, show_default=True, help="Runs side by side.")
@click.option("--out", required=True, help="Folder for the runs.")
def main(
    recipes: tuple[str, ...], seen: str, unseen: str, flags: str, cpu: float, epochs: int,
    seeds: str, images: int, jobs: int, out: str,
) -> None:  # fmt: skip
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    plans = []
    for name in recipes or RECIPES:
        own = [*flags.split(), f"--dataset={seen}", *RECIPES.get(name, name).split()]
        n = epochs or epochs_within(own, folder / "trial", cpu)
        plans += [
            partial(one_run, name, int(seed), n, own, folder, seen, unseen, images)
            for seed in seeds.split(",")
        ]
    with ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(lambda plan: plan(), plans))
    (folder / "table.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
