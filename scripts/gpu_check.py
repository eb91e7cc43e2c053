"""All that only a GPU can show, in one command of at most six minutes: `make gpu-check`.

    python -m scripts.gpu_check [--device cuda|cpu] [--dataset FOLDER] [--output FILE] [--only WORD]

Runs the tests of CUDA, runs that are repeated and continued to the bit, every trainer and sibling
on real pictures, the table of training iterations, and ganless-hd at 512 px. Each section is a
process with its own time limit, and all together have one, of which those that are timed keep a
part; a failing one is recorded and the others go on. Writes a summary of at most 60 lines
(to `--output` between the marks of `benchmarks.report`) and ends with exit code 1 where a section
failed. What went on without kernels or recordings has passed, and is told. `--device cpu` tries the
script itself, on tiny sizes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.report import machine, today, write_measured

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
DETAILS = 4  # last lines of a section that failed, in the summary
MOST_LINES = 60
SLOWER_ON_CPU = 4
PARTS = 3  # of the tests
WHOLE = 340  # seconds for all sections, so that six minutes are never exceeded
KEPT = 120  # of them for those that run alone, which took 50 to 60
# kernels or recordings, in `system`'s words
WITHOUT = ("this run goes on", "This run goes on", "torch's operators do its work")
STOPPED = threading.Event()  # by Ctrl-C, which does not reach the sections
OF_A_GPU = ("cuda.is_available", "RECORDING")  # in the files of tests that want one


@dataclass(frozen=True)
class Section:
    """Commands one after the other, `limit` seconds in all; `alone`: what it times wants quiet."""

    name: str
    commands: list[list[str]]
    limit: int
    save: Path | None = None  # a trainer's, whose last metrics are worth a line
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    section: Section
    passed: bool
    seconds: float
    output: str

    @property
    def words(self) -> str:
        """What the summary's table says of it."""
        if self.section.save:
            return _last_metrics(self.section.save)
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].strip(" =")[:90] if lines else ""

    @property
    def mark(self) -> str:
        if not self.passed:
            return "FAILED"
        return "ok, without" if self.told else "ok"

    @property
    def told(self) -> list[str]:
        """Lines that say what it went on without, each once."""
        lines = [line for line in self.output.splitlines() if any(w in line for w in WITHOUT)]
        return list(dict.fromkeys(lines))


def run(section: Section, patience: float = 1, end: float = math.inf) -> Outcome:
    """Its commands; what still runs at `end` of `time.monotonic` is stopped."""
    start, output = time.monotonic(), ""
    last = min(start + patience * section.limit, end)
    for command in section.commands:
        left = last - time.monotonic()
        code, said = _run(command, left)
        output += said
        if code:
            break
    seconds = time.monotonic() - start
    outcome = Outcome(section, code == 0, seconds, output)
    print(f"{outcome.mark:6} {seconds:5.0f} s  {section.name}", flush=True)
    if code:
        print("\n".join(output.splitlines()[-30:]), flush=True)
    return outcome


