"""Kill each of the eight trainers at random moments, resume, and compare with an undisturbed run.

    python -m scripts.kill_trainers --kills=200 --seconds=3000

Every process is the trainer's own command line, ended by SIGKILL: half of the times at any moment,
half of them at one of the syncs, links and renames of a save, which pauses there. The next process
resumes from what lies there. When a run comes to its end, the tensors of its last checkpoint must
equal those of the undisturbed run to the bit. Prints a table; code 1 where anything differed.
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PAUSE = 0.02  # seconds, at each step of a save that waits for its kill
STEPS = 8
SIBLINGS = ("srez", "image_model", "ganless_hd", "mln")
IMPORTED = (
    "torch._dynamo", "matplotlib.figure", "eyescream_py.training.faces",
    "eyescream_py.training.c2f", "eyescream_py.training.reconstruct",
)  # fmt: skip


@dataclass
class Trainer:
    """How a trainer is started in a folder (again: with what lies there), and what it left."""

    main: str
    command: Callable[[Path], list[str]]  # empty where nothing is left to do
    last: Callable[[Path], Path | None]  # newest checkpoint below a folder
    tensors: Callable[[Path], dict[str, Any]]


def face_trainer(script: str, data: Path) -> Trainer:
    from tests.small_runs import FILES, SCRIPTS, pictures

    options = [w for w in SCRIPTS[script] if not w.startswith("--N_epoch")]
    options += ["--saveFreq=1", f"--epochs={STEPS}", f"--dataset={pictures(data, script)}"]
    options += ["--N_epoch=4"] if script in ("train", "train_c2f") else []

    def last(folder: Path) -> Path | None:
        return next((p for p in [folder / FILES[script]] if p.exists()), None)

    def command(folder: Path) -> list[str]:
        again = [f"--network={FILES[script]}"] if last(folder) else []
        return [*options, f"--save={folder}", *again]

    return Trainer(f"eyescream_py.cli.{script}", command, last, torch7_tensors)


def srez_trainer(data: Path) -> Trainer:
    from eyescream_py.srez.make_data import render_face

    (data / "faces").mkdir()
    for number in range(12):
        render_face(number).save(data / "faces" / f"{number}.jpg", quality=92)

    def last(folder: Path) -> Path | None:
        return newest(folder, "checkpoint.safetensors")

    def command(folder: Path) -> list[str]:
        places = [f"--{n}_dir={folder / n}" for n in ("checkpoint", "train", "summary")]
        again = ["--resume"] if last(folder) else []
        return [
            "--run=train", f"--dataset={data / 'faces'}", "--cache_dir=", "--sample_size=32",
            "--width=0.0625", "--batch_size=4", "--test_vectors=4", "--checkpoint_period=1",
            "--summary_period=1000", f"--max_batches={STEPS}", "--gpu=-1", "--threads=1",
            *places, *again,
        ]  # fmt: skip

    return Trainer("eyescream_py.srez.__main__", command, last, safetensors)


def image_model_trainer(data: Path) -> Trainer:
    from eyescream_py.image_model.make_data import make_data

    make_data(data / "heads", size=32, unpaired=12, pairs=12, tests=2, meshes=1, seed=0)
    present = sorted(p.name for p in (data / "heads").iterdir())

    def last(folder: Path) -> Path | None:
        return max(folder.rglob("model.ckpt-*.safetensors"), key=step_of, default=None)

    def command(folder: Path) -> list[str]:
        at = last(folder)
        done = step_of(at) if at else 0
        if done == STEPS:
            return []
        # the fakes that D meets again lie in a cache beside the runs' own folders
        again = [f"--load={at}", "--reuse_replay"] if at else []
        return [
            "train", f"--synth_dir={data / 'heads' / present[0]}",
            f"--real_dir={data / 'heads' / present[1]}", "--image_size=16", "--batch_size=2",
            "--ckpt_freq=1", f"--max_steps={STEPS - done}", f"--log_dir={folder}", "--noplot",
            "--gpu=-1", "--threads=1", "--gen_num=1", "--d_limit=2",
            "--use_replay", "--cache_size=20", f"--cache_path={folder / 'replay'}", *again,
        ]  # fmt: skip

    return Trainer("eyescream_py.image_model.__main__", command, last, safetensors)


def ganless_trainer(data: Path) -> Trainer:
    from eyescream_py.ganless_hd.scenes import write_scenes

    write_scenes(data / "scenes", count=6, size=80, seed=3)

    def last(folder: Path) -> Path | None:
        return newest(folder, "latest.safetensors")

    def command(folder: Path) -> list[str]:
        again = ["--resume"] if last(folder) else []
        return [
            "train", f"--dataroota={data / 'scenes'}", f"--out={folder}", "--nthread=0",
            "--loadSize=72", "--imgSize=64", "--batchSize=2", "--itersPerEpoch=7",
            "--width=0.0625", "--features=random", "--features-width=0.0625", "--noplot",
            "--gpu=-1", "--threads=1", "--save-every=1", f"--max-steps={2 * STEPS}", *again,
        ]  # fmt: skip

    return Trainer("eyescream_py.ganless_hd.__main__", command, last, safetensors)


def mln_trainer(data: Path) -> Trainer:
    from tests.mln.small import SIDE, write_protocol_files

    write_protocol_files(data)

    def last(folder: Path) -> Path | None:
        return newest(folder, "checkpoint_new.safetensors")

    def command(folder: Path) -> list[str]:
        at = last(folder)
        sides = [f"--{n}={SIDE}" for n in ("LabelsH", "LabelsW", "aDataH", "aDataW")]
        return [
            "train", *sides, f"--kMax={SIDE / 2}", "--nNeighbors=4", "--nTimeSegments=1",
            "--batch_size=4", "--kGrid=matched", f"--BaseTSDataP={data}",
            f"--BaseNUFTDataP={data}", "--checkpoint_period=0.00001", "--summary_period=100",
            "--QuickFailureTimeM=1000", f"--batches={STEPS}", f"--out={folder}", "--gpu=-1",
            "--threads=1", "--test-images=0", "--no-plots",
            *([f"--resume={at}"] if at else []),
        ]  # fmt: skip

    return Trainer("eyescream_py.mln.__main__", command, last, safetensors)


def newest(folder: Path, pattern: str) -> Path | None:
    found = folder.rglob(pattern)
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def step_of(path: Path) -> int:
    return int(re.findall(r"-(\d+)\.safetensors", path.name)[0])


def torch7_tensors(path: Path) -> dict[str, Any]:
    """Everything of a .net but its options and times."""
    from eyescream_py import torch7

    return {k: v for k, v in torch7.load(path).items() if k != "opt"}


def safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


TRAINERS: dict[str, Callable[[Path], Trainer]] = {
    **{script: functools.partial(face_trainer, script)
       for script in ("train", "train_c2f", "train_autoencoder", "train_denoiser")},
    "srez": srez_trainer,
    "image_model": image_model_trainer,
    "ganless_hd": ganless_trainer,
    "mln": mln_trainer,
}  # fmt: skip


def start(trainer: Trainer, folder: Path, log: Path, moments: int | None) -> int:
    """Fork the command; `moments`: a pipe that gets a byte at each step of a save."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        if moments is not None:
            pausing_saves(moments)
        main = import_module(trainer.main).main
        code = main(trainer.command(folder), standalone_mode=False) or 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def pausing_saves(moments: int) -> None:
    def telling(name: str) -> None:
        original = getattr(os, name)

        def step(*args: Any, **options: Any) -> Any:
            os.write(moments, b".")
            time.sleep(PAUSE)
            return original(*args, **options)

        setattr(os, name, step)

    for name in ("fsync", "link", "replace"):
        telling(name)


