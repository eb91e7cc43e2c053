from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.mln.data import Examples, load_images, random_crop, random_phase
from eyescream_py.mln.protocol import Protocol
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, phantoms, small_params, spiral_protocol


def test_a_folder_of_pictures_becomes_grey_squares(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "deep" / "a.jpg")
    (tmp_path / "b.png").write_bytes(b"no picture")
    images = load_images(str(tmp_path), 10, 16)
    assert images.shape == (1, 256, 256)
    assert abs(int(images.mean()) - 76) <= 1  # the luminance of pure red


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable picture"):
        load_images(str(tmp_path), 10, 16)


def test_hdf5_images_are_read_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "images.mat")
    stack = np.arange(5 * 20 * 20, dtype=np.int16).reshape(5, 20, 20)
    with h5py.File(path, "w") as file:
        file["HCPData"] = stack
        file["other"] = np.zeros((2, 3, 4))
    np.testing.assert_array_equal(load_images(path, 3, 20), stack[:3])
    with pytest.raises(UserError, match="20 x 20 are smaller than LabelsH 21"):
        load_images(path, 3, 21)


@pytest.mark.parametrize("shape", [(100, 24, 32), (5, 24, 32), (32, 24, 31), (24, 100, 32)])
def test_oblong_images_of_hdf5_are_counted_by_its_first_axis(
    shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "images.h5")
    stack = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    with h5py.File(path, "w") as file:
        file["HCPData"] = stack
    np.testing.assert_array_equal(load_images(path, 200, 16), stack)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "count"), [((5, 24, 32), 5), ((32, 24, 5), 5), ((20, 24, 26), 20)]
)
def test_oblong_images_of_matlab_are_guessed_and_that_is_said(
    shape: tuple[int, ...], count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import scipy.io

    path = str(tmp_path / "images.mat")
    scipy.io.savemat(path, {"HCPData": np.ones(shape)})
    assert len(load_images(path, 200, 16)) == count
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"taken as {count} images of" in said
    scipy.io.savemat(path, {"HCPData": np.ones((3, 20, 20))})
    load_images(path, 200, 16)
    assert not capsys.readouterr().err


def test_mat_images_and_their_errors(tmp_path: Path) -> None:
    import scipy.io

    path = str(tmp_path / "images.mat")
    scipy.io.savemat(path, {"stack": np.ones((2, 20, 20)), "note": np.zeros(3)})
    assert load_images(path, 9, 16).shape == (2, 20, 20)
    scipy.io.savemat(path, {"a": np.full((2, 20, 20), np.nan)})
    with pytest.raises(UserError, match="NaN"):
        load_images(path, 9, 16)
    scipy.io.savemat(path, {"a": np.zeros((2, 20))})
    with pytest.raises(UserError, match="it holds a"):
        load_images(path, 9, 16)
    with pytest.raises(UserError, match="cannot be opened"):
        load_images(str(tmp_path / "none.mat"), 9, 16)


def test_phantoms_are_the_default_and_repeat_with_the_seed() -> None:
    one, two, other = (load_images("", 3, 32, seed) for seed in (1, 1, 2))
    assert one.shape == (3, 64, 64)
    assert np.array_equal(one, two)
    assert not np.array_equal(one[1], other[1])
    assert one.min() >= 0
    assert one.max() <= 1


def test_crops_have_maximum_one_and_all_orientations() -> None:
    stack = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    rng = np.random.default_rng(0)
    corners = {tuple(np.argwhere(random_crop(stack, 8, rng) == 1)[0]) for _ in range(60)}
    assert corners == {(0, 0), (0, 7), (7, 0), (7, 7)}
    assert random_crop(stack, 5, rng).max() == 1


def test_phase_is_the_formula() -> None:
    side, seed = 9, 3
    u = np.random.default_rng(seed).random(11)
    x, y = np.meshgrid(np.linspace(-np.pi, np.pi, side), np.linspace(-np.pi, np.pi, side))
    a, b = (
        3 * ((u[i] - 0.5) * x + (u[i + 1] - 0.5) * y)
        + 0.05 * ((u[i + 2] - 0.5) * x**2 + (u[i + 3] - 0.5) * y**2)
        for i in (0, 4)
    )
    swing = (u[8] - 0.5) * np.sin(a) + (u[9] - 0.5) * np.sin(b)
    expected = swing * 2 * np.pi * 2 + 2 * np.pi * u[10] - np.pi
    np.testing.assert_allclose(
        random_phase(side, np.random.default_rng(seed), 3, 0.05, 2), expected
    )


def test_examples_are_a_function_of_their_number() -> None:
    protocol = spiral_protocol()
    stream = Examples(small_params(), protocol, phantoms())
    first, again = stream.batch(0, 4), Examples(small_params(), protocol, phantoms()).batch(2, 2)
    assert first.signal.shape == (4, 3, 320)
    assert first.label.shape == (4, 1, SIDE, SIDE)
    torch.testing.assert_close(first.label[2:], again.label)
    torch.testing.assert_close(first.signal[2:], again.signal)
    assert not torch.allclose(first.label[0], first.label[1])
    assert (first.label.abs() * (1 - protocol.mask)).max() == 0


def test_bank_simulates_each_slot_once_per_period(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = spiral_protocol()
    fresh = Examples(small_params(), protocol, phantoms())
    banked = Examples(small_params(BankSize=4, BankK=2), protocol, phantoms())
    torch.testing.assert_close(banked.batch(0, 4).label, fresh.batch(0, 4).label)
    torch.testing.assert_close(banked.batch(4, 4).label, fresh.batch(0, 4).label)  # used again
    torch.testing.assert_close(banked.batch(8, 4).label, fresh.batch(8, 4).label)  # next period
    monkeypatch.setattr(banked, "simulate", None)  # all that comes now is kept
    torch.testing.assert_close(banked.batch(12, 4).label, fresh.batch(8, 4).label)


def test_a_resumed_bank_gives_the_same_batches() -> None:
    protocol = spiral_protocol()
    params = small_params(BankSize=4, BankK=3, noise_level=0.1)
    whole = Examples(params, protocol, phantoms())
    batches = [whole.batch(first, 4) for first in (0, 4, 8)]
    resumed = Examples(params, protocol, phantoms()).batch(8, 4)
    torch.testing.assert_close(resumed.signal, batches[2].signal)


def test_noise_has_the_asked_size() -> None:
    protocol = spiral_protocol()
    clean = Examples(small_params(), protocol, phantoms()).batch(0, 4).signal
    noisy = Examples(small_params(noise_level=0.25), protocol, phantoms()).batch(0, 4).signal
    assert torch.view_as_real(noisy - clean).std().item() == pytest.approx(0.25, rel=0.05)


def test_each_batch_and_each_seed_has_noise_of_its_own() -> None:
    protocol = spiral_protocol()
    noise = []
    for first, seed in ((0, 1), (4, 1), (0, 2)):
        clean, noisy = (
            Examples(small_params(noise_level=level), protocol, phantoms(), seed).batch(first, 4)
            for level in (0.0, 0.25)
        )
        noise.append(torch.view_as_real(noisy.signal - clean.signal).flatten())
    assert torch.corrcoef(torch.stack(noise)).triu(1).abs().max() < 0.1


def test_echoes_multiply_the_label() -> None:
    protocol = spiral_protocol()
    echoes = torch.polar(torch.ones(2, SIDE, SIDE), torch.full((2, SIDE, SIDE), 0.5))
    double = Protocol(protocol.trajectory, protocol.acquisition, protocol.mask, echoes)
    single = Examples(small_params(), protocol, phantoms()).batch(0, 2)
    batch = Examples(small_params(), double, phantoms()).batch(0, 2)
    assert batch.label.shape == (2, 2, SIDE, SIDE)
    torch.testing.assert_close(batch.label[:, 1:], single.label * echoes[1])
