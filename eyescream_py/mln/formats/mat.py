"""MATLAB files in and out, version 5 and 7.3 (HDF5), with one clear error per cause.

Files may come from strangers: they are read by a child process (`mat_child.py`), so that a damaged
one ends that process and not a training run, and a compressed one cannot fill the memory.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write, open_to_read

LEAST_BYTES = 1 << 26  # a file may always hold this much
BYTES_PER_BYTE = 100  # and so much more than its own size: real data packs less tightly
CHILD = Path(__file__).with_name("mat_child.py")
LEAST, MOST = 1e-12, 1e12  # largest magnitudes whose squares, summed, single precision still holds
FORMATS = {"mat": ".mat file", "ismrmrd": "ISMRMRD file"}  # what the child reads, in words


def read_mat(
    path: str | Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    source: str = "",
    keep: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """The named variables of a .mat file, axes in MATLAB's order, sparse ones as scipy sparse,
    cells of numbers as object arrays.

    `keep` (count, axis) keeps the first so many (0: all) along the first (0) or last axis (-1).
    Raises UserError (naming `source`, a flag or key, where given) when the file cannot be read,
    lacks a required variable (those it has are listed), when a variable is no array of numbers, or
    holds NaN or infinite values.
    """
    label = f"{source} {path}".strip()
    found, names = _read(Path(path), [*required, *optional], label, keep)
    missing = [name for name in required if name not in found]
    if missing:
        held = ", ".join(name for name, _ in names) or "nothing"
        raise UserError(f"{label}: lacks {', '.join(missing)}; it holds {held}")
    for name, value in found.items():
        _check_finite(value, name, label)
    return found


def mat_names(path: str | Path, source: str = "") -> dict[str, tuple[int, ...]]:
    """Name -> shape of the variables of a .mat or HDF5 file, in MATLAB's order of axes."""
    label = f"{source} {path}".strip()
    _, names = _read(Path(path), ["/"], label)
    return {name: tuple(shape) for name, shape in names}


def read_with_child(path: Path, kind: str, wanted: list[str], label: str) -> dict[str, Any]:
    """What the child's reader `kind` makes of a file, by name. Raises UserError with `label`."""
    return _read(path, wanted, label, kind=kind)[0]


