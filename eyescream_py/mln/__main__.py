"""python -m eyescream_py.mln train | reconstruct | simulate | estimate-b0 | demo"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eyescream_py.mln.params import Params, key_fields, params_from, read_params
from eyescream_py.system.errors import UserError

if TYPE_CHECKING:
    import torch

Command = Callable[..., Any]


def params_options(command: Command) -> Command:
    """--params, --ignore-unknown and one flag per key of Params.txt; the flag wins over the
    file.
    """
    for key, item in reversed(key_fields().items()):
        kind = type(item.default)
        shown = f" [{item.default}]" if item.default != "" else ""
        option = click.option(
            f"--{key}", f"key_{key}", type=kind, default=None, help=item.metadata["help"] + shown
        )
        command = option(command)
    command = click.option(
        "--ignore-unknown",
        is_flag=True,
        help="Go on although Params.txt has keys this program does not know.",
    )(command)
    return click.option(
        "--params",
        "params_file",
        metavar="FILE",
        default=None,
        help="Params.txt; flags win over it.",
    )(command)


threads_option = click.option("--threads", type=click.IntRange(1), default=4, show_default=True)


def machine_options(command: Command) -> Command:
    """--gpu and --threads, as in every program of the package."""
    return click.option(
        "--gpu", type=int, default=0, show_default=True, help="CUDA device; -1 is the CPU."
    )(threads_option(command))


def _params(params_file: str | None, ignore_unknown: bool, flags: dict[str, Any]) -> Params:
    chosen = {
        name.removeprefix("key_"): value for name, value in flags.items() if value is not None
    }
    if params_file is None:
        return params_from(chosen)
    return read_params(params_file, chosen, ignore_unknown)


def _device(gpu: int, threads: int) -> torch.device:
    from eyescream_py.system.device import choose_device, set_threads

    source = click.get_current_context().get_parameter_source
    given = click.core.ParameterSource.COMMANDLINE
    set_threads(threads, source("threads") == given)
    return choose_device(gpu, source("gpu") == given)


@click.group()
def main() -> None:
    """Minimal linear networks: train on generic images for one scan protocol, reconstruct its
    scans.
    """


@main.command()
@params_options
@machine_options
@click.option(
    "--out",
    default=".",
    show_default=True,
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
    "--resume", default=None, metavar="FILE", help="Go on from this checkpoint_new.safetensors."
)
@click.option(
    "--test-images",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Unseen examples for the closing comparison; 0: none.",
)
@click.option("--wavelet", is_flag=True, help="Add wavelet-L1 to the comparison (slow).")
@click.option(
    "--plots/--no-plots", default=False, show_default=True, help="Show the run in Visdom."
)
@click.option("--plot-server", default="http://localhost", show_default=True)
@click.option("--plot-port", type=int, default=8097, show_default=True)
def train(
    params_file: str | None,
    ignore_unknown: bool,
    gpu: int,
    threads: int,
    out: str,
    batches: int,
    resume: str | None,
    test_images: int,
    wavelet: bool,
    plots: bool,
    plot_server: str,
    plot_port: int,
    **flags: Any,
) -> None:
    """Train a network for the protocol of Params.txt."""
    from eyescream_py.mln import training
    from eyescream_py.mln.data import load_images
    from eyescream_py.mln.protocol import load_protocol
    from eyescream_py.plots.windows import Plots

    params = _resumed_params(resume, params_file, ignore_unknown, flags)
    device = _device(gpu, threads)
    protocol = load_protocol(params, device)
    images = load_images(params.images, params.images_to_load, params.image_side, params.seed)
    click.echo(f"{len(images)} training images of {images.shape[1]} x {images.shape[2]}")
    if resume:
        run = training.resumed_run(Path(resume), params, protocol, images)
    else:
        run = training.new_run(params, protocol, images, Path(out), click.echo)
    windows = Plots.open(plots, plot_server, plot_port, "mln")
    try:
        click.echo(training.train(run, windows, click.echo, batches))
    finally:
        windows.close()
    click.echo(
        f"pictures in {run.folder}\ncheckpoint {run.checkpoint_folder / training.CHECKPOINT_NAME}"
    )
    if test_images:
        _closing_comparison(run, images, test_images, wavelet)


def _resumed_params(
    resume: str | None, params_file: str | None, ignore: bool, flags: dict[str, Any]
) -> Params:
    """The checkpoint's own parameters under the given flags, or --params where that is given
    too.
    """
    if resume is None or params_file is not None:
        return _params(params_file, ignore, flags)
    from eyescream_py.mln.checkpoints import load_checkpoint
    from eyescream_py.mln.params import params_text, parse_text

    saved = parse_text(params_text(load_checkpoint(resume).params))
    chosen = {
        name.removeprefix("key_"): value for name, value in flags.items() if value is not None
    }
    return params_from(saved | chosen, resume)


def _closing_comparison(run: Any, images: Any, count: int, wavelet: bool) -> None:
    import json

    from eyescream_py.mln.data import Examples
    from eyescream_py.mln.reconstruction import compare, score_records, score_table
    from eyescream_py.system.files import atomic_write

    unseen = Examples(run.params, run.protocol, images, seed=run.params.seed + 1_000_000)
    scores = compare(
        run.network, run.protocol, unseen.simulate(list(range(count))), wavelet=wavelet
    )
    click.echo(score_table(scores))
    with atomic_write(run.folder / "comparison.json") as file:
        file.write(json.dumps(score_records(scores), indent=1).encode())


@main.command()
@params_options
@machine_options
@click.option(
    "--checkpoint", default=None, metavar="FILE", help="Wins over LoadAndRunOnData_checkpointP."
)
@click.option(
    "--prefix", default=None, metavar="PATH", help="Scans are PATH01.mat, PATH02.mat, ..."
)
@click.option("--out", default=None, metavar="FOLDER", help="Where OnRealDataXX.mat go.")
def reconstruct(
    params_file: str | None,
    ignore_unknown: bool,
    gpu: int,
    threads: int,
    checkpoint: str | None,
    prefix: str | None,
    out: str | None,
    **flags: Any,
) -> None:
    """Reconstruct <prefix>01.mat ... with a trained network into OnRealDataXX.mat."""
    params = _params(params_file, ignore_unknown, flags)
    needs = {
        "--checkpoint": checkpoint or params.run_checkpoint,
        "--prefix": prefix or params.run_prefix,
        "--out": out or params.run_output,
    }
    absent = [name for name, value in needs.items() if not value]
    if absent:
        raise UserError(f"give {', '.join(absent)} (or their LoadAndRunOnData keys in --params)")
    from eyescream_py.mln.checkpoints import load_checkpoint
    from eyescream_py.mln.reconstruction import run_on_files

    device = _device(gpu, threads)
    loaded = load_checkpoint(_checkpoint_file(needs["--checkpoint"]))
    run_on_files(
        loaded, needs["--prefix"], Path(needs["--out"]), params.run_count, device, click.echo
    )


def _checkpoint_file(path: str) -> Path:
    from eyescream_py.mln.training import CHECKPOINT_NAME

    return Path(path) / CHECKPOINT_NAME if Path(path).is_dir() else Path(path)


@main.command()
@click.option("--out", required=True, metavar="FOLDER", help="Where the files go.")
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
    "--samples", type=click.IntRange(64), default=2000, show_default=True, help="Of the spiral."
)
@click.option(
    "--turns", type=click.FloatRange(1), default=12.0, show_default=True, help="Of the spiral."
)
@click.option(
    "--acceleration",
    type=click.FloatRange(1.5),
    default=6.0,
    show_default=True,
    help="Of the mask.",
)
@click.option(
    "--b0",
    "b0_hz",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Peak, Hz; 0: none.",
)
@click.option(
    "--readout",
    "readout_ms",
    type=click.FloatRange(0.01),
    default=10.0,
    show_default=True,
    help="ms.",
)
@click.option(
    "--segments", type=click.IntRange(2), default=7, show_default=True, help="Of the B0 model."
)
@click.option(
    "--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Per real number."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
def simulate(out: str, **setup: Any) -> None:
    """Write a synthetic protocol, a scan of it and a Params.txt to train with."""
    from eyescream_py.mln.simulation import Setup, write_simulation

    write_simulation(Setup(**setup), Path(out))
    click.echo(f"python -m eyescream_py.mln train --params {Path(out) / 'Params.txt'}")


@main.command("estimate-b0")
@params_options
@threads_option
@click.option("--scan", required=True, metavar="FILE", help=".mat of the scan (key Data).")
@click.option("--out", required=True, metavar="FILE", help="B0TS.mat to write.")
def estimate_b0(
    params_file: str | None,
    ignore_unknown: bool,
    threads: int,
    scan: str,
    out: str,
    **flags: Any,
) -> None:
    """Estimate a smooth B0 map from a scan's own samples (taken in time order) and write it as
    B0TS.mat. Runs on the CPU.
    """
    from dataclasses import replace

    import torch

    from eyescream_py.mln.b0_estimation import estimate_turns
    from eyescream_py.mln.forward import segment_phases
    from eyescream_py.mln.protocol import load_protocol, read_scan, write_b0
    from eyescream_py.mln.trajectories import sample_times, segment_interpolation

    params = replace(_params(params_file, ignore_unknown, flags), use_b0=0)
    _device(-1, threads)
    protocol = load_protocol(params)
    coils, samples = protocol.acquisition.coils[0], protocol.trajectory.shape[1]
    in_data = params.coils_in_scan or params.coils_in_data or len(coils)
    signal = read_scan(scan, samples, in_data, len(coils), "--scan")[:1]
    segments, mask = params.simulated_segments, protocol.mask[0]
    estimate = estimate_turns(protocol.trajectory, coils, mask, signal, segments, say=click.echo)
    seconds = params.readout_ms / 1000
    phases = segment_phases(estimate.turns, segments, 1.0)
    weights = segment_interpolation(sample_times(samples, seconds), segments)
    write_b0(out, phases, torch.from_numpy(weights), estimate.turns / seconds)
    low, high = float(estimate.turns.min()) / seconds, float(estimate.turns.max()) / seconds
    click.echo(f"{out}: {low:.1f} to {high:.1f} Hz over {params.readout_ms:g} ms")
    click.echo(f"residual {estimate.residuals[0]:.4f} -> {estimate.residuals[-1]:.4f}")


@main.command()
@click.argument("folder")
@click.option("--out", default=None, metavar="FILE", help="The GIF; default: FOLDER/demo.gif.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.02, 10),
    default=0.2,
    show_default=True,
    help="Per picture.",
)
def demo(folder: str, out: str | None, seconds: float) -> None:
    """Join the batch pictures of a ..._train FOLDER to a looping GIF."""
    from eyescream_py.mln.pictures import write_demo

    target = Path(out) if out else Path(folder) / "demo.gif"
    click.echo(f"{target}: {write_demo(folder, target, seconds)} frames")


if __name__ == "__main__":
    main()
