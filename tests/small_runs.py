"""The trainers' command lines in this process, on networks and pictures small enough for tests."""

import importlib
import json
import math
import os
import signal
from pathlib import Path

import torch
from click.testing import CliRunner, Result
from torch import nn

from eyescream_py import torch7
from eyescream_py.networks import models
from eyescream_py.results import story
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.optim import Adam
from eyescream_py.training.task import Schedule

SCRIPTS = {
    "train": ("--scale=8", "--grayscale", "--noplot", "--batchSize=4", "--N_epoch=12",
              "--noiseDim=4", "--gpu=-1", "--threads=1", "--log_every=1", "--precision=fp32"),
    "train_c2f": ("--coarseSize=2", "--fineSize=4", "--grayscale", "--noplot", "--batchSize=4",
                  "--N_epoch=12", "--gpu=-1", "--threads=1", "--log_every=1", "--precision=fp32",
                  "--validation=4", "--parzenImages=4"),
    "train_autoencoder": ("--scale=4", "--batchSize=4", "--threads=1", "--log_every=1",
                          "--noiseDim=4", "--precision=fp32"),
    "train_denoiser": ("--scale=6", "--grayscale", "--noplot", "--batchSize=4", "--gpu=-1",
                       "--threads=1", "--log_every=1", "--precision=fp32"),
}  # fmt: skip
FILES = {
    "train": "adversarial.net",
    "train_c2f": "adversarial_c2f_2_to_4.net",
    "train_autoencoder": "autoencoder.net",
    "train_denoiser": "denoiser_1x6x6.net",
}
SIZES = {"train": 8, "train_c2f": 4, "train_autoencoder": 4, "train_denoiser": 6}
TIMINGS = ("seconds", "images_per_second")


def small_D(dims, architecture="default"):
    """The layer kinds of the real discriminator in a thousandth of its size."""
    channels, size, _ = dims
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.PReLU(), nn.MaxPool2d(2), SpatialDropout(),
        View(4 * (size // 2) ** 2), nn.Linear(4 * (size // 2) ** 2, 8), nn.PReLU(), Dropout(),
        nn.Linear(8, 1), nn.Sigmoid(),
    )  # fmt: skip


def use_small_networks(monkeypatch, curves: bool = False) -> None:
    """Drawing the curves at a run's end takes longer than the whole of a small run."""
    monkeypatch.setattr(models, "create_D", small_D)
    if not curves:
        monkeypatch.setattr(story, "write_curves_if_possible", lambda save, trainer: None)


def pictures(folder: Path, script: str, count: int = 20, channels: int = 1) -> Path:
    """A .t7 data set of the size that the script's small run takes."""
    size = SIZES[script]
    path = folder / f"pictures_{size}_{count}.t7"
    generator = torch.Generator().manual_seed(size)
    torch7.save(path, torch.rand(count, channels, size, size, generator=generator))
    return path


def invoke(script: str, *args: object) -> Result:
    """The command in this process, as `python script.py args...`."""
    main = importlib.import_module(f"eyescream_py.cli.{script}").main
    return CliRunner().invoke(main, [str(arg) for arg in args])


def small_run(script: str, save: Path, data: Path, *args: object) -> str:
    """A small run that must succeed; its output."""
    done = invoke(script, *SCRIPTS[script], f"--save={save}", f"--dataset={data}", *args)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def signal_at(monkeypatch, owner: type, method: str, call: int, number: int = signal.SIGTERM):
    """Send this process a signal within the `call`-th call (from 1) of a method."""
    original = getattr(owner, method)
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, wrapped)


def records(path: Path) -> list[dict]:
    """A metrics file's lines without what a clock decided."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def assert_same(a: object, b: object, where: str = "", rtol: float = 0) -> None:
    """Equal to the last bit, or floats to `rtol`, tables and tensors included."""
    if isinstance(a, torch7.TorchObject):
        assert a.typename == b.typename, where
        assert_same(a.fields, b.fields, where, rtol)
    elif isinstance(a, torch7.Storage):
        assert_same(a.tensor, b.tensor, where, rtol)
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            if key not in ("opt", "seconds"):
                assert_same(a[key], b[key], f"{where}.{key}", rtol)
    elif isinstance(a, list):
        assert_same(dict(enumerate(a)), dict(enumerate(b)), where, rtol)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.stride() == b.stride(), where
        if rtol and a.is_floating_point():
            most = float(b.abs().max()) if b.numel() else 0
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * most, msg=lambda m: where + m)
        else:
            assert torch.equal(a, b), where
    elif rtol and isinstance(a, float):
        assert math.isclose(a, b, rel_tol=rtol), where
    else:
        assert a == b, where


class ToyTask:
    """A training.Task of one Linear layer whose loss anyone can follow."""

    file_name = "toy.net"
    series = "toy"

    def __init__(self, iterations: int = 4, lr: float = 0.1) -> None:
        self.schedule = Schedule(iterations * 2, 2, 2)
        torch.manual_seed(1)
        self.network = nn.Linear(3, 1)
        self.optimizer = Adam(self.network.parameters(), lr)
        self.generator = torch.Generator().manual_seed(2)
        self.loss_sum = 0.0
        self.epochs_begun = 0
        self.poison_epoch = -1  # its first iteration makes a weight NaN

    def learn_at(self, epoch: int) -> None: ...

    def begin_epoch(self) -> None:
        self.loss_sum = 0.0
        self.epochs_begun += 1
        torch.rand(1, generator=self.generator)

    def iteration(self, n, log) -> None:
        x = torch.rand(n, 3, generator=self.generator)
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.item()
        if self.epochs_begun == self.poison_epoch:
            self.network.weight.data[0, 0] = torch.nan
        if log:
            log("D", loss.item())

    def finish(self) -> None: ...

    def end_epoch(self, epoch, seconds):
        return {"loss": self.loss_sum}

    def curves(self, epoch, record) -> None: ...

    def is_finite(self) -> bool:
        return bool(torch.stack([p.sum() for p in self.network.parameters()]).isfinite().all())

    def collapse(self) -> str:
        return ""

    def halve_learning_rate(self) -> None:
        self.optimizer.param_groups[0]["lr"] /= 2

    def show(self, epoch) -> None: ...

    def save_pictures(self, folder, epoch) -> None: ...

    def networks(self):
        return {"net": nn.Sequential(self.network)}

    def content(self, epoch):
        return {"opt": {}, "epoch": epoch}

    def state(self):
        return {
            "optimizer": self.optimizer.export_state(),
            "random": self.generator.get_state(),
            "loss_sum": self.loss_sum,
        }

    def load(self, content, path) -> bool:
        stored = torch7.to_module(content["net"])
        with torch.no_grad():
            for a, b in zip(self.network.parameters(), stored.parameters(), strict=True):
                a.copy_(b)
        state = content["resume"]["state"]
        self.optimizer.import_state(state["optimizer"])
        self.generator.set_state(state["random"])
        self.loss_sum = state["loss_sum"]
        return True
