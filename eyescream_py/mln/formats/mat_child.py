"""Run as a program: reads one .mat or HDF5 file and writes its arrays to stdout as raw bytes.

A damaged file can kill scipy or libhdf5; here it kills only this process, which also may take no
more memory and time than it was told. `mat.py` starts it and reads what it writes: one JSON line,
{"names": all names, "values": [{"name", "parts": [...]}]}, then the bytes of all parts in order.
Arguments: the kind (mat or ismrmrd), the file, a JSON list of wanted names, bytes that the values
may take, and how many to keep (0: all) along which of MATLAB's axes, 0 or -1.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from typing import Any, BinaryIO

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
PROGRAM_BYTES = 1 << 30  # address space of Python, numpy and scipy where it cannot be read
COPIES = 4  # of a value, on its way: as stored, as complex numbers, in our order, as bytes
SECONDS = 120


class NoArrayError(Exception):
    """A variable of a readable file that is no array of numbers; the message says what it is."""


Keep = tuple[int, int]  # how many (0: all) along the first (0) or last (-1) of MATLAB's axes


def main(kind: str, path: str, wanted: list[str], most: int, keep: Keep, output: BinaryIO) -> None:
    """Write the wanted variables; an error as {"error": one line}, what is no array of numbers as
    {"refused": one line}.
    """
    _limit(kind, COPIES * most)
    try:
        if kind == "ismrmrd":
            found, names = _ismrmrd(path, most), list[Any]()
        else:
            with open(path, "rb") as file:
                hdf5 = SIGNATURE in (file.read(512)[:8], file.read(8))
            found, names = (_hdf5 if hdf5 else _version5)(path, wanted, most, keep)
    except MemoryError:
        error = f"it would take more than {most >> 20} MiB"
        output.write(json.dumps({"error": error}).encode() + b"\n")
        return
    except NoArrayError as refused:
        output.write(json.dumps({"refused": str(refused)}).encode() + b"\n")
        return
    except Exception as wrong:  # scipy and h5py raise a dozen kinds on damaged files
        output.write(json.dumps({"error": str(wrong) or type(wrong).__name__}).encode() + b"\n")
        return
    described = [{"name": name, **_described(value)} for name, value in found.items()]
    output.write(json.dumps({"names": names, "values": described}).encode() + b"\n")
    for value in found.values():
        for part in _parts(value):
            output.write(np.ascontiguousarray(part).tobytes())


def _limit(kind: str, more: int) -> None:
    """Allow `more` bytes of memory beyond what the program itself takes, and a time."""
    import h5py  # type: ignore[import-untyped, unused-ignore]  # noqa: F401

    if kind == "mat":
        import scipy.io  # noqa: F401
    try:
        with open("/proc/self/statm", "rb") as file:
            program = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        program = PROGRAM_BYTES
    for limit, most in ((resource.RLIMIT_AS, program + more), (resource.RLIMIT_CPU, SECONDS)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard < 0 else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# Bytes of a number by MATLAB's class; a sparse matrix does not hold all its places.
_BYTES = {"double": 8, "single": 4, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4, "sparse": 0}


def _version5(path: str, wanted: list[str], most: int, keep: Keep) -> tuple[dict[str, Any], Any]:
    import scipy.io

    listed = scipy.io.whosmat(path)
    shapes = {name: shape for name, shape, _ in listed}
    sizes = {name: _BYTES.get(kind, 1) for name, _, kind in listed}
    here = [name for name in wanted or shapes if name in shapes]
    for name in here:
        numbers = 1
        for size in shapes[name]:
            numbers *= max(int(size), 0)
        if numbers * sizes[name] > most:
            raise ValueError(f"{name} would take more than {most >> 20} MiB")
    values = scipy.io.loadmat(path, variable_names=here) if here else {}
    cut = {name: values[name] for name in here if name in values}
    count, axis = keep
    if count:
        cut = {name: value[..., :count] if axis else value[:count] for name, value in cut.items()}
    return cut, [[name, list(shape)] for name, shape in shapes.items()]


def _hdf5(path: str, wanted: list[str], most: int, keep: Keep) -> tuple[dict[str, Any], Any]:
    import h5py

    names, found = [], {}
    with h5py.File(path, "r") as file:
        for name in file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise NoArrayError(f"{name} is a link to another place; save the array itself")
            item = file[name]
            if not isinstance(item, h5py.Dataset):
                if name in wanted:
                    raise NoArrayError(f"{name} is a struct; save the array itself")
                continue
            names.append([name, list(item.shape[::-1])])
            if name in wanted or not wanted:
                found[name] = _data_set(item, name, most, keep)
    return found, names


# What MATLAB writes as an array of numbers, or a text; the others (cell, string, table,
# datetime, ...) hold numbers that mean something else.
_CLASSES = {"", "double", "single", "logical", "char"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def _data_set(item: Any, name: str, most: int, keep: Keep) -> Any:
    """One data set in MATLAB's order of axes, which is the reverse of how it lies in the file."""
    count, axis = keep
    if item.external or item.is_virtual:
        raise NoArrayError(f"{name} keeps its numbers in another file; save the array itself")
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
    if kind not in _CLASSES:
        raise NoArrayError(f"{name} is a {kind}; save the array itself")
    size = item.size
    if count and item.ndim:
        size = min(size, size // max(item.shape[0 if axis else -1], 1) * count)
    if size * item.dtype.itemsize > most:
        raise ValueError(f"{name} would take more than {most >> 20} MiB")
    if item.attrs.get("MATLAB_empty", 0):
        return np.zeros((0, 0))
    if not (count and item.ndim):
        array = np.asarray(item[()])
    else:
        array = np.asarray(item[:count] if axis else item[..., :count])
    if array.dtype.names == ("real", "imag"):
        array = array["real"] + 1j * array["imag"]
    if kind == "char":
        return np.array(["".join(map(chr, array.ravel().astype(int)))])
    return array.transpose()


# ISMRMRD's flags, counted from 1, of readouts that belong to no image: noise, calibration alone,
# navigation, phase correction, feedback, dummies, correction of coils, stabilization of phase.
NO_IMAGE = sum(1 << (flag - 1) for flag in (19, 20, 23, 24, 26, 27, 28, 29, 30, 31))
REVERSED = 1 << 21
COUNTERS = ("slice", "repetition", "set", "phase", "contrast")


def _ismrmrd(path: str, most: int) -> dict[str, Any]:
    """Samples (readouts, C, n), trajectory (readouts, n, dimensions), and of each readout its
    `COUNTERS`, line, partition, the sample at k = 0 (0 where not said) and whether it was taken
    backwards; grid: see `_grid`.
    """
    import h5py

    with h5py.File(path, "r") as file:
        group = _own(file, "dataset")
        records = _own(group, "data")
        if records.external or records.is_virtual:
            raise ValueError("its samples are in another file")
        if records.size * (records.dtype["head"].itemsize + 64) > most:
            raise ValueError(f"it would take more than {most >> 20} MiB")
        xml = b"".join(bytes(part) for part in _own(group, "xml")[:1])[: 1 << 20]
        table = [row for row in records[:] if not int(row["head"]["flags"]) & NO_IMAGE]
    if not table:
        raise ValueError("it holds no readouts of an image")
    heads = [row["head"] for row in table]
    sizes = {tuple(int(head[name]) for name in SIZES) for head in heads}
    if len(sizes) != 1:
        raise ValueError(f"its {len(table)} readouts have {len(sizes)} different sizes, not one")
    ((coils, samples, axes, before, behind),) = sizes
    kept = slice(before, samples - behind)
    data = np.stack([row["data"].view(np.complex64).reshape(coils, samples) for row in table])
    centres = np.array([int(head["center_sample"]) for head in heads])
    found = {
        "data": data[..., kept],
        **{name: np.array([int(head["idx"][name]) for head in heads]) for name in COUNTERS},
        "line": np.array([int(head["idx"][0]) for head in heads]),
        "partition": np.array([int(head["idx"][1]) for head in heads]),
        "centre": np.where(centres > before, centres - before, 0),
        "reversed": np.array([bool(int(head["flags"]) & REVERSED) for head in heads]),
        "grid": np.array(_grid(xml)),
    }
    if axes >= 2:
        found["traj"] = np.stack([row["traj"].reshape(samples, axes)[kept] for row in table])
    return found


SIZES = (
    "active_channels", "number_of_samples", "trajectory_dimensions", "discard_pre", "discard_post",
)  # fmt: skip


def _own(group: Any, name: str) -> Any:
    """A member that lies in this very file."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"it has no {name} of its own")
    return group[name]


def _grid(xml: bytes) -> list[float]:
    """Matrix x, y and field of view x, y (mm) of the encoded space, then of the image; last the
    line at k = 0. -1 where the header does not say.
    """
    spaces = (b"encodedSpace", b"reconSpace")
    sizes = (b"matrixSize", b"fieldOfView_mm")
    numbers = [
        _number(xml, space, size, axis)
        for space in spaces
        for size in sizes
        for axis in (b"x", b"y")
    ]
    return [*numbers, _number(xml, b"kspace_encoding_step_1", b"center")]


def _number(xml: bytes, *path: bytes) -> float:
    """The number in the first element of that path; -1 for none. No parser: the text may be
    hostile.
    """
    *outer, last = path
    for name in outer:
        _, _, inside = xml.partition(b"<%s>" % name)
        xml, end, _ = inside.partition(b"</%s>" % name)
        xml = xml if end else b""
    found = re.search(rb"<%s>\s*(\d{1,5}(\.\d{1,20})?)\s*</%s>" % (last, last), xml)
    return float(found.group(1)) if found else -1.0


def _parts(value: Any) -> list[Any]:
    if hasattr(value, "tocsc"):
        matrix = value.tocsc()
        return [matrix.data, matrix.indices, matrix.indptr]
    value = np.asarray(value)
    if _kind(value) == "cell":
        return [np.asarray(cell) for cell in value.ravel()]
    return [value] if _kind(value) == "array" else []


def _kind(value: Any) -> str:
    if value.dtype.names:
        return "struct"
    if value.dtype.kind == "O":
        cells = [np.asarray(cell) for cell in value.ravel()]
        numeric = cells and all(cell.dtype.kind in "biufc" for cell in cells)
        return "cell" if numeric else "cell of other things than numbers"
    return "array" if value.dtype.kind in "biufc" else "text"


def _described(value: Any) -> dict[str, Any]:
    """What the parent needs to build the value again from its parts' bytes."""
    sparse = hasattr(value, "tocsc")
    kind = "sparse" if sparse else _kind(np.asarray(value))
    parts = [[part.dtype.newbyteorder("=").str, list(part.shape)] for part in _parts(value)]
    return {"kind": kind, "shape": list(value.shape), "parts": parts}


if __name__ == "__main__":
    _, reader, file_name, names, limit, first, along = sys.argv
    kept = int(first), int(along)
    main(reader, file_name, json.loads(names), int(limit), kept, sys.stdout.buffer)
