"""Files and settings from strangers: one line naming the cause, no crash, no memory, no code."""

import json
import os
import resource
import struct
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from eyescream_py.mln import checkpoints, training
from eyescream_py.mln.__main__ import main
from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.formats.text_format import parse_text
from eyescream_py.mln.params import Params, params_from, params_text, read_params
from eyescream_py.mln.protocol import load_protocol, read_scan, trajectory_units
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, small_params, spiral_protocol, write_protocol_files

GOLDEN = Path(__file__).parent / "golden"


def refused(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def test_a_damaged_mat_file_ends_its_reader_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"Data": np.ones((3, 4))})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in (128, 132, 136, 144, 152, 160, 168):
        damaged = bytearray(whole)
        damaged[place : place + 4] = rng.bytes(4)
        path.write_bytes(damaged)
        try:
            found = read_mat(path, ["Data"])["Data"]
        except UserError as error:
            assert str(path) in error.message  # noqa: PT017
        else:
            assert found.size <= 12


def test_a_reader_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "killed.py"
    killed.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr("eyescream_py.mln.formats.mat.CHILD", killed)
    write_mat(tmp_path / "a.mat", {"x": np.ones(3)})
    with pytest.raises(UserError, match="its reader died"):
        read_mat(tmp_path / "a.mat", ["x"])


@pytest.mark.parametrize("kind", ["v5", "v7.3"])
def test_bombs_are_refused_before_they_unfold(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb.mat"
    if kind == "v5":
        scipy.io.savemat(path, {"Data": np.zeros((1, 10**8), np.float32)}, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("Data", (10**7, 10**6), "f8", chunks=(10**3, 10**3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"would take more than 64 MiB"):
        read_mat(path, ["Data"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_hdf5_links_to_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"root:x:0:0:" * 10)
    with h5py.File(tmp_path / "far.h5", "w") as file:
        file["Data"] = np.ones((2, 2))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["Data"] = h5py.ExternalLink("far.h5", "/Data")
    with h5py.File(tmp_path / "storage.h5", "w") as file:
        outside = [(str(tmp_path / "secret"), 0, 64)]
        file.create_dataset("Data", (64,), "u1", external=outside)
    layout = h5py.VirtualLayout((2, 2), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "far.h5"), "Data", (2, 2))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("Data", layout)
    for name, words in (
        ("link", "link to another place"),
        ("storage", "in another file"),
        ("virtual", "in another file"),
    ):
        with pytest.raises(UserError, match=words):
            read_mat(tmp_path / f"{name}.h5", ["Data"])


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("kind", ["complex64", "complex128", "rows of reals", "one coil"])
def test_data_of_any_kind_is_the_same_scan(tmp_path: Path, version: str, kind: str) -> None:
    coils = 1 if kind == "one coil" else 3
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2, coils, 20)) + 1j * rng.standard_normal((2, coils, 20))
    flat = signal.reshape(2, -1)
    data = np.concatenate([flat.real, flat.imag], 1)
    if kind.startswith("complex"):
        data = flat.astype(kind)
    path = tmp_path / "scan.mat"
    _save(path, {"Data": data}, version)
    found = read_scan(path, 20, coils, coils)
    np.testing.assert_allclose(found.numpy(), signal, atol=1e-6)


def _save(path: Path, values: dict[str, np.ndarray], version: str) -> None:
    if version == "5":
        scipy.io.savemat(path, values)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            array = value.T
            if array.dtype.kind == "c":
                pair = np.zeros(array.shape, [("real", "f8"), ("imag", "f8")])
                pair["real"], pair["imag"] = array.real, array.imag
                array = pair
            file[name] = array


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("kind", ["f8", "u1", "?", "i2"])
def test_one_coil_and_any_type_of_mask_load(tmp_path: Path, version: str, kind: str) -> None:
    """MATLAB drops last axes of 1: SensCC (N, N) is one coil."""
    write_protocol_files(tmp_path, coils=1)
    protocol = spiral_protocol(1)
    mask = protocol.mask[0].numpy()
    maps = {"SensCC": protocol.acquisition.coils[0, 0].numpy(), "SensMsk": mask.astype(kind)}
    _save(tmp_path / "SensCC1.mat", maps, version)
    loaded = load_protocol(_params(tmp_path))
    np.testing.assert_allclose(loaded.acquisition.coils, protocol.acquisition.coils, atol=1e-6)
    np.testing.assert_array_equal(loaded.mask, protocol.mask)


def _params(folder: Path, **keys: object) -> Params:
    return small_params(BaseTSDataP=str(folder), BaseNUFTDataP=str(folder), **keys)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": np.ones(3)}, "Data is a struct; save the array itself"),
        (np.array([np.ones(3), "b"], object), "Data is a cell"),
        ("words", "Data is a text"),
        (np.zeros((1, 6)), "Data is zero everywhere; save the real one"),
        (np.full((1, 6), 1e30), r"Data has magnitudes up to 1e\+30; scale it"),
        (np.full((1, 6), 1e300), r"Data has magnitudes up to 1e\+300; scale it"),
        (np.full((1, 6), 1e-30), "Data has magnitudes up to 1e-30; scale it"),
        (np.ones((2, 3, 4)), "Data is 2 x 3 x 4; it must have 2 axes"),
        (np.zeros((0, 0)), "Data is 0 x 0"),
    ],
)
def test_what_is_no_array_is_named(tmp_path: Path, value: object, words: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"Data": value})
    with pytest.raises(UserError, match=words):
        read_scan(tmp_path / "a.mat", 3, 1, 1)


