"""ISMRMRD raw data (HDF5; Inati et al., Magn. Reson. Med. 77:411, 2017) in and out, by h5py alone.

A file has one group `dataset` with `xml` and `data`, one record per readout: a packed header, the
trajectory (samples x dimensions, float32) and the samples (channels x samples, complex64).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyescream_py.mln.mat import read_with_child
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write

LONGEST = 65535  # samples per readout: a 16-bit number in the header
_COUNTERS = np.dtype(
    [(name, "<u2") for name in ("step_1", "step_2", "average", "slice", "contrast", "phase")]
    + [(name, "<u2") for name in ("repetition", "set", "segment")]
    + [("user", "<u2", (8,))]
)
_VECTORS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
HEADER = np.dtype(
    [("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4")]
    + [("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,))]
    + [("number_of_samples", "<u2"), ("available_channels", "<u2"), ("active_channels", "<u2")]
    + [("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"), ("discard_post", "<u2")]
    + [("center_sample", "<u2"), ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2")]
    + [("sample_time_us", "<f4"), *[(name, "<f4", (3,)) for name in _VECTORS]]
    + [("idx", _COUNTERS), ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,))]
)
_XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace>
  <encodingLimits></encodingLimits><trajectory>other</trajectory>
 </encoding>
</ismrmrdHeader>
"""
_SPACE = (
    "<matrixSize><x>{side}</x><y>{side}</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>{side}</x><y>{side}</y><z>1</z></fieldOfView_mm>"
)


@dataclass(frozen=True)
class RawData:
    """signal (rows, C, M) complex64, one row per repetition; trajectory (2, M) in the file's own
    unit, None where the file has none; lines (M,): the k-space line of each sample, from the
    header; side: the encoded matrix size, 0 where the file does not say.
    """

    signal: NDArray[np.complex64]
    trajectory: NDArray[np.float64] | None
    lines: NDArray[np.int64]
    side: int


def read_ismrmrd(path: str | Path, source: str = "") -> RawData:
    """All readouts but noise scans. Raises UserError naming the file and what does not fit."""
    label = f"{source} {path}".strip()
    found = read_with_child(Path(path), "ismrmrd", [], label)
    repetitions = found["repetition"]
    counts = np.bincount(repetitions)
    if len(set(counts[counts > 0].tolist())) != 1:
        raise UserError(f"{label}: its repetitions have different numbers of readouts")
    order = np.argsort(repetitions, kind="stable").reshape(-1, counts.max())  # [rows,readouts]
    data = found["data"][order]  # [rows,readouts,C,samples]
    signal = data.transpose(0, 2, 1, 3).reshape(len(order), data.shape[2], -1)
    first = order[0]
    trajectory = None
    if "traj" in found:
        trajectory = found["traj"][first][..., :2].reshape(-1, 2).T.astype(np.float64)
    lines = np.repeat(found["line"][first].astype(np.int64), data.shape[3])
    if not (np.isfinite(signal).all() and (trajectory is None or np.isfinite(trajectory).all())):
        raise UserError(f"{label}: holds NaN or infinite numbers; repair the file")
    return RawData(signal.astype(np.complex64), trajectory, lines, int(found["side"][0]))


def write_ismrmrd(
    path: str | Path, signal: NDArray[Any], trajectory: NDArray[Any], side: int
) -> None:
    """signal (rows, C, M) and trajectory (2, M) in 1/FOV -> one file, a repetition per row.

    A readout of more than 65535 samples is cut into several. Raises UserError if it cannot be
    written.
    """
    import io

    import h5py  # type: ignore[import-untyped, unused-ignore]

    floats = h5py.special_dtype(vlen=np.dtype("float32"))
    record = np.dtype([("head", HEADER), ("traj", floats), ("data", floats)])
    pieces = np.array_split(np.arange(signal.shape[2]), -(-signal.shape[2] // LONGEST))
    records = np.empty(len(signal) * len(pieces), record)
    place = 0
    for row, coils in enumerate(signal.astype(np.complex64)):
        for segment, piece in enumerate(pieces):
            head = _head(place, row, segment, coils.shape[0], len(piece))
            path_points = trajectory[:, piece].T.astype(np.float32).ravel()
            samples = np.ascontiguousarray(coils[:, piece]).view(np.float32).ravel()
            records[place] = (head, path_points, samples)
            place += 1
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("dataset")
        text = _XML.format(space=_SPACE.format(side=side)).encode()
        group.create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))[0] = text
        group.create_dataset("data", (len(records),), record, maxshape=(None,))[:] = records
    try:
        with atomic_write(path) as target:
            target.write(buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({why(error)}); choose another folder"
        ) from None


def _head(number: int, row: int, segment: int, coils: int, samples: int) -> NDArray[Any]:
    head = np.zeros((), HEADER)
    head["version"], head["scan_counter"] = 1, number
    head["number_of_samples"], head["trajectory_dimensions"] = samples, 2
    head["available_channels"] = head["active_channels"] = coils
    head["idx"]["repetition"], head["idx"]["segment"] = row, segment
    return head
