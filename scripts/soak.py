#!/usr/bin/env python3
"""Train for hours and watch what must not grow: memory, open files, logs.

`python scripts/soak.py --minutes=120` trains tiny networks in a process of its own, which gets
`--share` of its time (it is frozen in between), and writes a line per `--every` seconds to
FOLDER/soak.jsonl. At the end it prints a table and exits with 1 where memory or files grew.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
COMMON = (
    "--grayscale", "--batchSize=4", "--N_epoch=64", "--noplot", "--gpu=-1", "--threads=1",
    "--epochs=0", "--log_every=4", "--dataset=embedded", "--G_ema=0.99",
)  # fmt: skip
TINY = {
    "train.py": ("--scale=8", "--saveFreq=20"),
    "train_c2f.py": ("--coarseSize=4", "--fineSize=8", "--saveFreq=10", "--parzenImages=10"),
}
SLICE_S = 2.0  # how long the training runs between two pauses
WARM_UP_MIN = 10.0
MEMORY_SLACK = 1.05


@click.command(help=__doc__)
@click.option("--minutes", default=120.0, show_default=True, help="How long to train.")
@click.option("--share", default=1.0, show_default=True, help="Share of the time it may run.")
@click.option("--every", default=20.0, show_default=True, help="Seconds between two lines.")
@click.option("--folder", default="/tmp/soak", show_default=True, help="Where the run writes.")  # noqa: S108
@click.option("--script", type=click.Choice(list(TINY)), default="train.py", show_default=True)
def main(minutes: float, share: float, every: float, folder: str, script: str) -> None:
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "output.txt", "w") as output:
        command = [sys.executable, str(ROOT / script), *COMMON, *TINY[script]]
        command.append(f"--save={home / 'run'}")
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            records = watch(process, home, minutes, share, every)
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            code = process.wait(120)
    print(report(records))
    print(f"SIGTERM ended the training with exit code {code}")
    sys.exit(0 if code == 0 and is_flat(records) else 1)


def watch(
    process: subprocess.Popen[bytes], home: Path, minutes: float, share: float, every: float
) -> list[dict[str, Any]]:
    """Let the process run and pause in turn; a record of what it holds every so often."""
    start = last = time.monotonic()
    records = []
    with open(home / "soak.jsonl", "w") as file:
        while time.monotonic() - start < 60 * minutes and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            time.sleep(SLICE_S)
            if time.monotonic() - last >= every and process.poll() is None:
                last = time.monotonic()
                records.append(measure(process.pid, home / "run", last - start))
                file.write(json.dumps(records[-1]) + "\n")
                file.flush()
            if share < 1:
                process.send_signal(signal.SIGSTOP)
                time.sleep(SLICE_S * (1 / share - 1))
    return records


def measure(pid: int, run: Path, seconds: float) -> dict[str, Any]:
    """Resident and locked-in memory (kB), open files, threads, epochs done, bytes in SAVE."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    metrics = run / "metrics.jsonl"
    files = [p for p in run.rglob("*") if p.is_file()] if run.is_dir() else []
    return {
        "minutes": round(seconds / 60, 2),
        "resident_kB": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "open_files": len(os.listdir(f"/proc/{pid}/fd")),
        "epochs": metrics.read_bytes().count(b"\n") if metrics.is_file() else 0,
        "metrics_bytes": _size(metrics),
        "losses_bytes": _size(run / "losses.jsonl"),
        "pictures_bytes": sum(p.stat().st_size for p in files if p.suffix == ".png"),
        "checkpoint_bytes": sum(p.stat().st_size for p in files if ".net" in p.name),
        "temporaries": sum(p.suffix == ".tmp" for p in files),
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def is_flat(records: list[dict[str, Any]]) -> bool:
    """Memory after the warm-up within 5 % of what it was then; as many files at the end."""
    warm = [r for r in records if r["minutes"] >= WARM_UP_MIN]
    if len(warm) < 2:
        return False
    part = max(1, len(warm) // 5)
    first, last = (
        statistics.median(r["resident_kB"] for r in rows) for rows in (warm[:part], warm[-part:])
    )
    files = [r["open_files"] for r in warm]
    return last <= MEMORY_SLACK * first and statistics.median(files[-part:]) <= min(files) + 1


def report(records: list[dict[str, Any]]) -> str:
    """A Markdown table of about a dozen of the records."""
    if not records:
        return "nothing was measured"
    step = max(1, len(records) // 12)
    chosen = records[::step]
    if chosen[-1] is not records[-1]:
        chosen.append(records[-1])
    names = list(records[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(str(r[name]) for name in names) + " |" for r in chosen]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