def _run(command: list[str], limit: float) -> tuple[int, str]:
    """(exit code, output); a command that takes too long has failed, and all that it started ends.
    What it says is kept in a file, which no process of its own that stays can hold open for us.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return 127, f"{error}\n"
        end, ending = time.monotonic() + max(limit, 1), ""
        while process.poll() is None and time.monotonic() < end and not STOPPED.wait(0.05):
            pass
        code = process.poll()
        if code is None:
            code, ending = 124, f"\nstopped after its {limit:.0f} s\n"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return code, said.read().decode(errors="replace") + ending


def _last_metrics(save: Path) -> str:
    try:
        record = json.loads((save / "metrics.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return "no metrics"
    wanted = ("epoch", "D_loss", "G_loss", "D_accuracy", "images_per_second", "parzen",
              "train", "validation")  # fmt: skip
    return ", ".join(f"{name} {_short(record[name])}" for name in wanted if name in record)


def _short(value: object) -> str:
    if isinstance(value, list):
        return "/".join(_short(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sections(gpu: bool, pictures: Path, work: Path) -> list[Section]:
    """In the order of the summary; those timed are last and alone. Without a GPU each command has
    the same words and, after them, others that make it tiny.
    """
    words = _Words(gpu)
    made = _tests(gpu)
    repeat = ["-m", "scripts.gpu_repeat", *words.number, f"--dataset={pictures}"]
    made += [
        Section(f"repeated and continued runs, {part}",
                [words.of([*repeat, f"--part={part}"], "--tiny")], 150)
        for part in (1, 2)
    ]  # fmt: skip
    made += _trainers(words, pictures, work) + _siblings(words, pictures, work)
    table, tiny = ["-m", "benchmarks.gpu_step", *words.number], "--bursts=1 --burst=1"
    whole = words.of(table, f"--only=16px --batch=4 {tiny}")
    made.append(Section("training iterations", [whole], 170, alone=True))
    large = ["-m", "benchmarks.ganless_hd", "--ours", "--size=512", "--batch=12", "--features=auto"]
    small = "--size=64 --batch=2 --width=0.125 --rounds=1"
    large = words.of([*large, *words.number], small)
    made.append(Section("ganless-hd at 512 px", [large], 60, alone=True))
    singly = words.of([*table, "--no-flat", "--only=16px", "--batch=16"], tiny)
    made.append(Section("the same, parameters one by one", [singly], 60, alone=True))
    return made


@dataclass(frozen=True)
class _Words:
    """What the commands of a kind of device have in common."""

    gpu: bool

    @property
    def number(self) -> list[str]:
        return ["--gpu=0" if self.gpu else "--gpu=-1"]

    def of(self, words: list[str], small: str = "") -> list[str]:
        """The command, with what makes it small where the processor does it."""
        return [PYTHON, *words, *([] if self.gpu else small.split())]


def _tests(gpu: bool) -> list[Section]:
    """In parts of about a size, beside each other: their kernels are compiled by the processor."""
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if any(word in path.read_text(encoding="utf-8") for word in OF_A_GPU)
    ]
    if not gpu:
        files = ["tests/game/test_capture.py"]
    command, parts = [PYTHON, "-m", "pytest", "-q", "-rf"], min(PARTS, len(files))
    return [
        Section(f"tests of CUDA, {part + 1}", [[*command, *files[part::parts]]], 170)
        for part in range(parts)
    ]


def _trainers(words: _Words, pictures: Path, work: Path) -> list[Section]:
    game = "--N_epoch=8 --batchSize=4 --epochs=1"
    runs = {
        "train_16_gray": ["train.py", "--scale=16", "--grayscale", "--N_epoch=8000"],
        "train_best": ["train.py", "--scale=16", "--grayscale", "--recipe=best", "--N_epoch=8000"],
        "train_32_colour": ["train.py", "--scale=32", "--N_epoch=8000"],
        "train_upsampling": ["train.py", "--scale=32", "--G_arch=upsampling", "--D_arch=b",
                             "--D_r1=1", "--G_ema=0.999", "--N_epoch=4000"],
        "train_c2f": ["train_c2f.py", "--grayscale", "--N_epoch=4000", "--epochs=2"],
        "train_autoencoder": ["train_autoencoder.py", "--scale=16", "--epochs=2"],
        "train_denoiser": ["train_denoiser.py", "--scale=16", "--grayscale", "--epochs=2"],
    }  # fmt: skip
    made = []
    for name, (script, *flags) in runs.items():
        save = work / name
        flags += [] if "autoencoder" in script else ["--noplot"]
        flags += [] if any(flag.startswith("--epochs") for flag in flags) else ["--epochs=1"]
        flags += [*words.number, f"--save={save}", f"--dataset={pictures}"]
        small = game if "N_epoch" in " ".join(flags) else "--epochs=1"
        made.append(Section(name, [words.of([script, *flags], small)], 100, save))
    return made


def _siblings(words: _Words, pictures: Path, work: Path) -> list[Section]:
    srez, image, hd, mln = (work / name for name in ("srez", "image", "ganless_hd", "mln"))
    of, number = words.of, words.number
    return [
        Section("srez", [
            of(["-m", "eyescream_py.srez.make_data", f"--dataset={srez / 'faces'}",
                "--count=300"], "--count=40"),
            of(["-m", "eyescream_py.srez", "--run=train", f"--dataset={srez / 'faces'}",
                f"--checkpoint_dir={srez / 'c'}", f"--train_dir={srez / 't'}",
                f"--summary_dir={srez / 's'}", "--cache_dir=", "--max_batches=300", *number],
               "--max_batches=1 --batch_size=4"),
        ], 100),
        Section("image-model", [
            of(["-m", "eyescream_py.image_model", "make-data", f"--output_dir={image}",
                "--image_size=64", "--unpaired=40", "--pairs=20", "--tests=4"]),
            of(["-m", "eyescream_py.image_model", "train", f"--synth_dir={image / 'Faces_depth'}",
                f"--real_dir={image / 'Faces_real'}", f"--log_dir={image / 'logs'}",
                "--image_size=64", "--max_steps=200", "--noplot", *number],
               "--max_steps=2 --batch_size=2"),
        ], 100),
        *(
            Section(name, [
                of(["-m", "eyescream_py.ganless_hd", "train", f"--dataroota={pictures}",
                    f"--out={hd / name}", "--max-steps=60", "--loadSize=144", "--imgSize=128",
                    "--noplot", *flags, *number], "--max-steps=1 --batchSize=2 --width=0.125"),
            ], 100)
            for name, flags in (("ganless-hd", []), ("ganless-hd as written", ["--no-capture"]))
        ),
        Section("mln", [
            of(["-m", "eyescream_py.mln", "simulate", f"--out={mln}", "--side=32", "--coils=4"]),
            of(["-m", "eyescream_py.mln", "train", f"--params={mln / 'Params.txt'}",
                f"--out={mln / 'out'}", "--batches=200", *number], "--batches=4"),
        ], 100),
    ]  # fmt: skip


def embedded_faces(folder: Path) -> Path:
    """The hundred faces that scikit-image brings along, as PNG files of 64 pixels a side."""
    import numpy as np
    from PIL import Image
    from skimage.data import lfw_subset

    folder.mkdir(parents=True)
    for number, face in enumerate(lfw_subset()[:100]):
        picture = Image.fromarray(np.uint8(255 * face)).convert("RGB")
        picture.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder


def summary(outcomes: list[Outcome], title: str, words: str) -> str:
    """Markdown of at most MOST_LINES lines."""
    lines = [f"# {title}", "", words, "", "| section | | s | |", "|---|---|---|---|"]
    for outcome in outcomes:
        told = outcome.words.replace("|", "/")
        lines.append(
            f"| {outcome.section.name} | {outcome.mark} | {outcome.seconds:.0f} | {told} |"
        )
    for outcome in outcomes:
        table = [line for line in outcome.output.splitlines() if line.startswith("|")]
        if outcome.section.alone and table:
            lines += ["", *table]
    for outcome in outcomes:
        said = outcome.told[:DETAILS]
        if not outcome.passed:
            said += [line for line in outcome.output.splitlines() if line.strip()][-DETAILS:]
        if said:
            lines += ["", f"{outcome.section.name}:", *(f"    {line[:150]}" for line in said)]
    return "\n".join(lines[:MOST_LINES]) + "\n"


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--dataset", type=click.Path(exists=True, path_type=Path), help="Real pictures.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the summary goes.")
@click.option("--only", default="", help="Sections whose name contains this.")
@click.option("--jobs", default=0, help="Sections at a time (0: 6 on a GPU, 1 on a CPU).")
def main(device: str, dataset: Path | None, output: Path | None, only: str, jobs: int) -> None:
    import torch

    gpu = device == "cuda"
    if gpu and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device here; --device=cpu tries the script")
    start, patience = time.monotonic(), 1 if gpu else SLOWER_ON_CPU
    end = start + patience * WHOLE
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures = dataset.resolve() if dataset else embedded_faces(work / "faces")
        todo = [part for part in sections(gpu, pictures, work) if only in part.name]
        beside = [part for part in todo if not part.alone]
        with ThreadPoolExecutor(jobs or (6 if gpu else 1)) as pool:
            first = end - patience * KEPT if len(beside) < len(todo) else end
            try:
                outcomes = list(pool.map(lambda part: run(part, patience, first), beside))
            except KeyboardInterrupt:
                STOPPED.set()
                raise
        outcomes += [run(part, patience, end) for part in todo if part.alone]
        words = f"{machine(torch.device(device))}; {today()}; {time.monotonic() - start:.0f} s"
        text = summary(outcomes, "What a GPU showed (`make gpu-check`)", words)
    print(f"\n{text}")
    if output:
        write_measured(output, text)
    sys.exit(any(not outcome.passed for outcome in outcomes))


if __name__ == "__main__":
    main()