def _read(
    path: Path, wanted: list[str], label: str, keep: tuple[int, int] = (0, 0), kind: str = "mat"
) -> tuple[dict[str, Any], Any]:
    try:
        size = path.stat().st_size
        with open_to_read(path):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be opened ({reason}); check the path") from None
    most = max(LEAST_BYTES, BYTES_PER_BYTE * size)
    words = [kind, str(path), json.dumps(wanted), str(most), *map(str, keep)]
    command = [sys.executable, "-I", str(CHILD), *words]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(  # noqa: S603  our own program, no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        try:
            return _received(cast(IO[bytes], child.stdout), label, most, FORMATS[kind])
        finally:
            child.kill()


def _received(
    stream: IO[bytes], label: str, most: int, expected: str
) -> tuple[dict[str, Any], Any]:
    """What the child writes: a line of JSON, then the parts. Raises UserError where it died."""
    line = stream.readline(1 << 20)
    if not line.endswith(b"\n"):
        raise UserError(f"{label}: not a readable {expected} (its reader died); save it again")
    report = json.loads(line)
    if "refused" in report:  # a readable file whose variable is no array
        raise UserError(f"{label}: {report['refused']}")
    if "error" in report:
        raise UserError(f"{label}: not a readable {expected} ({report['error']}); save it again")
    found: dict[str, Any] = {}
    for value in report["values"]:
        if not value["parts"]:
            raise UserError(f"{label}: {value['name']} is a {value['kind']}; save the array itself")
        parts = [
            _array(stream, dtype, shape, label, most, expected) for dtype, shape in value["parts"]
        ]
        found[value["name"]] = _value(value, parts)
    return found, report["names"]


def _array(
    stream: IO[bytes], dtype: str, shape: list[int], label: str, most: int, expected: str
) -> Any:
    if math.prod(shape) * np.dtype(dtype).itemsize > 4 * most:
        raise UserError(f"{label}: would take more than {most >> 20} MiB")
    array = np.empty(shape, dtype)
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    place = 0
    while place < len(view):
        count = stream.readinto(view[place:])  # type: ignore[attr-defined]
        if not count:
            raise UserError(f"{label}: not a readable {expected} (its reader died); save it again")
        place += count
    return array


def _value(described: Mapping[str, Any], parts: list[Any]) -> Any:
    if described["kind"] == "array":
        return parts[0]
    if described["kind"] == "cell":
        cells = np.empty(len(parts), object)
        cells[:] = parts
        return cells.reshape(described["shape"])
    from scipy.sparse import csc_matrix

    return csc_matrix(tuple(parts), shape=tuple(described["shape"]))


def dense(
    value: Any, name: str, axes: int, label: str, extra: int = 0, real: bool = False
) -> np.ndarray[Any, Any]:
    """`value` as an array of `axes` to `axes` + `extra` axes; MATLAB's dropped last axes come back.

    Raises UserError that names the variable and says what it is.
    """
    if hasattr(value, "tocsc"):
        value = value.toarray()
    if value.dtype.kind == "O":
        raise UserError(f"{label}: {name} is a cell; save the array itself")
    if real and value.dtype.kind == "c" and np.abs(value.imag).max(initial=0.0) > 0:
        raise UserError(f"{label}: {name} is complex, but must be real")
    while value.ndim < axes:
        value = value[..., None]
    while value.ndim > axes + extra and value.shape[-1] == 1:  # not dropped, as by Python
        value = value[..., 0]
    if not axes <= value.ndim <= axes + extra or value.size == 0:
        raise UserError(
            f"{label}: {name} is {by_sizes(value.shape)}; it must have {axes} axes and hold numbers"
        )
    array: np.ndarray[Any, Any] = value.real if real and value.dtype.kind == "c" else value
    return array


def by_sizes(shape: Sequence[int]) -> str:
    """A shape in words: 3 x 5."""
    return " x ".join(map(str, shape))


def demand_magnitude(values: Any, name: str, label: str) -> None:
    """Refuse an array (NumPy's or a tensor, of finite numbers) that is zero everywhere, or whose
    largest magnitude single precision cannot work with. Raises UserError.
    """
    largest = float(abs(values * 1.0).max())
    if not largest > 0:
        raise UserError(f"{label}: {name} is zero everywhere; save the real one")
    if not LEAST <= largest <= MOST:
        raise UserError(
            f"{label}: {name} has magnitudes up to {largest:.2g}; scale it to between {LEAST:g} "
            f"and {MOST:g}"
        )


def _check_finite(value: Any, name: str, label: str) -> None:
    data = value.data if hasattr(value, "tocsc") else np.asarray(value)
    if data.dtype.kind == "O":
        for cell in data.ravel():
            _check_finite(cell, name, label)
        return
    if data.dtype.kind not in "fc" or np.isfinite(data).all():
        return
    bad = int((~np.isfinite(data)).sum())
    first = tuple(int(i) for i in np.argwhere(~np.isfinite(data))[0])
    raise UserError(
        f"{label}: {name} holds {bad} NaN or infinite numbers, the first at index {first}; "
        "repair the file"
    )


def demand_free(
    flag: str, typed: str, files: Iterable[Path], remedy: str = "give --overwrite"
) -> None:
    """Raise UserError, with `remedy`, where one of `files`, to which `flag`=`typed` led, is
    there."""
    for path in files:
        if path.is_file():
            raise UserError(f"{flag} {typed}: {path.name} is there already; {remedy}")


def write_mat(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write `values` as a compressed version 5 file, whole or not at all. Raises OSError."""
    import scipy.io

    with atomic_write(path) as file:
        scipy.io.savemat(file, dict(values), do_compression=True)
