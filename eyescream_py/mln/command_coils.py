"""`estimate-coils`: coil maps from a scan's own samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eyescream_py.mln import idle
from eyescream_py.mln.options import (
    PROTOCOL_KEYS,
    chosen_device,
    given_params,
    overwrite_option,
    params_options,
    threads_option,
)
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import demand_room
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import still
from eyescream_py.system.voice import counted, say


@click.command("estimate-coils", cls=Command)
@params_options(PROTOCOL_KEYS)
@threads_option
@click.option("--scan", type=PATH, required=True, metavar="FILE", help=".mat of the scan: Data.")
@click.option("--out", type=PATH, required=True, metavar="FILE", help="SensCC1.mat to write.")
@click.option(
    "--method",
    type=click.Choice(["auto", "espirit", "joint"]),
    default="auto",
    show_default=True,
    help="joint: image and coils together, where the centre of k-space is undersampled.",
)
@overwrite_option
@click.option(
    "--calibration",
    type=click.IntRange(8, 128),
    default=32,
    show_default=True,
    help="Width of the centre of k-space that is used, 1/FOV.",
)
def estimate_coils(
    params_file: str | None,
    ignore_unknown: bool,
    threads: int,
    scan: str,
    out: str,
    method: str,
    calibration: int,
    overwrite: bool,
    **flags: Any,
) -> None:
    """Estimate coil maps from the centre of a scan's own k-space and write them as SensCC1.mat.

    Needs LabelsH, BaseNUFTDataP and RealDatancc (or nccInData), no maps. Runs on the CPU.
    """
    from eyescream_py.mln.coil_estimation import estimated_maps
    from eyescream_py.mln.formats.mat import demand_free
    from eyescream_py.mln.protocol import first_frame, read_scan, read_trajectory, write_maps

    idle.tell_of_estimation("coils")
    demand_free("--out", out, [] if overwrite else [Path(out)])
    params = given_params(params_file, ignore_unknown, flags)
    chosen_device(-1, threads)
    coils = params.coils_in_scan or params.coils_in_data
    if not coils:
        raise UserError("give --RealDatancc, the number of coils in the scan")
    demand_room(Path(out))
    trajectory = read_trajectory(params)
    _, frame = first_frame(read_scan(scan, trajectory.shape[1], coils, coils, "--scan"))
    side = params.image_side
    try:
        with still(f"coil maps of {side} x {side} pixels"):
            maps, mask, taken = estimated_maps(trajectory, frame[0], side, method, calibration)
    except ValueError as error:
        raise UserError(f"--scan {scan}: {error}; raise --calibration") from None
    write_maps(out, maps, mask)
    say(
        f"{out}: {counted(coils, 'coil')}, {taken}, object on {float(mask.mean()):.0%} of the image"
    )
