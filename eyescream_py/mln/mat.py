"""MATLAB files in and out, version 5 and 7.3 (HDF5), with one clear error per cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def read_mat(
    path: str | Path, required: Sequence[str], optional: Sequence[str] = (), source: str = ""
) -> dict[str, Any]:
    """The named variables of a .mat file, axes in MATLAB's order, sparse ones as scipy sparse.

    Raises UserError (naming `source`, a flag or key, where given) when the file cannot be read,
    lacks a required variable (those it has are listed), or a variable holds NaN or infinite values.
    """
    path = Path(path)
    label = f"{source} {path}".strip()
    try:
        hdf5 = is_hdf5(path)
    except OSError as error:
        raise UserError(f"{label}: cannot be opened ({error.strerror}); check the path") from None
    wanted = [*required, *optional]
    try:
        found, names = _read_hdf5(path, wanted) if hdf5 else _read_v5(path, wanted)
    except UserError:
        raise
    except Exception as error:  # scipy and h5py raise a dozen kinds on damaged files
        raise UserError(f"{label}: not a readable .mat file ({error}); save it again") from None
    missing = [name for name in required if name not in found]
    if missing:
        raise UserError(
            f"{label}: lacks {', '.join(missing)}; it holds {', '.join(names) or 'nothing'}"
        )
    for name, value in found.items():
        _check_finite(value, name, label)
    return found


def _read_v5(path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    import scipy.io

    names = [name for name, _, _ in scipy.io.whosmat(path)]
    here = [name for name in wanted if name in names]
    values = scipy.io.loadmat(path, variable_names=here) if here else {}
    return {name: values[name] for name in here}, names


def _read_hdf5(path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    with open_hdf5(path) as file:
        names = [name for name in file if hasattr(file[name], "dtype")]
        return {name: _from_hdf5(file[name][()]) for name in wanted if name in names}, names


def open_hdf5(path: str | Path) -> Any:
    """h5py.File for reading; UserError where h5py is not installed."""
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError(f"{path}: a .mat file of version 7.3 needs `pip install h5py`") from None
    return h5py.File(path)


def is_hdf5(path: str | Path) -> bool:
    """Whether the file is HDF5, plain or behind MATLAB's 512-byte header. Raises OSError."""
    with open(path, "rb") as file:
        return HDF5_SIGNATURE in (file.read(512)[:8], file.read(8))


def _from_hdf5(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.names == ("real", "imag"):
        array = array["real"] + 1j * array["imag"]
    return array.transpose()


def _check_finite(value: Any, name: str, label: str) -> None:
    data = value.data if hasattr(value, "tocsc") else np.asarray(value)
    if data.dtype.kind not in "fc" or np.isfinite(data).all():
        return
    bad = int((~np.isfinite(data)).sum())
    first = tuple(int(i) for i in np.argwhere(~np.isfinite(data))[0])
    raise UserError(
        f"{label}: {name} holds {bad} NaN or infinite numbers, the first at index {first}; "
        "repair the file"
    )


def write_mat(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write `values` as a compressed version 5 file, whole or not at all. Raises UserError if it
    cannot.
    """
    import scipy.io

    try:
        with atomic_write(path) as file:
            scipy.io.savemat(file, dict(values), do_compression=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another folder"
        ) from None
