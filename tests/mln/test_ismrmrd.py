"""Files of scanners as ISMRMRD describes them: which readouts count, and where on the grid."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from eyescream_py.mln import exchange
from eyescream_py.mln.formats.ismrmrd import HEADER
from eyescream_py.mln.nufft import ExactDFT
from eyescream_py.mln.phantoms import shepp_logan
from eyescream_py.system.errors import UserError

N = 16
TRUTH = torch.from_numpy(shepp_logan(N)).to(torch.complex64)
Readout = tuple[np.ndarray, dict[str, Any]]  # samples (C, n), fields of the header


def header(oversampled: int = 1, centre: int | None = N // 2, fov: float = 300.0) -> str:
    def space(name: str, x: int, width: float) -> str:
        sizes = ("matrixSize", x, N), ("fieldOfView_mm", width, 300)
        inside = "".join(f"<{n}><x>{a}</x><y>{b}</y><z>1</z></{n}>\n" for n, a, b in sizes)
        return f"<{name}>{inside}</{name}>"

    line = f"<kspace_encoding_step_1><center>{centre}</center></kspace_encoding_step_1>"
    encoded = space("encodedSpace", N * oversampled, fov * oversampled)
    return f"<encoding>{encoded}{space('reconSpace', N, 300)}{'' if centre is None else line}"


def readouts(oversampled: int = 1, lines: Iterable[int] = range(N), **fields: int) -> list[Readout]:
    """One coil's lines of the truth, readouts along axis 0."""
    wide = np.pad(TRUTH.numpy(), ((N * (oversampled - 1) // 2,) * 2, (0, 0)))
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wide))) / N
    middle = N * oversampled // 2
    return [
        (spectrum[None, :, line], {"step_1": line, "center_sample": middle} | fields)
        for line in lines
    ]


def written(path: Path, table: list[Readout], xml: str) -> str:
    floats = h5py.special_dtype(vlen=np.dtype("float32"))
    records = np.empty(len(table), [("head", HEADER), ("traj", floats), ("data", floats)])
    for place, (samples, fields) in enumerate(table):
        head = np.zeros((), HEADER)
        head["active_channels"], head["number_of_samples"] = samples.shape
        for name, value in fields.items():
            (head if name in HEADER.names else head["idx"])[name] = value
        numbers = np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()
        records[place] = (head, np.zeros(0, np.float32), numbers)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))[0] = xml.encode()
        group.create_dataset("data", data=records)
    return str(path)


def misfit(scan: exchange.Foreign) -> float:
    """How far a scan's samples are from those of the truth at its places, relative."""
    expected = ExactDFT(scan.trajectory, N).forward(TRUTH)
    return max(float((row[0] - expected).norm() / expected.norm()) for row in scan.signal)


def turned(table: list[Readout], **fields: int) -> list[Readout]:
    return [(samples, old | fields) for samples, old in table]


def padded(table: list[Readout]) -> list[Readout]:
    fields = {"discard_pre": 5, "discard_post": 3, "center_sample": N // 2 + 5}
    wide = [(np.pad(samples, ((0, 0), (5, 3)), constant_values=9), old) for samples, old in table]
    return turned(wide, **fields)


ECHO = [(samples[:, 4:], old | {"center_sample": N // 2 - 4}) for samples, old in readouts()]
LATE = [(samples, old | {"step_1": old["step_1"] - 4}) for samples, old in readouts(1, range(4, N))]
CASES: dict[str, tuple[list[Readout], str, tuple[int, int]]] = {  # rows, samples
    "plain": (readouts(), header(), (1, N * N)),
    "no centre said": (turned(readouts(), center_sample=0), header(centre=None), (1, N * N)),
    "a width that was rounded": (readouts(), header(fov=299.98), (1, N * N)),
    "oversampled": (readouts(2), header(2), (1, 2 * N * N)),
    "partial echo": (ECHO, header(), (1, 12 * N)),
    "partial phase": (LATE, header(centre=4), (1, 12 * N)),
    "averages": (readouts() + readouts(average=1), header(), (1, 2 * N * N)),
    "contrasts": (readouts() + readouts(contrast=1), header(), (2, N * N)),
    "sets in other orders": (readouts() + readouts(set=1)[::-1], header(), (2, N * N)),
    "navigators": (readouts() + turned(readouts(1, [3, 3]), flags=1 << 22), header(), (1, N * N)),
    "calibration": (readouts() + turned(readouts(1, [8]), flags=1 << 19), header(), (1, N * N)),
    "stabilization": (readouts() + turned(readouts(1, [8]), flags=1 << 30), header(), (1, N * N)),
    "discarded ends": (padded(readouts()), header(), (1, N * N)),
}


@pytest.mark.parametrize("name", CASES)
def test_lines_lie_where_they_were_measured(name: str, tmp_path: Path) -> None:
    table, xml, sizes = CASES[name]
    scan = exchange.from_ismrmrd(written(tmp_path / "a.h5", table, xml), 0, "auto")
    assert scan.side == N
    assert (len(scan.signal), scan.trajectory.shape[1]) == sizes
    assert misfit(scan) < 1e-4


REFUSED = {
    "2 slices": readouts() + readouts(slice=1),
    "2 partitions of a 3-D scan": readouts() + readouts(step_2=1),
    "taken backwards": turned(readouts(), flags=1 << 21),
    "different numbers of readouts": readouts() + readouts(1, [0], repetition=1),
    "sampled along different paths": readouts(1, range(8)) + readouts(1, range(8, N), phase=1),
    "no readouts of an image": turned(readouts(), flags=1 << 18),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_makes_no_image_is_refused(words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", REFUSED[words], header())
    with pytest.raises(UserError, match=words) as error:
        exchange.from_ismrmrd(path, 0, "auto")
    assert error.value.message.startswith(f"SOURCE {path}: ")


def test_a_header_without_numbers_needs_a_side(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", readouts(), "<encodedSpace><matrixSize><x>16</x>")
    with pytest.raises(UserError, match="says no matrix size; give --side"):
        exchange.from_ismrmrd(path, 0, "auto")
    assert misfit(exchange.from_ismrmrd(path, N, "auto")) < 1e-4
