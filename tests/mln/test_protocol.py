from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import load_protocol, network_shape, read_scan, write_b0, write_maps
from eyescream_py.mln.simulation import Setup, make_protocol, write_simulation
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, random_images, small_params, write_protocol_files


def params_for(folder: Path, **keys: object) -> Params:
    return small_params(BaseTSDataP=str(folder), BaseNUFTDataP=str(folder), **keys)


def test_protocol_files_are_read(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    protocol = load_protocol(params_for(tmp_path, nccToUse=2))
    assert protocol.trajectory.shape == (2, 320)
    assert protocol.acquisition.coils.shape == (1, 2, SIDE, SIDE)
    assert protocol.acquisition.phases is None
    assert protocol.mask.shape == (1, SIDE, SIDE)
    assert network_shape(params_for(tmp_path), protocol).coils == 2


def test_rows_columns_coils_and_bands_stay_what_they_are(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    rng = np.random.default_rng(1)
    maps = rng.standard_normal((SIDE, SIDE, 3, 2)) + 1j * rng.standard_normal((SIDE, SIDE, 3, 2))
    mask = rng.integers(0, 2, (SIDE, SIDE, 2))
    write_mat(tmp_path / "SensCC1.mat", {"SensCC": maps, "SensMsk": mask})
    protocol = load_protocol(params_for(tmp_path))
    for band in range(2):
        np.testing.assert_array_equal(protocol.mask[band].numpy(), mask[..., band])
        for coil, found in enumerate(protocol.acquisition.coils[band].numpy()):
            np.testing.assert_allclose(found, maps[..., coil, band], rtol=1e-6)
    write_maps(tmp_path / "again.mat", protocol.acquisition.coils[0], protocol.mask[0])
    again = read_mat(tmp_path / "again.mat", ["SensCC", "SensMsk"])
    np.testing.assert_array_equal(again["SensMsk"], mask[..., 0])
    np.testing.assert_allclose(again["SensCC"], maps[..., 0] * mask[..., :1], rtol=1e-6)


def test_all_disagreeing_numbers_are_listed(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    params = params_for(tmp_path, nTraj=5114, nccInData=5, nccToUse=4, DataH=132964)
    with pytest.raises(UserError) as caught:
        load_protocol(params)
    message = caught.value.message
    assert "nTraj says 5114 samples, Trajm2 has 320" in message
    assert "nccInData says 5 coils, SensCC has 3" in message
    assert "nccToUse says 4 coils, SensCC has 3" in message
    assert "DataH says 132964 numbers, 2 x 320 samples x 5 coils are 3200" in message


def test_maps_of_another_size_are_named(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    maps = np.ones((8, 8, 3), complex)
    write_mat(tmp_path / "SensCC1.mat", {"SensCC": maps, "SensMsk": np.ones((8, 8))})
    with pytest.raises(UserError, match="LabelsH says 16 x 16 pixels, SensCC is 8 x 8"):
        load_protocol(params_for(tmp_path))


def test_b0_files_are_checked_against_the_trajectory(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    phases = np.ones((SIDE, SIDE, 3), complex)
    write_mat(tmp_path / "B0TS.mat", {"TSC": phases, "TSBF": np.ones((4, 300))})
    with pytest.raises(UserError) as caught:
        load_protocol(params_for(tmp_path))
    assert "Trajm2 has 320 samples, TSBF 300" in caught.value.message
    assert "TSBF has 4 segments, TSC 3" in caught.value.message
    assert load_protocol(params_for(tmp_path, UseB0=0)).acquisition.phases is None


def test_scan_of_another_length_says_which_numbers_disagree(tmp_path: Path) -> None:
    write_protocol_files(tmp_path)
    path = tmp_path / "scan01.mat"
    with pytest.raises(
        UserError, match=r"1920 numbers per row, but 2 x 300 samples x 3 coils \(.*\) are 1800"
    ):
        read_scan(path, 300, 3, 3)
    with pytest.raises(UserError, match="with 3 coils the file has 320 samples"):
        read_scan(path, 300, 3, 3)
    with pytest.raises(UserError, match="with 320 samples the file has 3 coils"):
        read_scan(path, 320, 7, 7)


def test_padding_rows_are_dropped_and_first_coils_kept(tmp_path: Path) -> None:
    data = np.zeros((4, 12), np.float32)
    data[0] = np.arange(12)
    write_mat(tmp_path / "s.mat", {"Data": data})
    signal = read_scan(tmp_path / "s.mat", 3, 2, 1)
    assert signal.shape == (1, 1, 3)
    torch.testing.assert_close(signal[0, 0], torch.tensor([0 + 6j, 1 + 7j, 2 + 8j]))


@pytest.mark.parametrize("used", [2, 8])
def test_a_scan_of_fewer_coils_than_are_used_is_refused(tmp_path: Path, used: int) -> None:
    write_mat(tmp_path / "s.mat", {"Data": np.ones((1, 6), np.float32)})
    words = rf"s\.mat: Data has 1 coil \(.*\), but {used} are used; give --nccToUse 1"
    with pytest.raises(UserError, match=words):
        read_scan(tmp_path / "s.mat", 3, 1, used)


def test_a_scan_that_is_zero_in_the_coils_taken_is_refused(tmp_path: Path) -> None:
    data = np.zeros((4, 2, 2, 3), np.float32)  # [rows,parts,coils,samples]
    data[1, :, 1] = 5
    write_mat(tmp_path / "s.mat", {"Data": data.reshape(4, 12)})
    assert read_scan(tmp_path / "s.mat", 3, 2, 2).shape == (2, 2, 3)
    with pytest.raises(UserError, match=r"s\.mat: Data is zero in the first 1 of its 2 coils"):
        read_scan(tmp_path / "s.mat", 3, 2, 1)


def test_missing_keys_nan_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    write_mat(path, {"Other": np.zeros(2)})
    with pytest.raises(UserError, match=r"flag .*x\.mat: lacks Data; it holds Other"):
        read_mat(path, ["Data"], source="flag")
    data = np.zeros((2, 5))
    data[1, 3] = np.nan
    write_mat(path, {"Data": data})
    with pytest.raises(UserError, match=r"1 NaN or infinite numbers, the first at index \(1, 3\)"):
        read_mat(path, ["Data"])
    path.write_bytes(b"not a mat file at all")
    with pytest.raises(UserError, match=r"not a readable \.mat file"):
        read_mat(path, ["Data"])
    with pytest.raises(UserError, match="cannot be opened"):
        read_mat(tmp_path / "none.mat", ["Data"])


def test_hdf5_axes_come_back_in_matlabs_order(tmp_path: Path) -> None:
    path = tmp_path / "v73.mat"
    values = np.arange(6.0).reshape(2, 3)
    packed = np.zeros((3, 2), [("real", "f8"), ("imag", "f8")])
    packed["imag"] = values.T
    with h5py.File(path, "w", userblock_size=512) as file:
        file["plain"], file["complex"] = values.T, packed
    found = read_mat(path, ["plain", "complex"])
    np.testing.assert_array_equal(found["plain"], values)
    np.testing.assert_array_equal(found["complex"], 1j * values)


def test_b0_files_keep_rows_columns_and_segments(tmp_path: Path) -> None:
    phases, shares = random_images(3, SIDE, SIDE), torch.rand(3, 320) + 0j
    hz = torch.rand(SIDE, SIDE)
    write_b0(tmp_path / "B0TS.mat", phases, shares, hz)
    found = read_mat(tmp_path / "B0TS.mat", ["TSC", "TSBF", "B0_Hz"])
    np.testing.assert_array_equal(found["B0_Hz"], hz.numpy())
    write_protocol_files(tmp_path)
    acquisition = load_protocol(params_for(tmp_path)).acquisition
    torch.testing.assert_close(acquisition.phases[0], phases)
    torch.testing.assert_close(acquisition.interpolation[0], shares)


def test_missing_folder_flag_is_named() -> None:
    with pytest.raises(UserError, match="--BaseNUFTDataP is not given"):
        load_protocol(small_params())


def test_simulated_files_load_as_the_protocol_they_came_from(tmp_path: Path) -> None:
    setup = Setup(side=SIDE, coils=4, samples=300, turns=5, b0_hz=80, noise=0)
    params = write_simulation(setup, tmp_path / "sim")
    loaded, made = load_protocol(params), make_protocol(setup)[0]
    truth = torch.from_numpy(read_mat(tmp_path / "sim" / "Truth.mat", ["x"])["x"])[None, None]
    torch.testing.assert_close(
        loaded.acquisition.forward(truth), made.acquisition.forward(truth), rtol=1e-3, atol=1e-4
    )
    scan = read_scan(params.scan_file, 300, 4, 4)
    torch.testing.assert_close(scan, loaded.acquisition.forward(truth), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"Params\.txt is there already"):
        write_simulation(setup, tmp_path / "sim")


def test_a_simulated_scan_has_the_asked_noise_which_follows_the_seed(tmp_path: Path) -> None:
    noise = []
    for seed in (1, 2):
        scans = []
        for level in (0, 0.05):
            folder = tmp_path / f"{seed} {level}"
            setup = Setup(side=SIDE, coils=2, samples=300, turns=5, noise=level, seed=seed)
            assert write_simulation(setup, folder).noise == level
            scans.append(read_mat(folder / "Scan_01.mat", ["Data"])["Data"])
        noise.append(scans[1] - scans[0])
    assert np.std(noise, axis=(1, 2)) == pytest.approx([0.05, 0.05], rel=0.1)
    assert abs(np.corrcoef(*np.reshape(noise, (2, -1)))[0, 1]) < 0.1


def test_echo_times_make_one_output_each(tmp_path: Path) -> None:
    params = write_simulation(Setup(side=SIDE, coils=2, samples=300, turns=5, b0_hz=80), tmp_path)
    b0 = read_mat(tmp_path / "B0TS.mat", ["B0_Hz"])["B0_Hz"]
    from dataclasses import replace

    protocol = load_protocol(replace(params, echo_times="2,6"))
    assert protocol.outputs == 2
    np.testing.assert_allclose(
        protocol.echoes[1].numpy(), np.exp(2j * np.pi * b0 * 0.006), atol=1e-5
    )
