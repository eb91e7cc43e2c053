"""Files of BART and ISMRMRD, made by those programs (see golden/README.md), and our own back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eyescream_py.mln import exchange, series
from eyescream_py.mln.__main__ import main
from eyescream_py.mln.baselines import cg_sense
from eyescream_py.mln.formats import cfl, ismrmrd
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.params import Params, read_params
from eyescream_py.mln.protocol import load_protocol, read_scan
from eyescream_py.system.errors import UserError
from tests.mln.small import random_images

GOLDEN = Path(__file__).parent / "golden"


def bart_scan() -> exchange.Foreign:
    names = [str(GOLDEN / f"bart_{name}") for name in ("ksp", "t", "maps")]
    return exchange.from_bart(names[0], names[1], names[2], 0, "auto")


def run(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_barts_scan_gives_barts_image() -> None:
    scan = bart_scan()
    assert (scan.signal.shape, scan.trajectory.shape, scan.side) == ((1, 4, 576), (2, 576), 24)
    acquisition = Acquisition(choose_operator(scan.trajectory, 24), scan.maps[None])
    ours = cg_sense(acquisition, scan.signal, 60, 1e-4)[0, 0].numpy()
    bart = cfl.read_cfl(GOLDEN / "bart_rec").squeeze()
    factor = np.vdot(bart, ours) / np.vdot(bart, bart)
    assert abs(factor - 1) < 0.01  # axes, signs and scales agree; the damping is BART's own
    assert np.linalg.norm(ours - bart) < 0.06 * np.linalg.norm(bart)


def test_barts_cartesian_k_space_is_sampled_where_it_is_not_zero() -> None:
    scan = exchange.from_bart(str(GOLDEN / "bart_cart"), None, None, 0, "auto")
    assert scan.trajectory.shape == (2, 576)
    image = choose_operator(scan.trajectory, 24).adjoint(scan.signal[0])
    maps = cfl.read_cfl(GOLDEN / "bart_maps").squeeze().transpose(2, 0, 1)
    joined = (image.numpy() * maps.conj()).sum(0)
    np.testing.assert_allclose(image.numpy(), maps * joined, atol=1e-5)  # no half pixel is lost
    rec = cfl.read_cfl(GOLDEN / "bart_rec").squeeze()
    assert np.corrcoef(np.abs(joined).ravel(), np.abs(rec).ravel())[0, 1] > 0.95


def test_the_ismrmrd_library_s_file_is_barts_scan() -> None:
    scan, bart = exchange.from_ismrmrd(str(GOLDEN / "ismrmrd.h5"), 0, "auto"), bart_scan()
    assert scan.side == 24
    np.testing.assert_allclose(scan.trajectory, bart.trajectory, atol=1e-5)
    torch.testing.assert_close(scan.signal, torch.cat([bart.signal, 2 * bart.signal]))


def test_ismrmrd_s_own_library_reads_what_we_write(tmp_path: Path) -> None:
    library = pytest.importorskip("ismrmrd")
    signal = random_images(2, 3, 70_000).numpy()
    trajectory = np.random.default_rng(0).uniform(-8, 8, (2, 70_000))
    ismrmrd.write_ismrmrd(tmp_path / "a.h5", signal, trajectory, 16)
    with library.Dataset(str(tmp_path / "a.h5"), mode="r") as file:
        assert file.number_of_acquisitions() == 4  # 65535 samples are the most in one
        header = library.xsd.CreateFromDocument(file.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.x == 16
        last = file.read_acquisition(3)
        assert last.idx.repetition == 1
        np.testing.assert_array_equal(last.data, signal[1][:, -last.number_of_samples :])
    back = ismrmrd.read_ismrmrd(tmp_path / "a.h5")
    np.testing.assert_array_equal(back.signal, signal)
    np.testing.assert_allclose(back.trajectory, trajectory, rtol=1e-6)


def test_cfl_keeps_axes_and_values(tmp_path: Path) -> None:
    values = random_images(3, 4, 1, 2).numpy()
    cfl.write_cfl(tmp_path / "a", values)
    np.testing.assert_array_equal(cfl.read_cfl(tmp_path / "a.cfl").squeeze(), values.squeeze())
    assert (tmp_path / "a.hdr").read_text().splitlines()[1].split()[:5] == ["3", "4", "1", "2", "1"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("# Dimensions\n3 4\n", "gives 96 bytes, its .cfl has 192"),
        ("# Dimensions\n3 -4\n", "no usable line of sizes"),
        ("# Dimensions\n99999999999 99999999999\n", "no usable line of sizes"),
        ("nothing", "no usable line of sizes"),
        ("# Dimensions", "no usable line of sizes"),
    ],
)
def test_wrong_headers_are_named(tmp_path: Path, header: str, words: str) -> None:
    cfl.write_cfl(tmp_path / "a", np.ones((3, 8)))
    (tmp_path / "a.hdr").write_text(header)
    with pytest.raises(UserError, match=words):
        cfl.read_cfl(tmp_path / "a")


def test_units_are_recognised() -> None:
    points = np.array([[0.0, 32.0], [-32.0, 0.0]])
    for units, factor in (("cycles", 1 / 64), ("radians", 2 * np.pi / 64), ("fov", 1)):
        for asked in (units, "auto"):
            np.testing.assert_allclose(exchange.in_fov_units(points * factor, 64, asked), points)


def test_a_scan_goes_to_bart_and_ismrmrd_and_comes_back(tmp_path: Path) -> None:
    """import from BART, export in both formats, import again: the same samples and places."""
    names = [GOLDEN / f"bart_{name}" for name in ("ksp", "t", "maps")]
    words = ("--trajectory", names[1], "--maps", names[2])
    assert "coil maps given" in run("import", names[0], "--out", tmp_path / "one", *words)
    params = read_params(tmp_path / "one" / "Params.txt")
    first = _samples(params)
    export = ("export", "--params", tmp_path / "one" / "Params.txt")
    scan = ("--scan", tmp_path / "one" / "Scan_01.mat", "--out", tmp_path / "x")
    run(*export, *scan, "--format", "bart")
    run(*export, *scan, "--format", "ismrmrd")
    places = ("--trajectory", tmp_path / "x_traj", "--maps", tmp_path / "x_maps", "--side", 24)
    run("import", tmp_path / "x_ksp", "--out", tmp_path / "two", *places)
    run("import", tmp_path / "x.h5", "--out", tmp_path / "three", "--units", "fov")
    for folder in ("two", "three"):
        again = read_params(tmp_path / folder / "Params.txt")
        second = _samples(again)
        assert (second - first * (first.norm() / first.norm())).norm() < 0.2 * first.norm()
        cosine = (second.conj() * first).sum().abs() / (second.norm() * first.norm())
        assert cosine > 1 - 1e-6
    result = CliRunner().invoke(main, [str(word) for word in (*export, *scan, "--format", "bart")])
    assert result.exit_code == 2
    assert "give --overwrite" in result.output


def _samples(params: Params) -> torch.Tensor:
    protocol = load_protocol(params)
    return read_scan(f"{params.run_prefix}01.mat", protocol.samples, 4, 4)


def test_coils_are_compressed_on_the_way_in(tmp_path: Path) -> None:
    words = ("--trajectory", GOLDEN / "bart_t", "--maps", GOLDEN / "bart_maps", "--compress", 2)
    assert "2 coils" in run("import", GOLDEN / "bart_ksp", "--out", tmp_path / "a", *words)
    protocol = load_protocol(read_params(tmp_path / "a" / "Params.txt"))
    signal = read_scan(tmp_path / "a" / "Scan_01.mat", 576, 2, 2)
    image = cg_sense(protocol.acquisition, signal, 20)[0, 0]
    left = (protocol.acquisition.forward(image[None, None]) - signal).norm() / signal.norm()
    assert left < 0.05  # compressed data still are the compressed maps' image


def test_images_in_every_format_are_the_same(tmp_path: Path) -> None:
    import nibabel
    from PIL import Image

    images = random_images(2, 1, 8, 8)
    files = series.write_images(tmp_path / "a", images, ("npy", "png", "nifti", "cfl"))
    assert [file.name for file in files] == ["a.npy", "a.png", "a.nii.gz", "a.cfl"]
    np.testing.assert_array_equal(np.load(files[0]), images[:, 0].numpy())
    volume = np.asarray(nibabel.load(files[2]).dataobj)
    np.testing.assert_array_equal(volume[:, :, 0, 1], images[1, 0].numpy())
    np.testing.assert_array_equal(cfl.read_cfl(files[3]).squeeze()[..., 1], images[1, 0].numpy())
    with Image.open(files[1]) as picture:
        assert picture.size == (8, 16)


def test_siemens_files_are_sent_to_a_converter(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["import", "meas.dat", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "siemens_to_ismrmrd" in result.output


@pytest.mark.parametrize("name", ["one.h5", "one", "ONE.H5"])
def test_an_exported_file_has_one_ending(tmp_path: Path, name: str) -> None:
    scan = bart_scan()
    file = tmp_path / (name if name != "one" else "one.h5")
    assert exchange.to_ismrmrd(scan, str(tmp_path / name)) == [str(file)]
    torch.testing.assert_close(exchange.from_ismrmrd(str(file), 0, "auto").signal, scan.signal)
    run("import", tmp_path / name if name != "one" else file, "--out", tmp_path / "folder")
    export = ("export", "--params", tmp_path / "folder" / "Params.txt", "--format", "ismrmrd")
    words = [*export, "--scan", tmp_path / "folder" / "Scan_01.mat", "--out", tmp_path / name]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2  # the very file that is there
    assert f"{file.name} is there already" in result.stderr


def _bart_files(folder: Path, **changed: np.ndarray) -> dict[str, str]:
    """BART's golden files in `folder`, some of them others."""
    names = {"SOURCE": "ksp", "trajectory": "t", "maps": "maps"}
    arrays = {key: cfl.read_cfl(GOLDEN / f"bart_{end}") for key, end in names.items()} | changed
    for key, array in arrays.items():
        cfl.write_cfl(folder / key, array)
    return {key: str(folder / key) for key in names}


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("SOURCE", lambda a: 0 * a, "its k-space is zero everywhere"),
        ("SOURCE", lambda a: a * np.float32(1e30), "its k-space has magnitudes up to .*scale it"),
        ("SOURCE", lambda a: a * np.float32(1e-30), "its k-space has magnitudes up to .*scale it"),
        ("trajectory", lambda a: a[:2], "its first size is 2, not 3"),
        ("trajectory", lambda a: a.swapaxes(0, 1), r"its first size is \d+, not 3"),
        ("trajectory", lambda a: 1j * a, "holds complex numbers"),
        ("trajectory", lambda a: a[[0, 2, 1]], "holds a third dimension"),
        ("trajectory", lambda a: 0 * a, "all samples lie at k = 0"),
        ("trajectory", lambda a: a * np.float32(1e20), r"max\|k\| is"),
        ("maps", lambda a: 0 * a, "zero everywhere"),
        ("maps", lambda a: a * np.float32(1e30), "has magnitudes up to"),
        ("maps", lambda a: a[:12], r"4 x 12 x 24 \(coils, rows, columns\), not 4 x 12 x 12"),
        ("maps", lambda a: a[:, :, :, :1], r"1 x 24 x 24 \(coils.*\), not 4 x 24 x 24"),
    ],
)
def test_files_of_bart_that_make_no_image_are_named(tmp_path: Path, key, change, words) -> None:
    end = {"SOURCE": "ksp", "trajectory": "t", "maps": "maps"}[key]
    files = _bart_files(tmp_path, **{key: change(cfl.read_cfl(GOLDEN / f"bart_{end}"))})
    with pytest.raises(UserError, match=words) as error:
        exchange.from_bart(files["SOURCE"], files["trajectory"], files["maps"], 0, "auto")
    flag = key if key == "SOURCE" else f"--{key}"
    assert error.value.message.startswith(f"{flag} {files[key]}: ")


