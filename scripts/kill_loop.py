#!/usr/bin/env python3
"""Kill a training at random moments and look at what it left behind.

`python scripts/kill_loop.py --kills=500` trains with train_c2f.py's own command (the smallest
networks of the project), every time in a fresh process that is killed by SIGKILL: half of the
times at any moment, half of them inside a save, which is slowed down here (not in the package) to
widen that window. After every kill
  * the newest checkpoint and its .old load, with finite weights;
  * the next process continues from the checkpoint, at the place it holds and nowhere else;
  * it removes the temporary files of the killed one;
  * the metrics have neither a gap nor a duplicate up to the checkpoint.
Prints one JSON line of figures; exit code 1 where anything was lost. `--unsafe` writes checkpoints
in place, to see that the harness notices.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FILE = "adversarial_c2f_2_to_4.net"
OPTIONS = (
    "--coarseSize=2", "--fineSize=4", "--grayscale", "--noplot", "--gpu=-1", "--threads=1",
    "--batchSize=4", "--N_epoch=8", "--saveFreq=1", "--log_every=1", "--validation=4",
    "--parzenImages=2", "--precision=fp32",
)  # fmt: skip


@click.command(help=__doc__)
@click.option("--kills", default=500, show_default=True, help="How many.")
@click.option("--seed", default=1, show_default=True, help="Of the moments.")
@click.option("--seconds", default=0.0, help="End after so long, however many kills there were.")
@click.option("--slow", default=0.02, show_default=True, help="Pause at each step of a slow save.")
@click.option("--unsafe", is_flag=True, help="Write in place, as no one should.")
def main(kills: int, seed: int, seconds: float, slow: float, unsafe: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="kill_loop_") as name:
        loop = Loop(Path(name), random.Random(seed), slow, unsafe)  # noqa: S311
        start = time.monotonic()
        while loop.figures["kills"] < kills and not loop.faults:
            loop.kill_once()
            if seconds and time.monotonic() - start > seconds:
                break
        if not loop.faults:
            loop.finish()
        loop.figures["seconds"] = round(time.monotonic() - start)
        print(json.dumps({**loop.figures, "faults": loop.faults}))
        sys.exit(1 if loop.faults else 0)


class Loop:
    """Starts, kills and inspects trainings in one folder."""

    def __init__(self, home: Path, chance: random.Random, slow: float, unsafe: bool) -> None:
        import torch

        from eyescream_py import torch7
        from eyescream_py.training import c2f  # noqa: F401  (imported once, for all children)

        torch.set_num_threads(1)
        self.home, self.chance, self.slow, self.unsafe = home, chance, slow, unsafe
        self.save = home / "run"
        self.data = home / "pictures.t7"
        torch7.save(self.data, torch.rand(20, 1, 4, 4))
        self.figures: Counter[str] = Counter()
        self.faults: list[str] = []
        self._epoch = 0  # of the newest checkpoint

    def kill_once(self) -> None:
        """One process from its start to its end by SIGKILL, and a look at its remains."""
        inside_save = self.chance.random() < 0.5
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            self._train(write if inside_save else None)
        os.close(write)
        if inside_save:  # a byte comes at each step of a save: one of the first few is the moment
            for _ in range(self.chance.randint(1, 30)):
                if not os.read(read, 1):
                    break
            time.sleep(self.chance.random() * self.slow)
        else:
            time.sleep(self.chance.random() * 1.5)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(read)
        if not os.WIFSIGNALED(status):
            self.faults.append(f"training ended by itself: see {self.home / 'output.txt'}")
        self.figures["kills"] += 1
        self.figures["kills_inside_a_save"] += any(
            ".net." in path.name for path in self._temporaries()
        )
        if inside_save:  # it had started, so it had removed what the processes before it left
            stray = [p.name for p in self._temporaries() if f".{pid}." not in p.name]
            self.faults += [f"stray after the next start: {name}" for name in stray]
        self._inspect()

    def _train(self, moments: int | None, *more: str) -> None:
        """In the child: the command line, its words to a file, saves as slow as is wanted."""
        output = os.open(self.home / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            from eyescream_py.cli.train_c2f import main as train

            if self.unsafe:
                write_in_place()
            if moments is not None:
                slow_down_saves(moments, self.slow)
            command = [*OPTIONS, f"--save={self.save}", f"--dataset={self.data}", *more]
            if (self.save / FILE).exists() or (self.save / f"{FILE}.old").exists():
                command.append(f"--network={FILE}")
            code = train.main(command, standalone_mode=False) or 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def _temporaries(self) -> list[Path]:
        return list(self.save.rglob("*.tmp")) if self.save.is_dir() else []

    def _inspect(self) -> None:
        for name in (FILE, f"{FILE}.old"):
            path = self.save / name
            if path.exists():
                self._inspect_checkpoint(path, name == FILE)
            elif name == FILE and self._epoch:
                self.faults.append(f"{name} is gone after {self.figures['kills']} kills")

    def _inspect_checkpoint(self, path: Path, newest: bool) -> None:
        from eyescream_py import torch7

        try:
            content = torch7.load(path)
            for key in ("D", "G"):
                for p in torch7.to_module(content[key]).parameters():
                    if not bool(p.isfinite().all()):
                        raise ValueError(f"{key} holds numbers that are not finite")
            epoch = content["resume"]["position"]["epoch"]
        except Exception as error:
            self.faults.append(f"{path.name} after {self.figures['kills']} kills: {error!r}")
            return
        self.figures["checkpoints_loaded"] += 1
        if newest:
            if epoch < self._epoch:
                self.faults.append(f"back from epoch {self._epoch} to {epoch}")
            self._epoch = epoch
            self._inspect_metrics(epoch)

    def _inspect_metrics(self, epoch: int) -> None:
        from eyescream_py.system.json_lines import read_json_lines

        found = [r["epoch"] for r in read_json_lines(self.save / "metrics.jsonl")]
        if found[: epoch - 1] != list(range(1, epoch)):
            self.faults.append(f"metrics of epochs {found} beside a checkpoint at {epoch}")

    def finish(self) -> None:
        """A last process trains one more epoch undisturbed and leaves no temporary file."""
        pid = os.fork()
        if pid == 0:
            self._train(None, f"--epochs={self._epoch + 1}")
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status):
            self.faults.append("the run could not be continued at the end")
        if self._temporaries():
            self.faults.append(f"left behind: {[p.name for p in self._temporaries()]}")
        self._inspect()
        self.figures["epochs"] = self._epoch - 1


def slow_down_saves(moments: int, pause: float) -> None:
    """Make each large write, sync, link and rename of this process's checkpoints tell and pause."""
    from eyescream_py.networks import checkpoints
    from eyescream_py.system import files

    saving: list[Path] = []  # holds something while a checkpoint is written

    def telling(name: str) -> None:
        original = getattr(os, name)

        def step(*args: Any, **options: Any) -> Any:
            if saving:
                os.write(moments, b".")
                time.sleep(pause)
            return original(*args, **options)

        setattr(os, name, step)

    @contextlib.contextmanager
    def slow_write(path: Path, keep_old: bool = False) -> Iterator[Any]:
        saving.append(path)
        with files.atomic_write(path, keep_old) as file:
            yield SlowFile(file, moments, pause)
        saving.clear()

    for name in ("fsync", "link", "replace"):
        telling(name)
    checkpoints.atomic_write = slow_write  # type: ignore[assignment]


class SlowFile:
    """A file whose large writes happen in two halves with a pause between them."""

    def __init__(self, file: BinaryIO, moments: int, pause: float) -> None:
        self._file, self._moments, self._pause = file, moments, pause

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < 50_000:
            return self._file.write(view)
        half = len(view) // 2
        self._file.write(view[:half])
        self._file.flush()
        os.write(self._moments, b".")
        time.sleep(self._pause)
        return half + self._file.write(view[half:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def write_in_place() -> None:
    """What this harness is there to find: a checkpoint overwritten where it stands."""
    from eyescream_py.networks import checkpoints
    from eyescream_py.system import files

    @contextlib.contextmanager
    def naive(path: Path, keep_old: bool = False) -> Iterator[Any]:
        with open(path, "wb") as file:
            yield file

    files.atomic_write = naive  # type: ignore[assignment]
    checkpoints.atomic_write = naive  # type: ignore[assignment]


if __name__ == "__main__":
    main()
