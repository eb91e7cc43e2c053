"""One scan protocol: trajectory, coil maps and B0 from .mat files, checked against each other and
the Params.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.mln.formats.mat import by_sizes, demand_magnitude, dense, read_mat, write_mat
from eyescream_py.mln.forward import Acquisition, feature_to_signal
from eyescream_py.mln.networks import Shape
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.params import Params, echo_times, params_text
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.voice import counted, warn

Floats = NDArray[np.float64]
FARTHEST = 1e5  # 1/FOV: no scan goes as far


@dataclass(frozen=True)
class Protocol:
    """What stays the same from image to image.

    trajectory (2, M) in 1/FOV; acquisition: see Acquisition; mask (bands, N, N), 1 inside the
    object; echoes: (E, N, N) complex factors from the image to its echo images, None for a single
    image.
    """

    trajectory: Floats
    acquisition: Acquisition
    mask: Tensor
    echoes: Tensor | None = None

    @property
    def samples(self) -> int:
        return self.trajectory.shape[1]

    @property
    def outputs(self) -> int:
        return self.acquisition.bands if self.echoes is None else len(self.echoes)


def load_protocol(params: Params, device: torch.device | str = "cpu") -> Protocol:
    """Read TrajForNUFT.mat, SensCC1.mat and, if it is there and UseB0 is not 0, B0TS.mat.

    Several bands are a last axis on SensCC (N, N, C, bands), TSC (N, N, Q, bands), TSBF (Q, M,
    bands) and SensMsk (N, N, bands). Raises UserError that lists every number that disagrees.
    """
    trajectory = read_trajectory(params)
    coil_file = _in_folder(params.segments_folder, "BaseTSDataP", "SensCC1.mat")
    coils, mask = _read_maps(coil_file)
    b0_file = coil_file.with_name("B0TS.mat")
    b0 = _read_b0(b0_file) if params.use_b0 and b0_file.is_file() else {}
    _check_protocol(params, trajectory, coils, b0)
    used = coils[:, :, : params.coils or None]
    acquisition = Acquisition(
        choose_operator(trajectory, params.image_side, device),
        torch.from_numpy(used.transpose(3, 2, 0, 1)).to(device, torch.complex64),
        _complex(_with_bands(b0["TSC"], 3).transpose(3, 2, 0, 1), device) if b0 else None,
        _complex(_with_bands(b0["TSBF"], 2).transpose(2, 0, 1), device) if b0 else None,
    )
    band_masks = torch.from_numpy(mask.transpose(2, 0, 1) > 0).to(device, torch.float32)
    return Protocol(trajectory, acquisition, band_masks, _echoes(params, b0, device))


def as_wide_as_maps(params: Params) -> Params:
    """`params` for images of SensCC's side N. Raises UserError where maps cannot be read."""
    coils, _ = _read_maps(_in_folder(params.segments_folder, "BaseTSDataP", "SensCC1.mat"))
    return replace(params, image_side=coils.shape[0], image_width=coils.shape[0])


def read_trajectory(params: Params) -> Floats:
    """Trajm2 of TrajForNUFT.mat, (2, M) in 1/FOV, float64; a line where its unit looks wrong.
    Raises UserError where it is no path through k-space.
    """
    file = _in_folder(params.trajectory_folder, "BaseNUFTDataP", "TrajForNUFT.mat")
    label = f"BaseNUFTDataP {file}"
    found = read_mat(file, ["Trajm2"], source="BaseNUFTDataP")["Trajm2"]
    trajectory = dense(found, "Trajm2", 2, label, real=True).astype(np.float64)
    demand_path(trajectory, "Trajm2", label)
    if doubt := trajectory_units(trajectory, params.image_side):
        warn(f"{label}: {doubt}")
    return trajectory