@pytest.mark.parametrize("sizes", [(16, 24), (24, 15), (32, 16)])
def test_an_oblong_grid_is_the_middle_of_a_square_image(tmp_path: Path, sizes) -> None:
    """Square pixels, as BART shows them: it is neither stretched nor seen twice."""
    side = max(sizes)
    image, maps = (random_images(n, *sizes, seed=n) for n in (1, 4))
    spectra = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image * maps, (1, 2))), (1, 2))
    for name, array in (("k", spectra / side), ("m", maps.numpy())):
        cfl.write_cfl(tmp_path / name, array.transpose(1, 2, 0)[:, :, None])
    scan = exchange.from_bart(str(tmp_path / "k"), None, str(tmp_path / "m"), 0, "auto")
    assert (scan.side, scan.maps.shape) == (side, (4, side, side))
    top, left = (side // 2 - length // 2 for length in sizes)
    wide = torch.zeros(1, side, side, dtype=torch.complex64)
    wide[:, top : top + sizes[0], left : left + sizes[1]] = image
    acquisition = Acquisition(choose_operator(scan.trajectory, side, eps=1e-6), scan.maps[None])
    torch.testing.assert_close(acquisition.forward(wide[None]), scan.signal, atol=1e-4, rtol=1e-4)
    cg = cg_sense(acquisition, scan.signal, 60, 0)
    torch.testing.assert_close(cg[0], wide, atol=1e-2, rtol=1e-2)


def test_an_image_of_too_few_pixels_is_refused(tmp_path: Path) -> None:
    cfl.write_cfl(tmp_path / "a", np.ones((16, 24, 1, 2), np.complex64))
    with pytest.raises(UserError, match="an image of 2 pixels a side is not between 8 and 4096"):
        exchange.from_bart(str(tmp_path / "a"), None, None, 2, "auto")


def test_the_scale_of_an_image_too_large_to_be_sorted(monkeypatch) -> None:
    image = torch.linspace(0, 1, 1000).to(torch.complex64)
    whole = exchange._brightness(image)
    monkeypatch.setattr(exchange, "MOST_SORTED", 100)
    assert exchange._brightness(image) == pytest.approx(whole, abs=0.02)
    one = torch.zeros(5000, dtype=torch.complex64)
    one[3] = 2
    assert exchange._brightness(one) == 2
    with pytest.raises(ValueError, match="zero wherever"):
        exchange._brightness(0 * one)
