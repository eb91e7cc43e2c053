"""Training: how a run begins, its loop, and what it leaves in its folders."""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eyescream_py.mln import checkpoints
from eyescream_py.mln.analytic import set_regression_weights
from eyescream_py.mln.checkpoints import Checkpoint, Progress
from eyescream_py.mln.covariance import covariance_start
from eyescream_py.mln.data import Ahead, Batch, Examples
from eyescream_py.mln.networks import (
    MinimalLinearNetwork,
    Shape,
    build_network,
    neighbour_table,
    to_label,
)
from eyescream_py.mln.params import Params, params_text
from eyescream_py.mln.pictures import batch_picture, write_png
from eyescream_py.mln.protocol import Protocol, first_frame, network_shape, read_scan
from eyescream_py.mln.steps import adam, descend, learning_rate, train_step
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write, remove_stale_temporaries
from eyescream_py.system.folders import make_again, make_folder
from eyescream_py.system.json_lines import JsonLines
from eyescream_py.system.locks import writing
from eyescream_py.system.progress import still
from eyescream_py.system.recording import Recorder
from eyescream_py.system.safe_tensors import held_by, not_finite
from eyescream_py.system.saves import Saves, spared
from eyescream_py.system.signals import StopSignal
from eyescream_py.system.voice import counted

if TYPE_CHECKING:
    from eyescream_py.plots.windows import Plots

PROGRESS_BATCHES = 10
REMEDY = "free the place or give another --out"
CHECKPOINT_NAME = "checkpoint_new.safetensors"


@dataclass
class Run:
    """Everything one training run works on; `progress` is the only part that its loop changes."""

    params: Params
    protocol: Protocol
    network: MinimalLinearNetwork
    optimizer: torch.optim.Optimizer
    examples: Examples
    folder: Path
    progress: Progress
    scan: Tensor | None = None
    capture: bool = True  # on CUDA, record the step
    saves: Saves = field(default_factory=lambda: Saves(REMEDY))

    @property
    def checkpoint_folder(self) -> Path:
        """`NAME_checkpoint` beside the run's `NAME_train`."""
        return self.folder.with_name(self.folder.name.removesuffix("_train") + "_checkpoint")


def new_run(
    params: Params, protocol: Protocol, images: Any, out: Path, say: Callable[[str], None]
) -> Run:
    """A run from the beginning in a fresh `<session>__<date>_train` folder below `out`."""
    shape = network_shape(params, protocol)
    scan = _scan(params, protocol)
    examples = Examples(params, protocol, images)
    torch.manual_seed(params.seed)
    network = build_network(shape, protocol.trajectory).to(protocol.mask.device)
    folder = out / f"{params.session}__{time.strftime('%Y-%m-%d_%H-%M-%S')}_train"
    run = Run(params, protocol, network, adam(network, params), examples, folder, Progress(), scan)
    _make_folders(run)
    try:
        _first_weights(run, say)
    except UserError:
        for made in (run.folder, run.checkpoint_folder):
            shutil.rmtree(made)
        raise
    return run


def _make_folders(run: Run) -> None:
    for folder in (run.folder, run.checkpoint_folder):
        make_folder(folder, new=True)
    with atomic_write(run.folder / "ParamsUsed.txt") as file:
        file.write(params_text(run.params).encode())


def _first_weights(run: Run, say: Callable[[str], None]) -> None:
    """Replace the random weights as Init, InitForRFN and InitForLFN ask."""
    params = run.params
    if params.init != "random":
        say(
            f"{params.init} start, {counted(params.init_sweeps, 'sweep')}, "
            f"{counted(params.init_examples, 'example')}"
        )
        with still(f"{params.init} start"):
            errors = _linear_start(run)
        if errors:
            say("relative error over them: " + " ".join(f"{error:.4f}" for error in errors))
    if params.first_k_weights:
        checkpoints.load_weights(run.network, "k_layer", params.first_k_weights, "InitForRFN")
    if params.first_image_weights:
        checkpoints.load_weights(run.network, "i_layer", params.first_image_weights, "InitForLFN")


def _linear_start(run: Run) -> list[float]:
    p = run.params
    settings = (p.init_examples, p.init_ridge, p.init_channels, p.init_sweeps, p.noise)
    start = set_regression_weights if p.init == "regression" else covariance_start
    try:
        return start(run.network, run.protocol, run.examples, *settings)
    except ValueError as error:
        raise UserError(f"Init {p.init}: {error}") from None
    except torch.linalg.LinAlgError:
        raise UserError(
            f"Init {p.init}: the samples around some grid point depend on each other (equal ones, "
            f"or more taps than InitExamples {p.init_examples}): raise InitRidge "
            f"{p.init_ridge:g} or InitExamples"
        ) from None