def killed(trainer: Trainer, folder: Path, log: Path, rng: random.Random, length: float) -> bool:
    """Start and kill; False where the run came to its end before that."""
    if not trainer.command(folder):
        return False
    inside = rng.random() < 0.5
    read, write = os.pipe()
    pid = start(trainer, folder, log, write if inside else None)
    os.close(write)
    if inside:
        for _ in range(rng.randint(1, 25)):
            if not os.read(read, 1):
                break
        time.sleep(rng.random() * PAUSE)
    else:
        time.sleep(rng.random() * length)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(read)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError(f"it ended by itself: {log.read_text()[-2000:]}")
    return os.WIFSIGNALED(status)


def undisturbed(trainer: Trainer, folder: Path, log: Path) -> dict[str, Any]:
    folder.mkdir()
    _, status = os.waitpid(start(trainer, folder, log, None), 0)
    if status:
        raise AssertionError(log.read_text()[-2000:])
    path = trainer.last(folder)
    assert path is not None  # noqa: S101
    return trainer.tensors(path)


def kill_rounds(name: str, kills: int, rng: random.Random, end: float) -> Iterator[int]:
    """Runs of one trainer, each killed again and again; yields the kills of each whole run."""
    from tests.small_runs import assert_same

    with tempfile.TemporaryDirectory(prefix="kill_") as home_name:
        home = Path(home_name)
        (home / "data").mkdir()
        trainer, log = TRAINERS[name](home / "data"), home / "log.txt"
        begun = time.monotonic()
        expected = undisturbed(trainer, home / "whole", log)
        length = time.monotonic() - begun
        done = 0
        while done < kills and time.monotonic() < end:
            folder, count = home / "run", 0
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            while killed(trainer, folder, log, rng, length):
                count += 1
                if trainer.last(folder) is None:  # nothing to resume: from the beginning
                    shutil.rmtree(folder)
                    folder.mkdir()
            path = trainer.last(folder)
            assert path is not None, log.read_text()[-2000:]  # noqa: S101
            assert_same(expected, trainer.tensors(path), name)
            done += count
            yield count


@click.command(help=__doc__)
@click.option("--kills", default=200, show_default=True, help="Of all trainers together.")
@click.option("--seconds", default=3000.0, show_default=True, help="Of the clock, in all.")
@click.option("--seed", default=1, show_default=True)
@click.option("--only", default="", help="Trainers, separated by commas.")
def main(kills: int, seconds: float, seed: int, only: str) -> None:
    import torch

    from eyescream_py.networks import models
    from tests.small_runs import small_D

    torch.set_num_threads(1)
    models.create_D = small_D
    for name in (*IMPORTED, *(f"eyescream_py.{s}.training" for s in SIBLINGS)):
        import_module(name)  # once, for all children
    names = only.split(",") if only else list(TRAINERS)
    rng = random.Random(seed)  # noqa: S311
    began, bad = time.monotonic(), False
    print("| trainer | kills | runs equal to the bit | fault |\n|---|---|---|---|")
    for at, name in enumerate(names):
        # What one trainer leaves of its time is the others'.
        end = time.monotonic() + (began + seconds - time.monotonic()) / (len(names) - at)
        counts, fault = [], ""
        try:
            for count in kill_rounds(name, -(-kills // len(names)), rng, end):
                counts.append(count)
        except AssertionError as error:
            fault, bad = str(error) or "differs", True
        print(f"| {name} | {sum(counts)} | {len(counts)} | {fault} |", flush=True)
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
