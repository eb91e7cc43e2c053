"""The same arrays of MATLAB in files of version 5 and 7.3: the same images, the same refusals."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner

from eyescream_py.mln.__main__ import main
from eyescream_py.mln.data import load_images
from eyescream_py.mln.formats.mat import dense, read_mat
from eyescream_py.mln.protocol import load_protocol, read_scan
from eyescream_py.mln.report import read_reference
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, small_params, write_protocol_files

KINDS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "f4", "f8", "c8", "c16")
CLASSES = {"b1": "logical", "f4": "single", "f8": "double", "c8": "single", "c16": "double"}


def save_5(path: Path, **arrays: np.ndarray) -> None:
    scipy.io.savemat(path, arrays, do_compression=True)


def save_73(path: Path, **arrays: np.ndarray) -> None:
    """As MATLAB does with -v7.3: axes in reverse, last ones of 1 dropped, classes as attributes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            while array.ndim > 2 and array.shape[-1] == 1:
                array = array[..., 0]
            code = array.dtype.str[1:]
            named = CLASSES.get(code) or f"{'u' * (code[0] == 'u')}int{8 * int(code[1:])}"
            file[name] = as_stored(array.T)
            file[name].attrs["MATLAB_class"] = np.bytes_(named)


def as_stored(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind != "c":
        return array
    part = array.real.dtype
    pair = np.zeros(array.shape, [("real", part), ("imag", part)])
    pair["real"], pair["imag"] = array.real, array.imag
    return pair


def both(folder: Path, name: str, array: np.ndarray) -> list[Path]:
    paths = [folder / "a5.mat", folder / "a73.mat"]
    save_5(paths[0], **{name: array})
    save_73(paths[1], **{name: array})
    return paths


def numbers(kind: str, *shape: int) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 2 if kind == "?" else 100, shape)
    return (values + 1j * values[::-1] if kind[0] == "c" else values).astype(kind)


def test_the_same_arrays(tmp_path: Path) -> None:
    """Of every class, with and without last axes that MATLAB drops; each file is read once."""
    shapes = [(4, 5, 3), (4, 5), (4, 5, 1), (4, 1), (1, 4), (1, 1), (2, 3, 1, 2)]
    arrays = {
        f"a_{kind.strip('?') or 'b'}_{i}": numbers(kind, *shape)
        for kind in KINDS
        for i, shape in enumerate(shapes)
    }
    save_5(tmp_path / "a5.mat", **arrays)
    save_73(tmp_path / "a73.mat", **arrays)
    old, new = (read_mat(tmp_path / name, list(arrays)) for name in ("a5.mat", "a73.mat"))
    for name, array in arrays.items():
        kept = array[..., 0] if array.shape == (4, 5, 1) else array
        for read in (old[name], new[name]):
            np.testing.assert_array_equal(dense(read, name, kept.ndim, ""), kept, name)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("i1", (3, 20, 20)), ("?", (20, 20, 3)), ("u2", (3, 20, 24)), ("f4", (20, 20)),
     ("c8", (20, 20, 3)), ("u8", (20, 20)), ("i4", (20, 20, 20))],
)  # fmt: skip
def test_the_same_images(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Whichever axis counts them; a single image has lost its last axis."""
    array = numbers(kind, *shape)
    expected = array if shape[0] == 3 else np.atleast_3d(array).transpose()
    for path in both(tmp_path, "HCPData", array):
        images = load_images(str(path), 2, SIDE)
        np.testing.assert_allclose(images, np.abs(expected[:2]), rtol=1e-6)


@pytest.mark.parametrize(("kind", "coils"), [("i2", 3), ("c16", 1)])
def test_the_same_maps_scan_and_reference(kind: str, coils: int, tmp_path: Path) -> None:
    write_protocol_files(tmp_path, coils)
    maps, mask = numbers(kind, SIDE, SIDE, coils), numbers("?", SIDE, SIDE)
    folder, seen = str(tmp_path), []
    for save in (save_5, save_73):
        (tmp_path / "SensCC1.mat").unlink()
        save(tmp_path / "SensCC1.mat", SensCC=maps, SensMsk=mask)
        protocol = load_protocol(small_params(BaseTSDataP=folder, BaseNUFTDataP=folder))
        seen.append((protocol.acquisition.coils, protocol.mask))
    for first, second in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, second)
    data = numbers(kind, 2, coils * 20 * (1 if kind[0] == "c" else 2))
    scans = [read_scan(path, 20, coils, coils) for path in both(tmp_path, "Data", data)]
    np.testing.assert_array_equal(*scans)
    truths = [read_reference(str(p), SIDE) for p in both(tmp_path, "x", numbers(kind, SIDE, SIDE))]
    np.testing.assert_array_equal(*truths)


def write_odd(path: Path, what: str) -> None:
    """Data and Trajm2 as something else than an array of numbers."""
    values = np.ones((3, 20, 20))
    with h5py.File(path, "w", userblock_size=512) as file:
        for name in ("Data", "Trajm2"):
            if what == "struct":
                file.create_group(name).create_dataset("field", data=values)
            elif what == "cell":
                inside = file.create_dataset(f"#refs#/{name}", data=values)
                file[name] = np.full((2, 1), inside.ref, h5py.ref_dtype)
            else:
                file[name] = np.arange(12, dtype="u2" if what == "char" else "u4").reshape(12, 1)
            if what != "struct":
                file[name].attrs["MATLAB_class"] = np.bytes_(what)


@pytest.mark.parametrize(
    ("what", "words"),
    [("struct", "a struct"), ("cell", "a cell"), ("char", "a text"), ("string", "a string"),
     ("table", "a table"), ("function_handle", "a function_handle")],
)  # fmt: skip
def test_what_is_no_array_is_named_in_version_7_3(what: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "TrajForNUFT.mat"
    write_odd(path, what)
    with pytest.raises(UserError) as error:
        read_mat(path, ["Data"])
    assert error.value.message == f"{path}: Data is {words}; save the array itself"
    flags = [f"--BaseNUFTDataP={tmp_path}", f"--BaseTSDataP={tmp_path}", "--gpu=-1"]
    done = CliRunner().invoke(main, ["train", *flags])
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: --BaseNUFTDataP {path}: Trajm2 is {words}; save the array itself\n"
    )
