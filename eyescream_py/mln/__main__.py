"""python -m eyescream_py.mln train | reconstruct | simulate | import | export | estimate-coils |
estimate-b0 | demo
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eyescream_py.mln import idle
from eyescream_py.mln.command_coils import estimate_coils
from eyescream_py.mln.command_formats import export_scan, import_scan
from eyescream_py.mln.command_reconstruct import reconstruct
from eyescream_py.mln.options import (
    PROTOCOL_KEYS,
    chosen_device,
    given_params,
    kept_params,
    machine_options,
    overwrite_option,
    params_options,
    threads_option,
)
from eyescream_py.system.commands import Group
from eyescream_py.system.files import demand_room
from eyescream_py.system.numbers import PORT, Finite
from eyescream_py.system.places import PATH, as_module
from eyescream_py.system.progress import still
from eyescream_py.system.signals import BEFORE_TRAINING, StopSignal
from eyescream_py.system.voice import as_typed, counted, say, warn

if TYPE_CHECKING:
    from eyescream_py.mln.params import Params
    from eyescream_py.plots.windows import Plots


@click.group(cls=Group)
def main() -> None:
    """Minimal linear networks: train on generic images for one scan protocol, reconstruct its
    scans.
    """


@main.command()
@params_options()
@machine_options
@click.option(
    "--out",
    default=".",
    show_default=True,
    type=PATH,
    metavar="FOLDER",
    help="Where the session's folders go.",
)
@click.option(
    "--batches",
    type=click.IntRange(0),
    default=0,
    help="Stop after so many batches; 0: by time only.",
)
@click.option(
    "--resume",
    default=None,
    type=PATH,
    metavar="FILE",
    help="Go on from this checkpoint_new.safetensors.",
)
@click.option(
    "--test-images",
    type=click.IntRange(0, 4096),
    default=16,
    show_default=True,
    help="Unseen examples for the closing comparison; 0: none.",
)
@click.option(
    "--capture/--no-capture",
    default=True,
    show_default=True,
    help="On a GPU, record the step as a graph and replay it.",
)
@click.option("--wavelet", is_flag=True, help="Add wavelet-L1 and TV to the comparison (slow).")
@click.option(
    "--plots/--no-plots", default=False, show_default=True, help="Show the run in Visdom."
)
@click.option("--plot-server", default="http://localhost", show_default=True)
@click.option("--plot-port", type=PORT, default=8097, show_default=True)
def train(
    params_file: str | None,
    ignore_unknown: bool,
    gpu: int,
    threads: int,
    out: str,
    batches: int,
    resume: str | None,
    test_images: int,
    capture: bool,
    wavelet: bool,
    plots: bool,
    plot_server: str,
    plot_port: int,
    **flags: Any,
) -> None:
    """Train a network for the protocol of Params.txt."""
    from eyescream_py.mln import training
    from eyescream_py.mln.data import training_images
    from eyescream_py.mln.params import warnings_of
    from eyescream_py.mln.protocol import load_protocol

    with StopSignal(BEFORE_TRAINING):
        params = _resumed_params(resume, params_file, ignore_unknown, flags)
        device = chosen_device(gpu, threads)
        idle.tell_of_training(device.type == "cpu", plots, test_images, resume, params.init)
        protocol = load_protocol(params, device)
        for line in warnings_of(params):
            warn(line)
        images, unseen = training_images(params)
        say(f"{counted(len(images), 'training image')} of {images.shape[1]} x {images.shape[2]}")
        windows = _opened(plots, plot_server, plot_port)
    with closing(windows):
        with StopSignal(BEFORE_TRAINING):
            run = _begun(resume, params, protocol, images, out)
            run.capture = capture
        say(training.train(run, windows, say, batches))
    say(f"pictures in {run.folder}\ncheckpoint {run.checkpoint_folder / training.CHECKPOINT_NAME}")
    if test_images:
        _closing_comparison(run, images, unseen, test_images, wavelet)


def _begun(resume: str | None, params: Params, protocol: Any, images: Any, out: str) -> Any:
    from eyescream_py.mln import training

    if resume:
        return training.resumed_run(Path(resume), params, protocol, images)
    return training.new_run(params, protocol, images, Path(out), say)


def _opened(shown: bool, server: str, port: int) -> Plots:
    from eyescream_py.plots.client import PlotFlags
    from eyescream_py.plots.windows import Plots

    names = PlotFlags("--plot-server", "--plot-port", "--no-plots")
    return Plots.open(shown, server, port, "mln", flags=names)


def _resumed_params(
    resume: str | None, params_file: str | None, ignore: bool, flags: dict[str, Any]
) -> Params:
    """The checkpoint's own parameters under the given flags, or --params where that is given
    too.
    """
    if resume is None or params_file is not None:
        return given_params(params_file, ignore, flags)
    from eyescream_py.mln.checkpoints import load_checkpoint

    return kept_params(load_checkpoint(resume).params, resume, flags)


def _closing_comparison(run: Any, images: Any, unseen: Any, count: int, wavelet: bool) -> None:
    """Score MLN and the other methods on examples of images that training never saw, each another:
    a signal bank would repeat them.
    """
    import json

    from eyescream_py.mln.data import Examples
    from eyescream_py.mln.reconstruction import compare, score_records, score_table, verdict
    from eyescream_py.system.files import atomic_write

    seed, params = run.params.seed + 1_000_000, replace(run.params, bank_size=0)
    test = Examples(params, run.protocol, unseen, seed=seed).batch(0, count)
    choose = Examples(params, run.protocol, images, seed=seed + 1).batch(0, min(count, 4))
    with still("comparison with the other methods"):
        scores = compare(run.network, run.protocol, test, choose, wavelet=wavelet)
    say(score_table(scores))
    line, lost = verdict(scores, run.protocol.outputs)
    (warn if lost else say)(line)
    with atomic_write(run.folder / "comparison.json") as file:
        file.write(json.dumps(score_records(scores), indent=1).encode())


for command in (reconstruct, import_scan, export_scan, estimate_coils):
    main.add_command(command)


@main.command()
@click.option("--out", required=True, type=PATH, metavar="FOLDER", help="Where the files go.")
@click.option(
    "--side",
    type=click.IntRange(16, 512),
    default=64,
    show_default=True,
    help="Image side, pixels.",
)
@click.option("--coils", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--kind", type=click.Choice(["spiral", "mask"]), default="spiral", show_default=True)
@click.option(
    "--samples",
    type=click.IntRange(64, 1_000_000),
    default=2000,
    show_default=True,
    help="Of the spiral.",
)
@click.option(
    "--turns", type=Finite(1, most=1000), default=12.0, show_default=True, help="Of the spiral."
)
@click.option(
    "--acceleration",
    type=Finite(1.5, most=1000),
    default=6.0,
    show_default=True,
    help="Of the mask.",
)
@click.option(
    "--b0",
    "b0_hz",
    type=Finite(0, most=1e5),
    default=0.0,
    show_default=True,
    help="Peak, Hz; 0: none.",
)
@click.option(
    "--readout",
    "readout_ms",
    type=Finite(0.01, most=1e5),
    default=10.0,
    show_default=True,
    help="ms.",
)
@click.option(
    "--segments",
    type=click.IntRange(2, 4096),
    default=7,
    show_default=True,
    help="Of the B0 model.",
)
@click.option(
    "--noise", type=Finite(0, most=1e3), default=0.02, show_default=True, help="Per real number."
)
@click.option("--seed", type=click.IntRange(0, 1 << 40), default=1, show_default=True)
def simulate(out: str, **setup: Any) -> None:
    """Write a synthetic protocol, a scan of it and a Params.txt to train with."""
    from eyescream_py.mln.simulation import Setup, write_simulation

    idle.tell_of_simulation(setup)
    write_simulation(Setup(**setup), Path(out))
    say(f"{as_module('mln')} train --params {as_typed(Path(out) / 'Params.txt')}")


@main.command("estimate-b0")
@params_options(PROTOCOL_KEYS)
@threads_option
@click.option(
    "--scan", required=True, type=PATH, metavar="FILE", help=".mat of the scan (key Data)."
)
@click.option("--out", required=True, type=PATH, metavar="FILE", help="B0TS.mat to write.")
@overwrite_option
def estimate_b0(
    params_file: str | None,
    ignore_unknown: bool,
    threads: int,
    scan: str,
    out: str,
    overwrite: bool,
    **flags: Any,
) -> None:
    """Estimate a smooth B0 map from a scan's own samples (taken in time order) and write it as
    B0TS.mat. Runs on the CPU.
    """
    import torch

    from eyescream_py.mln.b0_estimation import estimate_turns
    from eyescream_py.mln.formats.mat import demand_free
    from eyescream_py.mln.forward import segment_phases
    from eyescream_py.mln.protocol import first_frame, load_protocol, read_scan, write_b0
    from eyescream_py.mln.trajectories import sample_times, segment_interpolation

    idle.tell_of_estimation("b0")
    demand_free("--out", out, [] if overwrite else [Path(out)])
    params = replace(given_params(params_file, ignore_unknown, flags), use_b0=0)
    chosen_device(-1, threads)
    demand_room(Path(out))
    protocol = load_protocol(params)
    coils, samples = protocol.acquisition.coils[0], protocol.trajectory.shape[1]
    in_data = params.coils_in_scan or params.coils_in_data or len(coils)
    _, frame = first_frame(read_scan(scan, samples, in_data, len(coils), "--scan"))
    segments, mask = params.simulated_segments, protocol.mask[0]
    with still("estimating the field"):
        estimate = estimate_turns(protocol.trajectory, coils, mask, frame, segments, say=say)
    seconds = params.readout_ms / 1000
    phases = segment_phases(estimate.turns, segments, 1.0)
    weights = segment_interpolation(sample_times(samples, seconds), segments)
    hz = estimate.turns / seconds
    write_b0(out, phases, torch.from_numpy(weights), hz)
    say(f"{out}: {hz.min():.1f} to {hz.max():.1f} Hz over {params.readout_ms:g} ms")
    say(f"residual {estimate.residuals[0]:.4f} -> {estimate.residuals[-1]:.4f}")


@main.command()
@click.argument("folder", type=PATH)
@click.option(
    "--out", default=None, type=PATH, metavar="FILE", help="The GIF; default: FOLDER/demo.gif."
)
@click.option(
    "--seconds",
    type=Finite(0.02, most=10),
    default=0.2,
    show_default=True,
    help="Per picture.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file that --out names.")
def demo(folder: str, out: str | None, seconds: float, overwrite: bool) -> None:
    """Join the batch pictures of a ..._train FOLDER to a looping GIF."""
    from eyescream_py.mln.formats.mat import demand_free
    from eyescream_py.mln.pictures import write_demo

    if out and not overwrite:
        demand_free("--out", out, [Path(out)])
    target = Path(out) if out else Path(folder) / "demo.gif"
    say(f"{target}: {counted(write_demo(folder, target, seconds), 'frame')}")


if __name__ == "__main__":
    main()