def _read_maps(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """SensCC (N, N, C, bands) and SensMsk (N, N, bands)."""
    maps = read_mat(path, ["SensCC", "SensMsk"], source="BaseTSDataP")
    label = f"BaseTSDataP {path}"
    coils = _with_bands(dense(maps["SensCC"], "SensCC", 3, label, 1), 3)
    mask = _with_bands(dense(maps["SensMsk"], "SensMsk", 2, label, 1, real=True), 2)
    for name, array in (("SensCC", coils), ("SensMsk", mask)):
        demand_magnitude(array, name, label)
    if mask.shape != (*coils.shape[:2], coils.shape[3]):
        raise UserError(
            f"{label}: SensMsk is {by_sizes(mask.shape[:2])} with {mask.shape[2]} bands, SensCC "
            f"{by_sizes(coils.shape[:2])} with {coils.shape[3]}; they must agree"
        )
    return coils, mask


def _read_b0(path: Path) -> dict[str, NDArray[Any]]:
    b0 = read_mat(path, ["TSC", "TSBF"], ["B0_Hz"])
    axes = {"TSC": 3, "TSBF": 2, "B0_Hz": 2}
    for name, value in b0.items():
        b0[name] = dense(value, name, axes[name], str(path), 1, real=name == "B0_Hz")
    for name in ("TSC", "TSBF"):
        demand_magnitude(b0[name], name, str(path))
    return b0


def _in_folder(folder: str, key: str, name: str) -> Path:
    if not folder:
        raise UserError(f"--{key} is not given: the folder that holds {name}")
    return Path(folder) / name


def _with_bands(array: NDArray[Any], axes: int) -> NDArray[Any]:
    return array if array.ndim == axes + 1 else array[..., None]


def _complex(array: NDArray[Any], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, torch.complex64)


def _echoes(
    params: Params, b0: dict[str, NDArray[np.float64]], device: torch.device | str
) -> Tensor | None:
    times = echo_times(params)
    if not times:
        return None
    if "B0_Hz" not in b0:
        raise UserError("EchoTimes needs B0_Hz in B0TS.mat, the off-resonance map in Hz")
    turns = np.asarray(times)[:, None, None] * b0["B0_Hz"]
    return _complex(np.exp(2j * np.pi * turns), device)


def _check_protocol(
    params: Params,
    trajectory: Floats,
    coils: NDArray[Any],
    b0: dict[str, NDArray[Any]],
) -> None:
    samples, side = trajectory.shape[-1], params.image_side
    problems = []
    if params.samples and params.samples != samples:
        problems.append(f"nTraj says {counted(params.samples, 'sample')}, Trajm2 has {samples}")
    if coils.shape[:2] != (side, side):
        problems.append(
            f"LabelsH says {side} x {side} pixels, SensCC is {by_sizes(coils.shape[:2])}"
        )
    if params.neighbours > samples:
        problems.append(
            f"nNeighbors says {params.neighbours}, Trajm2 has {counted(samples, 'sample')}"
        )
    if params.coils_in_data and params.coils_in_data > coils.shape[2]:
        problems.append(
            f"nccInData says {counted(params.coils_in_data, 'coil')}, SensCC has {coils.shape[2]}"
        )
    if params.coils > coils.shape[2]:
        problems.append(
            f"nccToUse says {counted(params.coils, 'coil')}, SensCC has {coils.shape[2]}"
        )
    expected = 2 * samples * (params.coils_in_data or coils.shape[2])
    if params.feature_size and params.feature_size != expected:
        problems.append(
            f"DataH says {counted(params.feature_size, 'number')}, 2 x "
            f"{counted(samples, 'sample')} x "
            f"{counted(params.coils_in_data or coils.shape[2], 'coil')} are {expected}"
        )
    problems += _b0_problems(b0, side, samples, coils.shape[3])
    if problems:
        raise UserError("the sizes disagree: " + "; ".join(problems))


def _b0_problems(b0: dict[str, NDArray[Any]], side: int, samples: int, bands: int) -> list[str]:
    """What of B0TS.mat disagrees with the rest of the protocol; nothing where there is no B0."""
    if not b0:
        return []
    problems = []
    segments, weights = b0["TSC"], b0["TSBF"]
    if segments.shape[:2] != (side, side):
        problems.append(
            f"LabelsH says {side} x {side} pixels, TSC is {by_sizes(segments.shape[:2])}"
        )
    for name, array, axes in (("TSC", segments, 3), ("TSBF", weights, 2)):
        found = _with_bands(array, axes).shape[-1]
        if found != bands:
            problems.append(f"SensCC has {counted(bands, 'band')}, {name} {found}")
    if "B0_Hz" in b0 and b0["B0_Hz"].shape[:2] != (side, side):
        problems.append(f"B0_Hz is {by_sizes(b0['B0_Hz'].shape[:2])}, not {side} x {side}")
    if weights.shape[1] != samples:
        problems.append(f"Trajm2 has {counted(samples, 'sample')}, TSBF {weights.shape[1]}")
    if weights.shape[0] != segments.shape[2]:
        problems.append(f"TSBF has {counted(weights.shape[0], 'segment')}, TSC {segments.shape[2]}")
    return problems


def network_shape(params: Params, protocol: Protocol) -> Shape:
    """The network's sizes from the Params and the protocol's coils and outputs."""
    return Shape(
        params.image_side,
        params.grid_side,
        params.k_max,
        protocol.acquisition.coils.shape[1],
        params.neighbours,
        params.segments,
        protocol.outputs,
        params.k_grid,
        bool(params.trainable_fourier),
        bool(params.shared_fourier),
        bool(params.complex_bias),
    )


def read_scan(
    path: str | Path, samples: int, coils_in_data: int, coils: int, source: str = ""
) -> Tensor:
    """Key Data (rows, 2 M Cd), coil-major -> the rows before the zero padding, first coils: (rows,
    C, M).

    Raises UserError that says which numbers disagree, and for numbers that are all zero, be it in
    those coils alone, or beyond what single precision can work with.
    """
    label = f"{source} {path}".strip()
    found = read_mat(path, ["Data"], source=source)["Data"]
    data = dense(np.atleast_2d(found) if not hasattr(found, "tocsc") else found, "Data", 2, label)
    if data.dtype.kind == "c":  # rows of M C complex numbers
        data = np.concatenate([data.real, data.imag], 1)
    demand_magnitude(data, "Data", label)
    data = data.astype(np.float32)
    expected = 2 * samples * coils_in_data
    if data.shape[1] != expected:
        hint = _factors(data.shape[1], samples, coils_in_data)
        raise UserError(
            f"{label}: Data has {counted(data.shape[1], 'number')} per row, but 2 x "
            f"{counted(samples, 'sample')} "
            f"x {counted(coils_in_data, 'coil')} (RealDatancc, nccInData) are {expected}{hint}"
        )
    if coils > coils_in_data:  # one coil would be taken for each of the maps' coils
        raise UserError(
            f"{label}: Data has {counted(coils_in_data, 'coil')} (RealDatancc, nccInData), but "
            f"{coils} are used; give --nccToUse {coils_in_data}"
        )
    rows = int(np.flatnonzero(np.abs(data).max(1))[-1]) + 1
    signal = feature_to_signal(torch.from_numpy(data[:rows].copy()), coils_in_data)[:, :coils]
    if not bool(signal.any()):
        raise UserError(
            f"{label}: Data is zero in the first {coils} of its {coils_in_data} coils, which are "
            "those that nccToUse takes"
        )
    return signal


def first_frame(signal: Tensor) -> tuple[int, Tensor]:
    """The first row of (rows, C, M) that is not zero, as series may begin with nothing: its number
    and (1, C, M). Raises IndexError where all are zero.
    """
    row = int(signal.abs().amax((1, 2)).nonzero()[0])
    return row, signal[row : row + 1]


def demand_path(trajectory: NDArray[Any], name: str, label: str) -> None:
    """Refuse a trajectory, finite numbers in 1/FOV, that is not (2, M) through k-space: UserError
    with `label`."""
    if trajectory.ndim != 2 or trajectory.shape[0] != 2:
        raise UserError(f"{label}: {name} is {by_sizes(trajectory.shape)}, not 2 x samples")
    reach = float(np.abs(trajectory).max())
    if not 0 < reach <= FARTHEST:
        where = "all samples lie at k = 0" if reach == 0 else f"max|k| is {reach:.2g}"
        raise UserError(f"{label}: {where}; give {name} in 1/FOV")


def trajectory_units(trajectory: Floats, side: int) -> str:
    """A line about k that looks like another unit than 1/FOV; "" where its span fits the image."""
    reach, half = float(np.abs(trajectory).max()), side / 2
    if 0 < reach <= 0.51 and half > 4:
        return f"max|k| is {reach:.3g}: this looks like cycles per pixel; multiply Trajm2 by {side}"
    if 0 < reach <= 1.01 * np.pi and half > 8:
        return (
            f"max|k| is {reach:.3g}: this looks like radians per pixel; multiply Trajm2 by "
            f"{side} / (2 pi)"
        )
    if reach > 1.05 * half:
        return (
            f"max|k| is {reach:.4g}, beyond LabelsH / 2 = {half:g}: give Trajm2 in 1/FOV, or a "
            f"LabelsH of at least {2 * int(np.ceil(reach))}"
        )
    if reach < half / 4:
        return f"max|k| is {reach:.3g}, far below LabelsH / 2 = {half:g}: is Trajm2 in 1/FOV?"
    return ""


def _factors(size: int, samples: int, coils: int) -> str:
    if size % (2 * coils) == 0:
        return (
            f"; with {counted(coils, 'coil')} the file has {counted(size // (2 * coils), 'sample')}"
        )
    if size % (2 * samples) == 0:
        return (
            f"; with {counted(samples, 'sample')} the file has "
            f"{counted(size // (2 * samples), 'coil')}"
        )
    return ""


def write_params(
    folder: Path, session: str, samples: int, side: int, coils: int, **others: Any
) -> Params:
    """Write Params.txt for a folder that holds a protocol and Scan_01.mat: a network on the matched
    grid that starts from the covariance, with a virtual coil per segment. `others` are further
    fields of Params, or win. Returns the Params.
    """
    place, channels = str(folder.resolve()), min(coils, 8)
    values: dict[str, Any] = {
        "session": session,
        "image_side": side, "image_width": side, "grid_side": side, "grid_width": side,
        "k_max": side / 2, "k_grid": "matched",
        "samples": samples, "neighbours": min(12, samples), "feature_size": 2 * samples * coils,
        "coils_in_data": coils, "coils": coils, "coils_in_scan": coils,
        "segments": channels, "init": "covariance", "init_channels": channels, "init_sweeps": 2,
        "learning_rate": 5e-3, "half_life": 0.4, "train_minutes": 1.5,
        "trajectory_folder": place, "segments_folder": place, "run_prefix": f"{place}/Scan_",
    }  # fmt: skip
    params = replace(Params(), **(values | others))
    with atomic_write(folder / "Params.txt") as file:
        file.write(params_text(params).encode())
    return params


def write_maps(path: str | Path, maps: Tensor, mask: Tensor) -> None:
    """Write SensCC1.mat: SensCC (N, N, C) of maps (C, N, N) times the mask (N, N), and SensMsk."""
    inside = (maps * mask).permute(1, 2, 0).cpu().numpy().astype(np.complex64)
    write_mat(path, {"SensCC": inside, "SensMsk": mask.cpu().numpy()})


def write_b0(path: str | Path, phases: Tensor, interpolation: Tensor, b0_hz: Tensor) -> None:
    """Write B0TS.mat: TSC (N, N, Q), TSBF (Q, M), B0_Hz (N, N), from (Q, N, N), (Q, M) and (N,
    N).
    """
    write_mat(
        path,
        {
            "TSC": phases.permute(1, 2, 0).cpu().numpy().astype(np.complex64),
            "TSBF": interpolation.real.cpu().numpy().astype(np.float32),
            "B0_Hz": b0_hz.cpu().numpy(),
        },
    )
