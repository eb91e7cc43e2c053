"""`import` and `export`: scans from and to BART's and ISMRMRD's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eyescream_py.mln import idle
from eyescream_py.mln.options import PROTOCOL_KEYS, given_params, overwrite_option, params_options
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import demand_room
from eyescream_py.system.folders import make_folder
from eyescream_py.system.places import PATH, as_module
from eyescream_py.system.voice import as_typed, counted, say, warn


@click.command("import", cls=Command)
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, metavar="FOLDER", help="Where the files go.")
@click.option("--trajectory", type=PATH, metavar="NAME", help="BART's trajectory of SOURCE.")
@click.option("--maps", type=PATH, metavar="NAME", help="BART's coil maps; else estimated.")
@click.option("--side", type=click.IntRange(8, 4096), help="Image side; default: the file's own.")
@click.option(
    "--units",
    type=click.Choice(["auto", "fov", "cycles", "radians"]),
    default="auto",
    show_default=True,
    help="Of the trajectory: 1/FOV, cycles or radians per pixel.",
)
@click.option("--compress", type=click.IntRange(0, 1024), default=0, help="Virtual coils; 0: none.")
@click.option(
    "--coil-method",
    type=click.Choice(["auto", "espirit", "joint"]),
    default="auto",
    show_default=True,
    help="As in estimate-coils.",
)
def import_scan(
    source: str,
    out: str,
    trajectory: str | None,
    maps: str | None,
    side: int | None,
    units: str,
    compress: int,
    coil_method: str,
) -> None:
    """Make a folder to train and reconstruct with from SOURCE: an ISMRMRD file (.h5), or BART's
    k-space (name of its .cfl).

    Siemens' raw files (.dat) are not read: convert them with siemens_to_ismrmrd, or `bart
    twixread`.
    """
    from eyescream_py.mln.exchange import FOLDER_FILES, write_folder
    from eyescream_py.mln.formats.mat import demand_free
    from eyescream_py.mln.protocol import trajectory_units

    folder = Path(out)
    demand_free("--out", out, [folder / name for name in FOLDER_FILES], "choose another folder")
    idle.tell_of_import(source, maps)
    scan = _scan(source, trajectory, maps, side or 0, units)
    try:
        make_folder(folder)
        demand_room(folder / "Params.txt")
        params, taken = write_folder(scan, folder, compress, coil_method)
    except ValueError as error:
        raise UserError(f"SOURCE {source}: {error}; give --maps") from None
    doubt = trajectory_units(scan.trajectory, scan.side)
    if doubt:
        warn(doubt)
    say(
        f"{counted(len(scan.signal), 'row')} of {params.samples} samples, "
        f"{counted(params.coils, 'coil')}, {scan.side} px; coil maps {taken}"
    )
    say(f"{as_module('mln')} train --params {as_typed(folder / 'Params.txt')}")


def _scan(source: str, trajectory: str | None, maps: str | None, side: int, units: str) -> Any:
    """What SOURCE holds, by the end of its name."""
    from eyescream_py.mln.exchange import from_bart, from_ismrmrd

    if source.lower().endswith(".dat"):
        raise UserError(
            f"SOURCE {source}: convert Siemens raw data with siemens_to_ismrmrd or bart twixread"
        )
    if source.lower().endswith(idle.ISMRMRD):
        return from_ismrmrd(source, side, units)
    return from_bart(source, trajectory, maps, side, units)


@click.command("export", cls=Command)
@params_options(PROTOCOL_KEYS)
@click.option("--scan", type=PATH, required=True, metavar="FILE", help=".mat of the scan: Data.")
@click.option("--out", type=PATH, required=True, metavar="PREFIX", help="Files' first part.")
@click.option("--format", "kind", type=click.Choice(["bart", "ismrmrd"]), required=True)
@overwrite_option
def export_scan(
    params_file: str | None,
    ignore_unknown: bool,
    scan: str,
    out: str,
    kind: str,
    overwrite: bool,
    **flags: Any,
) -> None:
    """Write a scan and its protocol for BART (PREFIX_ksp, PREFIX_traj, PREFIX_maps) or as ISMRMRD
    (PREFIX.h5, without maps).
    """
    from eyescream_py.mln.exchange import BART_ENDS, Foreign, ismrmrd_name, to_bart, to_ismrmrd
    from eyescream_py.mln.formats.mat import demand_free
    from eyescream_py.mln.protocol import load_protocol, read_scan

    names = [f"{out}{end}" for end in BART_ENDS] if kind == "bart" else [ismrmrd_name(out)]
    files = [Path(name) for name in names]
    demand_free("--out", out, [] if overwrite else files)
    demand_room(files[0])
    params = given_params(params_file, ignore_unknown, flags)
    protocol = load_protocol(params)
    coils = protocol.acquisition.coils.shape[1]
    in_data = params.coils_in_scan or params.coils_in_data or coils
    signal = read_scan(scan, protocol.samples, in_data, coils, "--scan")
    made = Foreign(signal, protocol.trajectory, protocol.acquisition.coils[0], params.image_side)
    say(" ".join((to_bart if kind == "bart" else to_ismrmrd)(made, out)))
