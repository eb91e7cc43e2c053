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

from eyescream_py.mln.formats.mat import read_with_child
from eyescream_py.system.errors import UserError
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
class Grid:
    """What the header says, 0 where nothing: matrix (x, y) in pixels and field of view (x, y) in mm
    that were encoded, the same of the image; line: the one at k = 0, -1 where it does not say.
    """

    matrix: tuple[float, float]
    fov: tuple[float, float]
    image_matrix: tuple[float, float]
    image_fov: tuple[float, float]
    line: float

    @classmethod
    def of(cls, numbers: NDArray[np.float64]) -> Grid:
        """From the reader's nine numbers."""
        pairs = np.maximum(numbers[:8], 0).reshape(4, 2).tolist()
        matrix, fov, image_matrix, image_fov = (tuple(pair) for pair in pairs)
        return cls(matrix, fov, image_matrix, image_fov, float(numbers[8]))


@dataclass(frozen=True)
class RawData:
    """signal (rows, C, M) complex64, one row per repetition, set, phase and contrast; trajectory
    (2, M) in the file's own unit, None where the file has none; along and lines (M,): the place of
    each sample in its readout, 0 at k = 0, and its line, as the headers count them.
    """

    signal: NDArray[np.complex64]
    trajectory: NDArray[np.float64] | None
    along: NDArray[np.int64]
    lines: NDArray[np.int64]
    grid: Grid

    @property
    def side(self) -> int:
        """Of the image, pixels: what the header says of it, or of what was encoded; 0 for none."""
        if self.trajectory is not None:
            return int(self.grid.matrix[0])
        return int(max(self.grid.image_matrix) or max(self.grid.matrix))

    def on_lines(self, side: int) -> NDArray[np.float64]:
        """(2, M) in 1/FOV of a square image of `side` pixels, where the readouts are lines of a
        Cartesian grid: readouts may be oversampled, and cover less of one side than of the other.
        """
        grid = self.grid
        line = grid.line if grid.line >= 0 else (int(grid.matrix[1]) or side) // 2
        seen = max(grid.image_fov) or max(grid.fov)
        steps = [_whole(seen / fov) if fov else 1.0 for fov in grid.fov]
        return np.stack([self.along * steps[0], (self.lines - line) * steps[1]]).astype(np.float64)


def _whole(ratio: float) -> float:
    """1 for a ratio of lengths that were rounded, so that samples stay on the grid."""
    return 1.0 if abs(ratio - 1) < 1e-3 else ratio


def read_ismrmrd(path: str | Path, source: str = "") -> RawData:
    """The readouts of an image of one slice; averages are further samples. Raises UserError naming
    the file and what does not fit.
    """
    label = f"{source} {path}".strip()
    found = read_with_child(Path(path), "ismrmrd", [], label)
    _demand_one_plane(found, label)
    order = _rows(found, label)  # [rows,readouts]
    data = found["data"][order]  # [rows,readouts,C,samples]
    signal = data.transpose(0, 2, 1, 3).reshape(len(order), data.shape[2], -1)
    first, samples = order[0], data.shape[3]
    trajectory = None
    if "traj" in found:
        trajectory = found["traj"][first][..., :2].reshape(-1, 2).T.astype(np.float64)
    centres = found["centre"][first].astype(np.int64)
    along = np.arange(samples) - np.where(centres > 0, centres, samples // 2)[:, None]
    lines = np.repeat(found["line"][first].astype(np.int64), samples)
    if not (np.isfinite(signal).all() and (trajectory is None or np.isfinite(trajectory).all())):
        raise UserError(f"{label}: holds NaN or infinite numbers; repair the file")
    grid = Grid.of(found["grid"])
    return RawData(signal.astype(np.complex64), trajectory, along.ravel(), lines, grid)


def _demand_one_plane(found: dict[str, Any], label: str) -> None:
    for name, words in (("slice", "slices"), ("partition", "partitions of a 3-D scan")):
        count = len(np.unique(found[name]))
        if count > 1:
            raise UserError(f"{label}: holds {count} {words}; give a file of one")
    if found["reversed"].any() and "traj" not in found:
        raise UserError(
            f"{label}: holds readouts taken backwards (EPI); give a file whose lines are turned "
            "and corrected in phase"
        )


def _rows(found: dict[str, Any], label: str) -> NDArray[np.int64]:
    """The readouts of each row, (rows, readouts), in the file's order; by their lines where rows
    were taken in different orders.
    """
    keys = np.stack([found[name] for name in ("repetition", "set", "phase", "contrast")], 1)
    row = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(row)
    if len(set(counts.tolist())) != 1:
        raise UserError(f"{label}: its repetitions have different numbers of readouts")
    order = np.argsort(row, kind="stable").reshape(-1, counts[0])
    lines = found["line"][order]
    if not (lines == lines[0]).all():
        order = np.take_along_axis(order, lines.argsort(1, kind="stable"), 1)
    for name in ("line", "centre", "traj"):
        paths = found[name][order] if name in found else np.zeros(1)
        if not np.allclose(paths, paths[:1], atol=1e-4 * float(np.abs(paths).max())):
            raise UserError(
                f"{label}: its {len(order)} repetitions were sampled along different paths; give a "
                "file of one"
            )
    return order


def write_ismrmrd(
    path: str | Path, signal: NDArray[Any], trajectory: NDArray[Any], side: int
) -> None:
    """signal (rows, C, M) and trajectory (2, M) in 1/FOV -> one file, a repetition per row.

    A readout of more than 65535 samples is cut into several. Raises OSError.
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
    with atomic_write(path) as target:
        target.write(buffer.getvalue())


def _head(number: int, row: int, segment: int, coils: int, samples: int) -> NDArray[Any]:
    head = np.zeros((), HEADER)
    head["version"], head["scan_counter"] = 1, number
    head["number_of_samples"], head["trajectory_dimensions"] = samples, 2
    head["available_channels"] = head["active_channels"] = coils
    head["idx"]["repetition"], head["idx"]["segment"] = row, segment
    return head
