"""A training run and its files: it can stop and go on at any batch."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import DataLoader

from eyescream_py.ganless_hd.checkpoints import write_tensors
from eyescream_py.ganless_hd.data import (
    ContourPhotos,
    EndlessBatches,
    Pair,
    make_loader,
    to_network,
)
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.resuming import Progress, state_file
from eyescream_py.ganless_hd.sheets import sheet, write_png
from eyescream_py.ganless_hd.trainer import STEPS_PER_BATCH, Trainer, named
from eyescream_py.plots.client import PlotFlags
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_again
from eyescream_py.system.json_lines import JsonLines
from eyescream_py.system.safe_tensors import not_finite
from eyescream_py.system.saves import Saves, spared
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import say

HELD_OUT_ROWS = 6
FEATURES = "features.safetensors"  # in the run's folder


class Run:
    """The loop of a run and the files it writes below `options.folder`."""

    def __init__(
        self,
        options: Options,
        trainer: Trainer,
        dataset: ContourPhotos,
        held_out: list[Pair],
        progress: Progress,
        about: Mapping[str, Any],
    ) -> None:
        """`held_out` are batches; `about` is kept with the state for whoever resumes."""
        self.options, self.trainer, self.dataset = options, trainer, dataset
        self.held_out, self.progress, self.about = held_out, progress, about
        self.folder, last = options.folder, progress.iteration
        self.saved = last  # batches that the state on the disk has behind it
        self.saves = Saves("free the place or give another --out", kept=last > 0)
        self.batches = EndlessBatches(options.itersPerEpoch, options.batchSize, last)
        self.metrics = JsonLines(
            self.folder / "metrics.jsonl", keep=lambda record: record.get("iteration", 0) <= last
        )
        shown, flags = not options.noplot, PlotFlags("--server", "--port")
        self.plots = Plots.open(shown, options.server, options.port, options.env, flags=flags)
        # a removed file can be read while it is open, and a run without it could not be resumed
        self.features = open(self.folder / FEATURES, "rb")  # noqa: SIM115 (closed by close)
        self.tick = time.perf_counter()

    def train(self) -> None:
        """Train until the epochs or steps are done or a signal asks to stop, then save."""
        if self._finished():
            say(f"{self.progress.iteration} batches were trained before, none is left to train")
            return
        with StopSignal() as stop:
            batches = iter(self._loader())
            while not (self._finished() or stop.requested):
                self._batch(next_batch(batches))
                if self._is_due(self.options.save_every) or self._between_epochs():
                    self._save_state()
            if self.saved != self.progress.iteration:
                self._save_state(last=True)
        if stop.requested:
            say(f"{stop.name}: stopped after batch {self.progress.iteration}, --resume goes on")

    def close(self) -> None:
        self.metrics.close()
        self.plots.close()
        self.features.close()

    def _loader(self) -> DataLoader[Pair]:
        return make_loader(self.dataset, self.batches, self.options.nthread, self.trainer.device)

    def _finished(self) -> bool:
        steps = self.progress.iteration * STEPS_PER_BATCH
        batches = self.options.epochs * self.batches.batches_per_epoch
        return 0 < self.options.max_steps <= steps or 0 < batches <= self.progress.iteration

    def _between_epochs(self) -> bool:
        return self._is_due(self.batches.batches_per_epoch)

    def _is_due(self, every: int) -> bool:
        return self.progress.iteration % every == 0

    def _batch(self, pair: Pair) -> None:
        """Train on one batch and do what is due after it."""
        if self._between_epochs():
            self.trainer.averaging.restart()
        inputs, targets = (to_network(half, self.trainer.device) for half in pair)
        outputs = self.trainer.train_batch(inputs, targets)
        self.progress.iteration += 1
        if self.progress.iteration == 1 or self._is_due(self.options.sheet_every):
            self._show("output", [inputs, outputs, targets])
        if self._is_due(self.options.print_every) or self._finished():
            self._report()
        if self._between_epochs():
            self._end_epoch()

    def _show(self, name: str, columns: list[torch.Tensor]) -> None:
        """Write a sheet (input, output, target) and put it into its window."""
        page = sheet(columns)
        path = self.folder / "images" / f"{name}-{self.progress.iteration}.png"
        with spared(str(path)):
            make_again(path.parent)
            write_png(path, page)
        picture = torch.from_numpy(page).permute(2, 0, 1)[None] / 255
        self.plots.images(name, picture, f"{name}: input, output, target", columns=1)

    def _report(self) -> None:
        """Print and record the mean losses of the steps since the last report, if any."""
        sums, steps = self.trainer.take_sums()
        if not steps:
            return
        iteration = self.progress.iteration
        if not math.isfinite(sums[0]):
            raise self._diverged("the loss")
        self.progress.epoch_loss += float(sums[0])
        self.progress.epoch_steps += steps
        means = named(sums / steps)
        now = time.perf_counter()
        seconds, self.tick = (now - self.tick) * STEPS_PER_BATCH / steps, now
        self._record({"event": "train", "iteration": iteration, **means, "seconds": seconds})
        say(f"batch {iteration}: {in_words(means)}, {seconds:.3f} s per batch")
        self.plots.curve("loss", iteration, means, "training loss", xlabel="batch")

    def _diverged(self, what: str) -> UserError:
        path = state_file(self.folder)
        left = f"{path} holds the last good state" if path.is_file() else "nothing was saved"
        return UserError(
            f"{what} is no number any more at batch {self.progress.iteration}; {left}, and a new "
            "run with a lower --lr may get further"
        )

    def _record(self, record: dict[str, Any]) -> None:
        self.metrics.write(record)

    def _end_epoch(self) -> None:
        """Report the epoch, measure held-out photographs, save the network by its mean loss."""
        self._report()
        mean = self.progress.epoch_loss / self.progress.epoch_steps
        self.progress.epoch_loss, self.progress.epoch_steps = 0.0, 0
        epoch = self.progress.iteration // self.batches.batches_per_epoch
        say(f"epoch {epoch}: mean loss {mean:.4f}")
        self._record({"event": "epoch", "iteration": self.progress.iteration, "mean": mean})
        if self.held_out:
            self._measure_held_out()
        self._save_network(mean)
        self.tick = time.perf_counter()

    def _measure_held_out(self) -> None:
        """Losses on photographs never trained on, of the averaged and of the raw weights."""
        trainer, iteration = self.trainer, self.progress.iteration
        record: dict[str, Any] = {"event": "held out", "iteration": iteration}
        with trainer.flat.replaced_by(trainer.averaged_weights()):
            record["averaged"] = trainer.evaluate(self.held_out)
            columns = [to_network(half, trainer.device) for half in spread(self.held_out)]
            columns.insert(1, trainer.predict(columns[0]))
        with trainer.flat.replaced_by(trainer.raw_weights()):
            record["raw"] = trainer.evaluate(self.held_out)
        self._record(record)
        for kind in ("averaged", "raw"):
            say(f"  held out, {kind} weights: {in_words(record[kind])}")
        totals = {kind: record[kind]["total"] for kind in ("averaged", "raw")}
        self.plots.curve("held out", iteration, totals, "held-out loss", xlabel="batch")
        self._show("heldout", columns)

    def _save_network(self, mean_loss: float) -> None:
        """The finished network by itself: `saves/autoEncoder-MEANLOSS.safetensors`."""
        trainer = self.trainer
        with trainer.flat.replaced_by(trainer.averaged_weights()):
            tensors = {name: value.clone() for name, value in trainer.network.state_dict().items()}
        kept = ("width", "imgSize", "colormap")
        about = {"kind": "network"} | {name: getattr(self.options, name) for name in kept}
        self._demand_finite(tensors)
        path = self.folder / "saves" / f"autoEncoder-{mean_loss}.safetensors"
        with spared(str(path)):
            make_again(path.parent)
            write_tensors(path, tensors, about)

    def _demand_finite(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if not_finite(tensors):
            raise self._diverged("a weight")

    def _save_state(self, last: bool = False) -> None:
        """Everything that exact resuming needs; the state before stays beside it as `.old`. Raises
        UserError where a value is no number, and where the `last` one cannot be written.
        """
        self._report()
        about = {
            "kind": "run",
            "options": asdict(self.options),
            "progress": asdict(self.progress),
            **self.about,
        }
        tensors = self.trainer.state()
        self._demand_finite(tensors)
        path = state_file(self.folder)

        def write() -> None:
            self._keep_features()
            write_tensors(path, tensors, about, keep_old=True)

        if self.saves.save(path, last, write):
            self.saved = self.progress.iteration

    def _keep_features(self) -> None:
        """Write the features' file anew where someone removed it. Raises OSError."""
        path = self.folder / FEATURES
        if not path.exists():
            self.features.seek(0)
            with atomic_write(path) as file:
                shutil.copyfileobj(self.features, file)


def spread(batches: list[Pair]) -> Pair:
    """At most `HELD_OUT_ROWS` pairs out of all batches, from the first to the last."""
    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    count = min(len(pairs), HELD_OUT_ROWS)
    rows = [pairs[round(row * (len(pairs) - 1) / max(1, count - 1))] for row in range(count)]
    inputs, targets = zip(*rows, strict=True)
    return torch.stack(inputs), torch.stack(targets)


def next_batch(batches: Iterator[Pair]) -> Pair:
    """The next batch; a UserError of a worker process comes without the worker's traceback."""
    try:
        return next(batches)
    except UserError as error:
        raise UserError(error.message.rpartition("UserError: ")[2].strip()) from None


def in_words(means: Mapping[str, float]) -> str:
    """Mean losses as a line shows them: `total -3.1200, pixels 0.0300`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in means.items())