def test_a_struct_of_a_file_of_version_7_3_is_named_alike(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_group("Data").create_dataset("a", data=np.ones(3))
    with pytest.raises(UserError) as error:
        read_scan(tmp_path / "a.mat", 3, 1, 1)
    assert error.value.message.endswith("a.mat: Data is a struct; save the array itself")


@pytest.mark.parametrize("name", ["SensCC", "SensMsk"])
def test_maps_of_zeros_are_named(tmp_path: Path, name: str) -> None:
    write_protocol_files(tmp_path)
    maps = read_mat(tmp_path / "SensCC1.mat", ["SensCC", "SensMsk"])
    write_mat(tmp_path / "SensCC1.mat", maps | {name: 0 * maps[name]})
    with pytest.raises(UserError, match=f"{name} is zero everywhere"):
        load_protocol(_params(tmp_path))


def test_segments_of_zeros_are_named(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    phases = np.ones((SIDE, SIDE, 3), complex)
    write_mat(tmp_path / "B0TS.mat", {"TSC": phases, "TSBF": np.zeros((3, 320))})
    with pytest.raises(UserError, match="TSBF is zero everywhere"):
        load_protocol(_params(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SensMsk", np.ones((3, 5)), "SensMsk is 3 x 5"),
        ("SensCC", np.ones((SIDE,) * 2 + (3, 1, 2)), "must have 3 axes"),
        ("SensCC", scipy.sparse.csc_matrix(np.eye(SIDE)), "SensMsk is 16 x 16|nccTo|sizes"),
    ],
)
def test_odd_maps_are_one_line(tmp_path: Path, name: str, value: object, words: str) -> None:
    write_protocol_files(tmp_path)
    maps = read_mat(tmp_path / "SensCC1.mat", ["SensCC", "SensMsk"])
    write_mat(tmp_path / "SensCC1.mat", maps | {name: value})
    with pytest.raises(UserError, match=words):
        load_protocol(_params(tmp_path, nccInData=3))


@pytest.mark.parametrize(
    "value", [np.array(["text"]), {"x": 1.0}, np.array([np.ones(2)], object), np.ones((5, 2)) * 1j]
)
def test_odd_trajectories_are_one_line(tmp_path: Path, value: object) -> None:
    write_protocol_files(tmp_path)
    scipy.io.savemat(tmp_path / "TrajForNUFT.mat", {"Trajm2": value})
    with pytest.raises(UserError, match="Trajm2"):
        load_protocol(_params(tmp_path))


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1, ""), (1 / 64, "cycles per pixel"), (2 * np.pi / 64, "radians"), (3, "beyond"), (0.2, "")],
)
def test_the_unit_of_a_trajectory_is_guessed(factor: float, words: str) -> None:
    points = spiral_protocol(side=64).trajectory * factor
    line = trajectory_units(points, 64)
    assert (words in line) if words else ("far below" in line) == (factor == 0.2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"SessionNameBase": "../../x"}, "SessionNameBase"),
        ({"SessionNameBase": "/tmp/x"}, "SessionNameBase"),
        ({"SessionNameBase": ".."}, "SessionNameBase"),
        ({"SessionNameBase": "a\0b"}, "control character"),
        ({"Seed": int("9" * 400)}, "Seed 9"),
        ({"batch_size": 1e9}, "batch_size"),
        ({"learning_rate_start": float("inf")}, "give a number"),
        ({"EchoTimes": "nan"}, "EchoTimes"),
        ({"LabelsH": 10**8, "LabelsW": 10**8}, "LabelsH"),
    ],
)
def test_odd_values_are_one_line(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        params_from(values)


def test_more_neighbours_than_samples_is_one_line(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    with pytest.raises(UserError, match="nNeighbors says 400, Trajm2 has 320 samples"):
        load_protocol(_params(tmp_path, nNeighbors=400))


WORDS = st.text(st.characters(exclude_categories=["Cc"]), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS, st.floats(1e-30, 1e6), st.integers(0, 1 << 40))
def test_every_params_text_reads_back_equal(
    images: str, scan: str, ridge: float, seed: int
) -> None:
    params = replace(Params(), images=images, scan_file=scan, init_ridge=ridge, seed=seed)
    if "None" in (images, scan) or "$BASE$" in images + scan or "~" in (images[0], scan[0]):
        return  # words of the original's own, and somebody's home
    assert params_from(dict(parse_text(params_text(params)))) == params


def test_params_with_a_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "Params.txt"
    path.write_bytes('\ufeffLabelsH 64\r\nLabelsW 64\r\nDatasetMatFN "Fotos José"\r\n'.encode())
    params = read_params(path)
    assert (params.image_side, params.images) == (64, "Fotos José")


def test_a_checkpoint_of_an_earlier_program_opens(tmp_path: Path) -> None:
    """Its Shape.memory was another default: no setting that shapes nothing refuses a checkpoint."""
    path = GOLDEN / "old_checkpoint.safetensors"
    checkpoint = checkpoints.load_checkpoint(path)
    assert checkpoint.progress.batch == 3
    assert checkpoint.progress.losses[0] == pytest.approx(0.13617776)
    network = checkpoints.restore_network(checkpoint)
    assert network.shape == checkpoint.shape
    folder = tmp_path / "old_checkpoint"
    folder.mkdir()
    target = folder / training.CHECKPOINT_NAME
    target.write_bytes(path.read_bytes())
    run = training.resumed_run(target, checkpoint.params, spiral_protocol(), np.ones((2, 20, 20)))
    assert run.progress.batch == 3


def _with_header(change: object) -> bytes:
    whole = (GOLDEN / "old_checkpoint.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    change(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


def _shape(**sizes: object):
    def change(header: dict) -> None:
        shape = json.loads(header["__metadata__"]["shape"]) | sizes
        header["__metadata__"]["shape"] = json.dumps(shape)

    return change


def _metadata(key: str, value: str):
    return lambda header: header["__metadata__"].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        _shape(grid_side=100_000, image_side=100_000),
        _shape(grid_side=10**30),
        _shape(segments=-1),
        _shape(neighbours=3),
        _shape(k_grid="other"),
        _shape(k_max="nan"),
        _metadata("shape", "[" * 100_000),
        _metadata("shape", "[]"),
        _metadata("params", "SessionNameBase ../../x\n"),
        _metadata("samples", "3"),
        _metadata("batch", "9" * 5000),
        _metadata("batch", "9" * 20),
        _metadata("batch", "-5"),
        _metadata("format", "eyescream mln 7"),
        lambda header: header.pop("network.k_layer.weight"),
        lambda header: header["losses"].update(shape=[10**12]),
    ],
)
def test_headers_that_lie_are_refused_in_little_memory(tmp_path: Path, change: object) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(_with_header(change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"x\.safetensors: |SessionNameBase"):
        checkpoints.load_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_odd_pictures_are_counted_and_the_others_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from eyescream_py.mln.data import load_images

    ramp = np.add.outer(np.arange(40), np.arange(40))
    Image.fromarray((ramp * 800).astype("u2")).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 78).astype("f4")).save(tmp_path / "float.tif")
    Image.fromarray((ramp * 3).astype("u1")).save(tmp_path / "plain.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "album.jpg").mkdir()
    os.symlink(tmp_path, tmp_path / "again")
    images = load_images(str(tmp_path), 99, 16)
    assert len(images) == 3
    for image in images:
        assert 30 < image.std() < 90  # neither black nor white
    told = capsys.readouterr().err
    assert "huge.png" in told
    assert "cut.jpg" in told


def test_two_runs_of_one_checkpoint_are_told_apart(tmp_path: Path) -> None:
    from eyescream_py.plots.windows import Plots
    from eyescream_py.system.locks import writing

    params = small_params(learning_rate_start=0.01)
    run = training.new_run(params, spiral_protocol(), np.ones((2, 20, 20)), tmp_path, print)
    stale = run.checkpoint_folder / f".{training.CHECKPOINT_NAME}.999999999.tmp"
    stale.write_bytes(b"half")
    plots = Plots.open(False, "", 0, "")
    target = run.checkpoint_folder / training.CHECKPOINT_NAME
    with writing(target, "wait"), pytest.raises(UserError, match=f"process {os.getpid()}"):
        training.train(run, plots, print, 1)
    training.train(run, plots, print, 1)
    assert not stale.exists()


def test_reconstruct_refuses_flags_it_does_not_use() -> None:
    assert "No such option" in refused("reconstruct", "--nNeighbors", 4)


@pytest.mark.parametrize("option", ["--noise", "--b0", "--readout"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
def test_numbers_that_are_none_are_refused(option: str, value: str, tmp_path: Path) -> None:
    assert option in refused("simulate", "--out", tmp_path / "x", option, value)
