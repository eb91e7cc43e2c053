"""Scans from and to other programs' files: a folder of this room's files from BART or ISMRMRD, and
back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.mln.baselines import cg_sense
from eyescream_py.mln.coil_estimation import compressed, compression_matrix, estimated_maps
from eyescream_py.mln.formats.cfl import COIL_AXIS, TIME_AXIS, read_cfl, write_cfl
from eyescream_py.mln.formats.ismrmrd import read_ismrmrd, write_ismrmrd
from eyescream_py.mln.formats.mat import by_sizes, demand_magnitude, write_mat
from eyescream_py.mln.forward import Acquisition, signal_to_feature
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import demand_path, first_frame, write_maps, write_params
from eyescream_py.system.errors import UserError
from eyescream_py.system.folders import make_folder
from eyescream_py.system.progress import still

# what `write_folder` and `to_bart` write
FOLDER_FILES = "Params.txt", "TrajForNUFT.mat", "SensCC1.mat", "Scan_01.mat"
MOST_SORTED = 16_000_000  # numbers that torch.quantile takes; of more, every second, third ...
SIDES = 8, 4096  # pixels of an image's side, least and most
BART_ENDS = tuple(f"_{kind}.{end}" for kind in ("ksp", "traj", "maps") for end in ("cfl", "hdr"))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Foreign:
    """A scan as another program keeps it: signal (rows, C, M), trajectory (2, M) in 1/FOV, maps
    (C, N, N) or None, side N in pixels.
    """

    signal: Tensor
    trajectory: Floats
    maps: Tensor | None
    side: int


def from_ismrmrd(path: str, side: int, units: str) -> Foreign:
    """An ISMRMRD file. Without trajectories its readouts are lines of a Cartesian grid. Raises
    UserError, as `from_bart` does, where no image can be made of what it holds."""
    raw = read_ismrmrd(path, "SOURCE")
    side = side or raw.side
    if not side:
        raise UserError(f"SOURCE {path}: says no matrix size; give --side")
    if raw.trajectory is None:
        if len(np.unique(raw.lines)) == 1:
            raise UserError(f"SOURCE {path}: holds one line of k-space and no 2-D trajectory")
        trajectory = raw.on_lines(side)
    else:
        trajectory = in_fov_units(raw.trajectory, side, units)
    scan = Foreign(torch.from_numpy(raw.signal), trajectory, None, side)
    return _checked(scan, f"SOURCE {path}", f"SOURCE {path}")


def from_bart(
    kspace: str, trajectory: str | None, maps: str | None, side: int, units: str
) -> Foreign:
    """BART's k-space (1, samples, interleaves, C) with its trajectory, or (X, Y, 1, C) on the grid:
    there the places where any number is not zero were sampled, and X x Y square pixels are the
    middle of the image. Raises UserError that names the file which does not fit.
    """
    data = read_cfl(kspace, "SOURCE")
    shape = data.shape
    known = _maps(maps) if maps else None
    if known is not None and trajectory is None and known.shape[1:] == shape[:2]:
        known = _squared(known)
    side = side or (0 if known is None else known.shape[1])
    rows = np.moveaxis(data, (TIME_AXIS, COIL_AXIS), (0, 1)).reshape(
        shape[TIME_AXIS], shape[COIL_AXIS], *shape[:3], -1
    )
    if rows.shape[-1] != 1:
        raise UserError(f"SOURCE {kspace}: has other axes than place, coil and time (10)")
    if trajectory is None:
        places, values = _cartesian(rows[..., 0], kspace)
        side = side or max(shape[:2])
    else:
        places = _places(trajectory)
        values = rows[..., 0].transpose(0, 1, 4, 3, 2).reshape(*rows.shape[:2], -1)
        side = side or 2 * int(np.ceil(np.abs(places).max()))
        places = in_fov_units(places, side, units)
    if places.shape[1] != values.shape[2]:
        raise UserError(
            f"SOURCE {kspace}: {values.shape[2]} samples per coil, its trajectory has "
            f"{places.shape[1]}"
        )
    fitting = (values.shape[1], side, side)
    if known is not None and known.shape != fitting:
        raise UserError(
            f"--maps {maps}: {by_sizes(known.shape)} (coils, rows, columns), not "
            f"{by_sizes(fitting)}; give others, or none"
        )
    scan = Foreign(torch.from_numpy(np.ascontiguousarray(values)), places, known, side)
    where = f"SOURCE {kspace}" if trajectory is None else f"--trajectory {trajectory}"
    return _checked(scan, f"SOURCE {kspace}", where)


def _checked(scan: Foreign, source: str, trajectory: str) -> Foreign:
    """`scan` where an image can be made of it; else UserError that begins with `source`, or with
    `trajectory` where that is to blame."""
    demand_magnitude(scan.signal, "its k-space", source)
    demand_path(scan.trajectory, "its trajectory", trajectory)
    if not SIDES[0] <= scan.side <= SIDES[1]:
        raise UserError(
            f"{source}: an image of {scan.side} pixels a side is not between {SIDES[0]} and "
            f"{SIDES[1]}; give --side"
        )
    return scan


def _places(name: str) -> Floats:
    """BART's trajectory (3, samples, interleaves) as (2, samples), in its own unit."""
    array, label = read_cfl(name, "--trajectory"), f"--trajectory {name}"
    if array.shape[0] != 3:
        raise UserError(f"{label}: its first size is {array.shape[0]}, not 3 (kx, ky, kz)")
    places = array.reshape(3, -1, order="F")
    largest = np.abs(places).max()
    for wrong, words in ((places.imag, "complex numbers"), (places[2], "a third dimension")):
        if np.abs(wrong).max() > 1e-3 * largest:
            raise UserError(f"{label}: holds {words}; give a real trajectory through one plane")
    return places[:2].real.astype(np.float64)


