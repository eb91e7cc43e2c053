"""`--run train`: the loop from folders that must be free to the last checkpoint."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eyescream_py.srez.batches import Batches
from eyescream_py.srez.checkpoints import (
    checkpoint_path,
    demand_same_split,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from eyescream_py.srez.data import Faces, load_split, split_digest
from eyescream_py.srez.networks import parameter_count
from eyescream_py.srez.optimizers import learning_rate
from eyescream_py.srez.options import Options
from eyescream_py.srez.report import (
    REPORT_PERIOD,
    DivergedError,
    Report,
    metrics_path,
)
from eyescream_py.srez.steps import Networks, build_networks, build_step
from eyescream_py.system import voice
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import demand_room, remove_stale_temporaries
from eyescream_py.system.folders import make_folder
from eyescream_py.system.locks import Lock, writing
from eyescream_py.system.recording import set_rate
from eyescream_py.system.safe_tensors import held_by, not_finite
from eyescream_py.system.saves import Saves
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import counted

if TYPE_CHECKING:
    from eyescream_py.plots.windows import Plots


def run_train(
    options: Options,
    device: torch.device,
    plots: Plots | None = None,
    say: Callable[[str], None] = voice.say,
) -> bool:
    """Train until --train_time minutes, --max_batches, or a signal; returns whether it came to its
    own end, that is, no signal stopped it.

    A batch is one of data: the critic learns from each, the generator from every n_critic-th. Time
    counts over resumptions. `--on_finish` runs only after a run that came to its own end.
    """
    options.check()
    _demand_generator_steps(options)
    _demand_free_folders(options)
    train, test = load_split(
        options.dataset, options.crop, options.test_vectors, options.random_seed,
        options.test_list, options.train_images, options.cache_dir,
    )  # fmt: skip
    if options.resume:
        read_checkpoint(checkpoint_path(options.checkpoint_dir))  # before any folder is made
    _make_folders(options)
    remedy = "give folders of its own to a second run"
    checkpoint, metrics = checkpoint_path(options.checkpoint_dir), metrics_path(options)
    with writing(checkpoint, remedy) as lock, writing(metrics, remedy):
        _demand_free_folders(options)  # again: now nobody else writes into them
        stop = _train(options, train, test, device, plots, say, lock)
    if stop.requested:
        say(f"stopped by {stop.name}; --resume goes on from the checkpoint")
    elif options.on_finish:
        say(f"--on_finish: {options.on_finish}")
        subprocess.run(options.on_finish, shell=True, check=False)  # noqa: S602  a person's command
    return not stop.requested


def _train(
    options: Options,
    train: Faces,
    test: Faces,
    device: torch.device,
    plots: Plots | None,
    say: Callable[[str], None],
    lock: Lock,
) -> StopSignal:
    networks = build_networks(options, device)
    split = split_digest(train, test, options.crop)
    batch, seconds = _resume(networks, options, split) if options.resume else (0, 0.0)
    say(f"{counted(len(train), 'face')} to train on, {len(test)} held out")
    _say_what_is_untied(options, say)
    say(
        f"generator {parameter_count(networks.generator)} parameters, "
        f"critic {parameter_count(networks.critic)}; "
        f"{options.objective}, {options.optimizer}, critic norm {options.norm_of_critic}"
    )
    report = Report(options, test, device, plots, say, batch)
    try:
        with StopSignal() as stop:
            saves = Saves("free the place or give another --checkpoint_dir", options.resume, lock)
            state = State(networks, batch, seconds, split, train.are_grey(), saves)
            _loop(state, options, train, device, report, stop)
    finally:
        report.close()
    return stop


@dataclass
class State:
    """What a checkpoint holds of a run."""

    networks: Networks
    batch: int
    seconds: float
    split: str
    grey: bool
    saves: Saves

    def save(self, options: Options, last: bool = False) -> Path:
        """Write the checkpoint; its path. Raises UserError where a value is not finite, and where
        the `last` one cannot be written.
        """
        _demand_finite(self.networks, self.batch)
        path = checkpoint_path(options.checkpoint_dir)

        def write() -> None:
            save_checkpoint(
                path.parent, self.networks, options, self.batch, self.seconds, self.split,
                self.grey,
            )  # fmt: skip

        self.saves.save(path, last, write)
        return path


def _loop(
    state: State,
    options: Options,
    train: Faces,
    device: torch.device,
    report: Report,
    stop: StopSignal,
) -> None:
    batches = Batches(train, options, device)
    networks = state.networks
    step = build_step(networks, options, device)
    resumed_at = state.batch
    started = time.monotonic() - state.seconds
    while not (stop.requested or _is_done(options, state.batch, time.monotonic() - started)):
        rate = learning_rate(options, state.batch)
        set_rate(networks.generator_optimizer, rate)
        set_rate(networks.critic_optimizer, rate)
        with_generator = (state.batch + 1) % options.n_critic == 0
        losses = step(batches.batch(state.batch), with_generator)
        state.batch += 1
        state.seconds = time.monotonic() - started
        if state.batch % _report_period(options) == 0:
            report.progress(state.batch, state.seconds, losses)
        if state.batch % options.summary_period == 0:
            report.samples(state.batch, state.seconds, networks.generator)
        if state.batch % options.checkpoint_period == 0:
            state.save(options)
    if options.resume and state.batch == resumed_at:  # sheet, records and file are there already
        report.say(f"{counted(state.batch, 'batch')} trained before, none is left to train")
        return
    _demand_finite(networks, state.batch)
    if state.batch % options.summary_period or not state.batch:
        report.samples(state.batch, state.seconds, networks.generator)
    path = state.save(options, last=True)
    minutes = state.seconds / 60
    report.say(f"{counted(state.batch, 'batch')} in {minutes:.1f} minutes; checkpoint {path}")


def _say_what_is_untied(options: Options, say: Callable[[str], None]) -> None:
    if options.input == "scaled" and not (options.gene_l1_factor or options.pixel_factor):
        say("--gene_l1_factor=0: nothing ties the enlargement to its small picture in training")


def _demand_generator_steps(options: Options) -> None:
    if options.max_batches and options.max_batches < options.n_critic:
        raise UserError(
            f"--max_batches={options.max_batches}: the generator learns from every "
            f"{options.n_critic}th batch only (--n_critic), so it would never be trained"
        )


def _demand_finite(networks: Networks, batch: int) -> None:
    """Before anything is saved over a good checkpoint."""
    modules = {role: getattr(networks, role) for role in ("generator", "critic")}
    optimizers = {role: getattr(networks, f"{role}_optimizer") for role in modules}
    if bad := not_finite(held_by(modules, optimizers)):
        raise DivergedError(batch, f"values of {bad[0]}")


def _report_period(options: Options) -> int:
    """Every tenth batch, moved to one that has the generator's losses too."""
    return -(-REPORT_PERIOD // options.n_critic) * options.n_critic


def _is_done(options: Options, batch: int, seconds: float) -> bool:
    return bool(options.max_batches and batch >= options.max_batches) or (
        seconds >= 60 * options.train_time
    )


def _resume(networks: Networks, options: Options, split: str) -> tuple[int, float]:
    path = checkpoint_path(options.checkpoint_dir)
    stored = read_checkpoint(path)
    demand_same_split(stored, options, split, path)
    restore(networks, stored, options, path)
    return stored.batch, stored.seconds


def _demand_free_folders(options: Options) -> None:
    """The original deleted train_dir at the start; here nothing that exists is touched without
    --resume.
    """
    if options.resume:
        return
    for name in ("train_dir", "checkpoint_dir", "summary_dir"):
        folder = Path(getattr(options, name))
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--{name}={folder}: this is a file, a folder is needed")
        taken = [p for p in folder.iterdir() if not _is_no_run_s(p.name)] if folder.is_dir() else []
        if taken:
            raise UserError(
                f"--{name}={folder}: holds {counted(len(taken), 'entry', 'entries')} of an "
                "earlier run, which would be overwritten; give another folder, move them away, "
                "or --resume that run"
            )


def _is_no_run_s(name: str) -> bool:
    """Whether a file says nothing of a run: a README, or what a killed process left."""
    return name == "README.md" or (name[0] == "." and name.endswith((".lock", ".tmp")))


def _make_folders(options: Options) -> None:
    for name in ("train_dir", "checkpoint_dir", "summary_dir", "cache_dir"):
        if not getattr(options, name):
            continue
        folder = Path(getattr(options, name))
        try:
            make_folder(folder)
            remove_stale_temporaries(folder)
            demand_room(folder / "probe")
        except OSError as error:
            raise UserError(f"--{name}={folder}: cannot be used ({why(error)})") from None
