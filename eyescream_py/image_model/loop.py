"""The loop around any learner: run folder, log, pictures, checkpoints, windows, signals."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from eyescream_py.image_model.checkpoints import (
    Checkpoint,
    checkpoint_path,
    restore_random_state,
    save_checkpoint,
)
from eyescream_py.image_model.options import RunOptions
from eyescream_py.image_model.page import Curves, save_page_rows, write_page
from eyescream_py.image_model.pictures import save_samples, to_unit
from eyescream_py.image_model.schedule import rate_share
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write, remove_stale_temporaries
from eyescream_py.system.folders import make_again, make_folder
from eyescream_py.system.idle import say_idle
from eyescream_py.system.json_lines import JsonLines
from eyescream_py.system.recording import set_rate
from eyescream_py.system.safe_tensors import held_by, not_finite
from eyescream_py.system.saves import Saves, spared
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import say

if TYPE_CHECKING:
    from eyescream_py.plots.windows import Plots

SHOWN = ("D", "G", "difference", "L1", "features", "self_L1", "R")


class Learner(Protocol):
    """What can be trained: it owns its networks, optimizers and data."""

    settings: dict[str, Any]  # enough to rebuild the networks, with `kind`
    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]

    def step(self) -> dict[str, float]:
        """Learn from one batch; losses by name."""

    def samples(self) -> dict[str, Tensor]:
        """Batches (N, C, S, S) to look at, by title; "input" and "output" once a step was made."""

    def state(self) -> dict[str, Any]:
        """All else that decides the future, as JSON values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; KeyError, TypeError, ValueError where it is damaged."""

    def saved(self) -> None:
        """Called each time a checkpoint has been written."""

    def close(self) -> None:
        """Close what is open."""


def new_run_folder(log_dir: str | Path) -> Path:
    """`log_dir/<unix time>`, made anew (a later second if that one is taken)."""
    _tidy(Path(log_dir))
    second = int(time.time())
    while True:
        folder = Path(log_dir) / str(second)
        try:
            make_folder(folder, new=True)
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(f"--log_dir: {folder} is a file; give another folder") from None
            second += 1
            continue
        return folder


def _tidy(log_dir: Path) -> None:
    """Remove what killed runs left half written in the run folders of `log_dir`."""
    with contextlib.suppress(OSError):
        for folder in log_dir.iterdir():
            if folder.name.isdigit() and folder.is_dir() and not folder.is_symlink():
                remove_stale_temporaries(folder, deep=True)


def resume(learner: Learner, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into `learner`. What the run did not have starts afresh."""
    for name, module in learner.modules.items():
        if checkpoint.has(name):
            checkpoint.restore(module, name)
        else:
            say(f"{checkpoint.path} holds no {name}: it starts afresh.")
    for name, optimizer in learner.optimizers.items():
        if checkpoint.has(f"optimizer:{name}"):
            checkpoint.restore_optimizer(optimizer, name)
    try:
        learner.load_state(checkpoint.state)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{checkpoint.path}: is damaged, its state lacks {error}") from None
    restore_random_state(checkpoint)
    whole = all(checkpoint.has(name) for name in learner.modules)
    say_idle((whole, "with --load, whose random numbers go on", ("seed",)))


def rates_of(learner: Learner) -> dict[str, float]:
    """The rate of each optimizer."""
    return {name: float(o.param_groups[0]["lr"]) for name, o in learner.optimizers.items()}


def set_rates(learner: Learner, rates: dict[str, float], share: float) -> None:
    """Give each optimizer `share` of its rate."""
    for name, optimizer in learner.optimizers.items():
        set_rate(optimizer, share * rates[name])


class Run:
    """One training run in its own folder."""

    def __init__(self, learner: Learner, options: RunOptions, folder: Path, plots: Plots) -> None:
        self.learner = learner
        self.options = options
        self.folder = folder
        self._plots = plots
        self._last_saved: Path | None = None
        self._saves = Saves("free the place or give another --log_dir")
        with atomic_write(folder / "hyperparams.txt") as file:
            file.write(os.fsencode(options.command_line + "\n"))
        self._log = JsonLines(folder / "metrics.jsonl")
        self._curves = Curves()

    def train(self, start: int) -> None:
        """`max_steps` steps after `start` done ones; Ctrl-C and SIGTERM save and end early."""
        end = start + self.options.max_steps
        say(f"Training for steps {start + 1} to {end} in {self.folder}")
        began = time.monotonic()
        rates = rates_of(self.learner)
        with contextlib.closing(self._log), StopSignal() as stop:
            for step in range(start + 1, end + 1):
                set_rates(self.learner, rates, rate_share(step, end, self.options.decay_steps))
                metrics = self.learner.step()
                bad = [name for name, value in metrics.items() if not math.isfinite(value)]
                self._check_finite(step, bad)
                self._log.write({"step": step, **metrics})
                self._curves.add(step, metrics)
                last = step == end or stop.requested
                if step % self.options.display_freq == 0 or last:
                    self._show(step, metrics, (step - start) / (time.monotonic() - began))
                if step % self.options.gen_print_freq == 0 or last:
                    self._draw(step)
                if step % self.options.ckpt_freq == 0 or last:
                    self._save(step, last)
                if last and step < end:
                    say(f"{stop.name}: saved step {step} and stopped.")
                    break

    def _check_finite(self, step: int, bad: list[str]) -> None:
        """UserError where `bad`, the names of what is no number, names any."""
        if bad:
            kept = f"go on from {self._last_saved}" if self._last_saved else "start again"
            raise UserError(
                f"step {step}: {bad[0]} is no longer a finite number; nothing was saved since. "
                f"{kept} with smaller rates (--glr, --dlr, --llr)"
            )

    def _show(self, step: int, metrics: dict[str, float], rate: float) -> None:
        shown = {name: metrics[name] for name in SHOWN if name in metrics}
        parts = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        say(f"step {step}  {parts}  ({rate:.1f} steps/s)")
        losses = {name: value for name, value in shown.items() if name != "difference"}
        self._plots.curve("losses", step, losses, "losses", "step", "loss")
        if "difference" in shown:
            difference = {"difference": shown["difference"]}
            self._plots.curve("difference", step, difference, "D(real) - D(fake)", "step")

    def _draw(self, step: int) -> None:
        samples = self.learner.samples()
        with spared(f"pictures to {self.folder}"):
            self._save_pictures(self.folder / f"step_{step}", samples)
        for title, batch in samples.items():
            self._plots.images(title, to_unit(batch), f"{title}, step {step}")

    def _save_pictures(self, folder: Path, samples: dict[str, Tensor]) -> None:
        make_again(self.folder)
        save_samples(folder, samples["output"], samples["input"], self.options.gen_num)
        if self.options.html:
            save_page_rows(folder, samples, self.options.gen_num)
            write_page(self.folder, self.options.command_line, samples, self._curves)

    def _save(self, step: int, last: bool) -> None:
        path = checkpoint_path(self.folder, step)
        learner = self.learner
        self._check_finite(step, not_finite(held_by(learner.modules, learner.optimizers)))

        def write() -> None:
            make_again(self.folder)
            save_checkpoint(
                path, step, learner.settings, learner.state(), learner.modules, learner.optimizers
            )

        if self._saves.save(path, last, write):
            self._last_saved = path
            # the checkpoint says where in the cache it belongs: what is not settled now is undone
            with spared("how much of the replay cache is settled"):
                learner.saved()