def resumed_run(checkpoint_file: Path, params: Params, protocol: Protocol, images: Any) -> Run:
    """The run that wrote `checkpoint_file`, as it stood, with `params` (which may extend the
    training time). Raises UserError where they or the protocol belong to another network, or the
    file lies outside its run's folder.
    """
    checkpoint = checkpoints.load_checkpoint(checkpoint_file)
    _demand_own_protocol(checkpoint, params, protocol)
    parent = checkpoint_file.resolve().parent
    if not parent.name.endswith("_checkpoint"):
        raise UserError(
            f"--resume {checkpoint_file}: put it back into its run's folder, ..._checkpoint"
        )
    network = checkpoints.restore_network(checkpoint).to(protocol.mask.device)
    optimizer = adam(network, params)
    checkpoints.restore_optimizer(checkpoint, network, optimizer)
    folder = parent.with_name(parent.name.removesuffix("_checkpoint") + "_train")
    make_folder(folder)
    examples = Examples(params, protocol, images)
    return Run(
        params,
        protocol,
        network,
        optimizer,
        examples,
        folder,
        checkpoint.progress,
        _scan(params, protocol),
        saves=Saves(REMEDY, kept=True),
    )


def _demand_own_protocol(checkpoint: Checkpoint, params: Params, protocol: Protocol) -> None:
    """Raise UserError where a network of other sizes is asked for, or of another trajectory."""
    name, shape = f"--resume {checkpoint.file}", network_shape(params, protocol)
    keys = {item.name: item.metadata["key"] for item in fields(Params)}
    for size in (item.name for item in fields(Shape) if item.compare):
        had, asked = (getattr(of, size) for of in (checkpoint.shape, shape))
        if had != asked:
            raise UserError(
                f"{name}: was trained with {keys.get(size, size)} {had}, the parameters ask for "
                f"{asked}; give its own, or start a new run"
            )
    table = torch.from_numpy(neighbour_table(protocol.trajectory, shape))
    own = checkpoint.tensors["network.k_layer.index"]
    others = float((own != table).float().mean())  # a few may be as near as their like
    if checkpoint.samples != protocol.samples or others > 0.01:
        raise UserError(
            f"{name}: was trained for another trajectory than BaseNUFTDataP "
            f"{params.trajectory_folder} holds; give its own, or start a new run"
        )


def _scan(params: Params, protocol: Protocol) -> Tensor | None:
    """The first row of RealDataFN that is not zero as (1, C, M), for the pictures' first row; None
    unless ShowRealData.
    """
    if not params.show_scan:
        return None
    coils = protocol.acquisition.coils.shape[1]
    scan_coils = params.coils_in_scan or params.coils_in_data or coils
    signal = read_scan(
        params.scan_file, protocol.trajectory.shape[1], scan_coils, coils, "RealDataFN"
    )
    return first_frame(signal)[1].to(protocol.mask.device)


def train(run: Run, plots: Plots, say: Callable[[str], None], max_batches: int = 0) -> str:
    """Train until train_time, `max_batches` (0: no limit), a signal, or failure; returns why it
    ended.

    Pictures, checkpoints and metrics.jsonl go to the run's folders, and at the end a checkpoint.
    Raises UserError where the loss or a weight is no number; the last good checkpoint stays.
    """
    progress = run.progress
    metrics = JsonLines(
        run.folder / "metrics.jsonl", lambda record: record["batch"] <= progress.batch
    )
    timers = (
        _Timer(run.params.picture_minutes, progress),
        _Timer(run.params.checkpoint_minutes, progress),
    )
    target = run.checkpoint_folder / CHECKPOINT_NAME
    locked = writing(target, "wait for it, or start a new run")
    with locked as run.saves.lock, closing(metrics), StopSignal() as stop:
        for folder in (run.folder, run.checkpoint_folder):
            remove_stale_temporaries(folder)
        reason = _loop(run, plots, say, max_batches, metrics, timers, stop)
        save(run)
    return reason


class _Timer:
    """True once per period of training time."""

    def __init__(self, minutes: float, progress: Progress) -> None:
        self._period, self._last = 60 * minutes, progress.seconds

    def due(self, seconds: float) -> bool:
        if seconds - self._last < self._period:
            return False
        self._last = seconds
        return True