def _maps(name: str) -> Tensor:
    """BART's maps (X, Y, 1, C, sets): the first set, (C, X, Y)."""
    array = read_cfl(name, "--maps")
    demand_magnitude(array, "the map of all coils", f"--maps {name}")
    first = array[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    return torch.from_numpy(np.ascontiguousarray(first.transpose(2, 0, 1)))


def _squared(maps: Tensor) -> Tensor:
    """Maps (C, X, Y) in the middle of a square of the longer side, (C, N, N); zero beside them."""
    side = max(maps.shape[1:])
    rows, columns = (
        slice(side // 2 - length // 2, side // 2 - length // 2 + length)
        for length in maps.shape[1:]
    )
    square = maps.new_zeros(len(maps), side, side)
    square[:, rows, columns] = maps
    return square


def _cartesian(rows: NDArray[np.complex64], name: str) -> tuple[Floats, NDArray[np.complex64]]:
    """(rows, C, X, Y, 1) -> the sampled places (2, M) and their values (rows, C, M)."""
    if rows.shape[4] != 1 or rows.shape[2] == 1:
        raise UserError(f"SOURCE {name}: no 2-D Cartesian k-space; give its --trajectory")
    grid = rows[..., 0]
    sampled = np.abs(grid).max((0, 1)) > 0
    first, second = np.nonzero(sampled)
    if not first.size:
        raise UserError(f"SOURCE {name}: all its numbers are zero")
    sizes = grid.shape[2:]
    # k in 1/FOV of the longer side: of a shorter field of view the places lie further apart
    places = [
        (place - size // 2) * (max(sizes) / size)
        for place, size in zip((first, second), sizes, strict=True)
    ]
    return np.stack(places), grid[..., first, second]


def in_fov_units(trajectory: Floats, side: int, units: str) -> Floats:
    """A trajectory in 1/FOV. units: fov (as it is), cycles or radians per pixel, or auto: by the
    largest |k|.
    """
    reach = float(np.abs(trajectory).max())
    if units == "auto":
        units = "cycles" if reach <= 0.51 else "radians" if reach <= 3.2 and side > 16 else "fov"
    return trajectory * {"fov": 1.0, "cycles": float(side), "radians": side / (2 * np.pi)}[units]


def write_folder(scan: Foreign, out: Path, coils: int, method: str) -> tuple[Params, str]:
    """TrajForNUFT.mat, SensCC1.mat, Scan_01.mat and Params.txt in `out`; returns the Params and how
    the maps were found.

    coils: virtual coils to compress to, 0 for none. Data is scaled so that the image's magnitudes
    reach about 1, as the training images do; `scale` in Scan_01.mat is the factor. Raises
    ValueError where no maps or no image can be estimated.
    """
    signal, maps = scan.signal, scan.maps
    if coils and coils < signal.shape[1]:
        matrix = compression_matrix(signal.transpose(0, 1).flatten(1), coils)
        signal = compressed(signal, matrix)
        maps = None if maps is None else torch.einsum("cxy,cv->vxy", maps, matrix.conj())
    taken = "given"
    _, frame = first_frame(signal)
    if maps is None:
        with still(f"coil maps of {scan.side} x {scan.side} pixels"):
            maps, mask, taken = estimated_maps(scan.trajectory, frame[0], scan.side, method)
    else:
        mask = (maps.norm(dim=0) > 1e-3 * float(maps.norm(dim=0).max())).float()
    operator = choose_operator(scan.trajectory, scan.side)
    with still(f"an image of {scan.side} x {scan.side} pixels, for the scale"):
        image = cg_sense(Acquisition(operator, (maps * mask)[None]), frame, 8)
    scale = 1 / _brightness(image)
    make_folder(out)
    write_mat(out / "TrajForNUFT.mat", {"Trajm2": scan.trajectory})
    write_maps(out / "SensCC1.mat", maps, mask)
    feature = signal_to_feature(signal * scale).numpy()
    write_mat(out / "Scan_01.mat", {"Data": feature, "scale": scale})
    samples, coils = scan.trajectory.shape[1], signal.shape[1]
    return write_params(out, "Imported", samples, scan.side, coils, init_examples=120), taken


def _brightness(image: Tensor) -> float:
    """The 99.9th percentile of an image's magnitudes; the largest where few are not zero."""
    size = image.abs().flatten()
    brightest = float(size[:: -(-len(size) // MOST_SORTED)].quantile(0.999)) or float(size.max())
    if not brightest > 0:
        raise ValueError("the image is zero wherever the coil maps are not")
    return brightest


def to_bart(scan: Foreign, prefix: str) -> list[str]:
    """PREFIX_ksp, PREFIX_traj and PREFIX_maps as .cfl and .hdr, for `bart pics -t`."""
    rows, coils, samples = scan.signal.shape
    # The room's samples are sums over pixels divided by N, as BART's `nufft` has them.
    signal = scan.signal.numpy().transpose(2, 1, 0)  # [M,C,rows]
    sizes = (1, samples, 1, coils, *[1] * (TIME_AXIS - COIL_AXIS - 1), rows)
    places = np.concatenate([scan.trajectory, np.zeros((1, samples))])
    names = [f"{prefix}_ksp", f"{prefix}_traj"]
    write_cfl(names[0], signal.reshape(sizes))
    write_cfl(names[1], places)
    if scan.maps is not None:
        names.append(f"{prefix}_maps")
        write_cfl(names[2], scan.maps.numpy().transpose(1, 2, 0)[:, :, None])
    return names


def ismrmrd_name(prefix: str) -> str:
    """The file that `to_ismrmrd` writes: PREFIX.h5, or PREFIX where it ends so already."""
    return prefix if prefix.lower().endswith(".h5") else f"{prefix}.h5"


def to_ismrmrd(scan: Foreign, prefix: str) -> list[str]:
    """One file of `ismrmrd_name`, its trajectory in 1/FOV."""
    name = ismrmrd_name(prefix)
    write_ismrmrd(name, scan.signal.numpy(), scan.trajectory, scan.side)
    return [name]
