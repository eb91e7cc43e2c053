"""Does the line about a collapse stay away from games that are well? Twenty short, different runs.

    python -m benchmarks.healthy_runs --faces FOLDER [--colour FOLDER] [--seconds 20] [--only WORD]

Each run trains from the command line until its processor time is used up. Prints a row per run:
epochs, steps of D, last losses, accuracy of D, and the line where one came. Ends with exit code 1
if one came.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.long_colour import WORDS, metrics
from benchmarks.processes import cpu_seconds
from benchmarks.report import Table

GRAY, COLOUR, SMALL = "gray", "colour", "embedded"  # 18,000 faces, some hundreds, 100
BEST = "--recipe=best --epochs=40 --N_epoch=640"
RUNS = [  # data, script and its flags
    (GRAY, "train --scale=16 --grayscale"),
    (GRAY, "train --scale=16 --grayscale --seed=2 --precision=fp32"),
    (GRAY, "train --scale=16 --grayscale --D_maxAcc=0.6"),
    (GRAY, "train --scale=16 --grayscale --D_optmethod=sgd --G_optmethod=sgd"),
    (GRAY, "train --scale=16 --grayscale --D_optmethod=adagrad --G_optmethod=adagrad"),
    (GRAY, "train --scale=8 --grayscale"),
    (GRAY, "train --scale=8 --grayscale --batchSize=4 --seed=3"),
    (GRAY, "train --scale=16 --grayscale --D_arch=small"),
    (GRAY, "train --scale=16 --grayscale --D_arch=small --G_arch=conv --D_r1=1"),
    (GRAY, "train --scale=16 --grayscale --G_arch=upsampling --G_ema=0.99"),
    (GRAY, f"train --scale=16 --grayscale {BEST}"),
    (GRAY, f"train --scale=16 --grayscale {BEST} --seed=2 --D_augment=translation,mirror"),
    (GRAY, "train_c2f --grayscale --coarseSize=8 --fineSize=16"),
    (GRAY, "train_c2f --grayscale --coarseSize=8 --fineSize=16 --seed=2 --D_optmethod=adam"),
    (COLOUR, "train --scale=8"),
    (COLOUR, "train --scale=16 --D_r1=0.1 --D_smooth=0.1"),
    (COLOUR, f"train --scale=16 {BEST} --D_augment=translation,mirror"),
    (COLOUR, "train_c2f --coarseSize=8 --fineSize=16"),
    (SMALL, "train --scale=8 --grayscale"),
    (SMALL, f"train --scale=16 --grayscale {BEST}"),
]


def run(words: str, dataset: str, seconds: float, save: Path) -> str:
    """What the run said; it is stopped politely after `seconds` of processor time."""
    script, *flags = words.split()
    flags = flags if any("epoch" in flag for flag in flags) else [*flags, "--N_epoch=160"]
    command = [sys.executable, f"{script}.py", *flags, f"--dataset={dataset}", f"--save={save}",
               "--noplot", "--gpu=-1", "--threads=1"]  # fmt: skip
    with open(save.with_suffix(".log"), "w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if cpu_seconds(process.pid) > seconds:
                process.send_signal(signal.SIGTERM)
                process.wait()
            time.sleep(0.5)
        said.seek(0)
        if process.returncode:
            raise click.ClickException(f"{words}: {said.read()[-500:]}")
        return said.read()


@click.command()
@click.option("--faces", type=click.Path(exists=True), required=True, help="Gray faces.")
@click.option("--colour", type=click.Path(exists=True), help="Faces in colour.")
@click.option("--seconds", default=20.0, help="Of processor time for each run.")
@click.option("--only", default="", help="Runs whose flags contain this.")
@click.option("--skip", default=0, help="So many of the runs.")
def main(faces: str, colour: str | None, seconds: float, only: str, skip: int) -> None:
    table = Table("data", "run", "epochs", "steps of D", "D loss", "G loss", "accuracy", "told")
    data, fired = {GRAY: faces, COLOUR: colour, SMALL: SMALL}, 0
    for kind, words in RUNS[skip:]:
        if only not in words or not data[kind]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            save = Path(folder) / "run"
            save.mkdir()
            said = run(words, str(data[kind]), seconds, save)
            rows = metrics(save)
        told = [line for line in said.splitlines() if any(mark in line for mark in WORDS)]
        fired += bool(told)
        last = rows[-1] if rows else {"D_loss": 0, "G_loss": 0, "D_accuracy": 0}
        table.add(
            kind, words, len(rows), sum(row["D_steps"] for row in rows), f"{last['D_loss']:.2f}",
            f"{last['G_loss']:.2f}", f"{last['D_accuracy']:.0%}", told[0] if told else "",
        )  # fmt: skip
        print(table.last(), flush=True)
    print(f"told of a collapse: {fired} runs")
    sys.exit(bool(fired))


if __name__ == "__main__":
    main()