def _loop(
    run: Run,
    plots: Plots,
    say: Callable[[str], None],
    max_batches: int,
    metrics: JsonLines,
    timers: tuple[_Timer, _Timer],
    stop: StopSignal,
) -> str:
    params, progress = run.params, run.progress
    picture_timer, checkpoint_timer = timers
    recorder = Recorder(run.protocol.mask.device, run.capture, "give --no-capture")
    descent = recorder.step(functools.partial(descend, run.network, run.optimizer, params))
    batches = Ahead(run.examples, params.batch_size)
    while progress.seconds < 60 * params.train_minutes:
        if max_batches and progress.batch >= max_batches:
            return f"{counted(progress.batch, 'batch')} done"
        begun = time.monotonic()
        batch = batches.take(progress.batch)
        rate = learning_rate(params, progress.batch, progress.seconds)
        loss, output = train_step(
            run.network, run.optimizer, batch, params, rate, descent, batches.begin_next
        )
        if not math.isfinite(loss):
            raise _diverged(run, "the loss")
        progress.losses.append(loss)
        if progress.batch < 3 or picture_timer.due(progress.seconds):
            show_picture(run, batch, output, loss, plots)
        progress.batch += 1
        progress.seconds += time.monotonic() - begun
        if progress.batch % PROGRESS_BATCHES == 0:
            _report(run, loss, rate, output, batch, metrics, plots, say)
        if _failed_quickly(params, progress, loss):
            return f"quick failure: loss {loss:.4f} above {params.quick_failure_loss:g}"
        if checkpoint_timer.due(progress.seconds):
            save(run, last=False)
        if stop.requested:
            return f"stopped by {stop.name}"
    return f"the {params.train_minutes:g} min are over"


def _diverged(run: Run, what: str) -> UserError:
    path = run.checkpoint_folder / CHECKPOINT_NAME
    left = f"{path} holds the last good weights" if path.is_file() else "nothing was saved"
    return UserError(
        f"{what} is no longer a finite number after "
        f"{counted(run.progress.batch, 'batch')}; {left}; a new "
        "run with a smaller --learning_rate_start may get further"
    )


def _failed_quickly(params: Params, progress: Progress, loss: float) -> bool:
    """The one check of the loss, QuickFailureTimeM into the training."""
    if progress.quick_check_done or progress.seconds < 60 * params.quick_failure_minutes:
        return False
    progress.quick_check_done = True
    return loss > params.quick_failure_loss


def _report(
    run: Run,
    loss: float,
    rate: float,
    output: Tensor,
    batch: Batch,
    metrics: JsonLines,
    plots: Plots,
    say: Callable[[str], None],
) -> None:
    progress = run.progress
    left = max(0.0, run.params.train_minutes - progress.seconds / 60)
    means = [
        torch.view_as_real(item.resolve_conj()).mean().item() for item in (output, batch.label)
    ]
    say(
        f"batch {progress.batch}  {progress.seconds / 60:.2f} min, {left:.1f} left  "
        f"loss {loss:.4f}  lr {rate:.2e}  mean {means[0]:.4f} / {means[1]:.4f}"
    )
    metrics.write(
        {"batch": progress.batch, "seconds": round(progress.seconds, 3), "loss": loss, "lr": rate}
    )
    plots.curve("mln loss", progress.batch, {"L1": loss}, "MLN training loss", "batch", "L1")


def show_picture(run: Run, batch: Batch, output: Tensor, loss: float, plots: Plots) -> None:
    """Write batch%06d_out[_loss].png of the batch; row 0 is the scan where ShowRealData is on."""
    if run.scan is not None:
        with torch.no_grad():
            output = torch.cat([run.network(run.scan), output[1:]])
    picture = batch_picture(_wide(output), _wide(batch.label))
    suffix = "" if run.progress.batch < 3 else f"_{loss:06.4f}"
    with spared(f"a picture to {run.folder}"):
        make_again(run.folder)
        write_png(run.folder / f"batch{run.progress.batch:06d}_out{suffix}.png", picture)
    plots.images(
        "mln batch", torch.from_numpy(picture / 255.0)[None, None].float(), "MLN batch", columns=1
    )


def _wide(images: Tensor) -> Tensor:
    return torch.view_as_complex(to_label(images))


def save(run: Run, last: bool = True) -> None:
    """Checkpoint (the previous one stays as .old) and TrainSummary_%06d.mat; a folder that went
    away is made again. Raises UserError instead where a weight is no number, and where the `last`
    checkpoint cannot be written.
    """
    if bad := not_finite(held_by({"network": run.network}, {"adam": run.optimizer})):
        raise _diverged(run, bad[0])
    target = run.checkpoint_folder / CHECKPOINT_NAME

    def write() -> None:
        checkpoints.save_checkpoint(
            target,
            run.params,
            run.network,
            run.optimizer,
            run.progress,
            run.protocol.trajectory.shape[1],
        )

    run.saves.save(target, last, write)
    summary = run.folder / f"TrainSummary_{run.progress.batch:06d}.mat"
    with spared(str(summary)):
        make_again(run.folder)
        checkpoints.write_summary(summary, run.network, run.progress.losses)
