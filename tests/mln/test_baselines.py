import numpy as np
import pytest
import torch

from eyescream_py.mln.baselines import (
    adjoint_image,
    cg_sense,
    conjugate_gradient,
    haar,
    inverse_haar,
    largest_eigenvalue,
    radial_power,
    wavelet_l1,
)
from eyescream_py.mln.data import Examples
from eyescream_py.mln.metrics import magnitude_correlation, nrmse, ssim
from eyescream_py.mln.phantoms import shepp_logan
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.trajectories import density_compensation
from tests.mln.small import phantoms, random_images, small_params, spiral_protocol


def error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return ((image - truth).norm() / truth.norm()).item()


def test_radial_power_is_the_mean_over_images_and_rings() -> None:
    images = random_images(3, 6, 6)
    spectra = np.abs(np.fft.fft2(images.numpy(), norm="ortho")) ** 2
    line = [0, 1, 2, -3, -2, -1]
    ring = np.array([[round(np.hypot(a, b)) for b in line] for a in line])
    expected = [[spectra[:, ring == ring[a, b]].mean() for b in range(6)] for a in range(6)]
    np.testing.assert_allclose(radial_power(images).numpy(), expected, rtol=1e-5)


def test_conjugate_gradient_solves_each_item() -> None:
    matrix = random_images(6, 6, dtype=torch.complex128)
    matrix = matrix @ matrix.conj().T + torch.eye(6)
    right = random_images(3, 6, seed=1, dtype=torch.complex128)
    solution = conjugate_gradient(lambda x: x @ matrix.T, right, 12)
    torch.testing.assert_close(solution @ matrix.T, right)


def test_adjoint_with_compensation_is_near_and_cg_nearer() -> None:
    protocol = spiral_protocol(coils=4)
    batch = Examples(small_params(), protocol, phantoms()).simulate([0, 1, 2])
    weights = torch.from_numpy(density_compensation(protocol.trajectory))
    adjoint = error(adjoint_image(protocol.acquisition, batch.signal, weights), batch.label)
    plain = error(adjoint_image(protocol.acquisition, batch.signal), batch.label)
    few, many = (
        error(cg_sense(protocol.acquisition, batch.signal, n), batch.label) for n in (4, 20)
    )
    assert many < few < adjoint < plain
    assert adjoint < 0.5
    assert many < 0.1


def test_density_weights_make_cg_converge_faster() -> None:
    protocol = spiral_protocol(coils=4)
    batch = Examples(small_params(), protocol, phantoms()).simulate([0, 1])
    weights = torch.from_numpy(density_compensation(protocol.trajectory))
    plain = error(cg_sense(protocol.acquisition, batch.signal, 3), batch.label)
    assert error(cg_sense(protocol.acquisition, batch.signal, 3, 0, weights), batch.label) < plain


def test_a_ridge_makes_the_damped_least_squares_image() -> None:
    acquisition = spiral_protocol().acquisition
    signal = random_images(1, 3, 320)
    found = cg_sense(acquisition, signal, 60, 0.5)
    misfit = acquisition.adjoint(acquisition.forward(found) - signal)
    torch.testing.assert_close(misfit + 0.5 * found, torch.zeros_like(found), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 7, 12, 16, 29])
def test_haar_is_orthonormal_and_keeps_a_constant_in_the_corner(side: int) -> None:
    images = random_images(2, side, side)
    coefficients = haar(images, 3)
    torch.testing.assert_close(inverse_haar(coefficients, 3), images)
    assert coefficients.norm().item() == pytest.approx(images.norm().item(), rel=1e-5)
    flat, corner = haar(torch.ones(side, side), 3), -(-side // 8)
    assert flat[:corner, :corner].norm().item() == pytest.approx(side)
    assert flat.norm().item() == pytest.approx(side)


def test_haar_of_an_odd_side_in_numbers() -> None:
    """Of 4, 2, 1 the 1 goes on alone, and is met by (4 + 2) / sqrt 2 with sqrt 2 times its weight;
    so is the row they stand in by a row of zeros.
    """
    image = torch.zeros(3, 3)
    image[2] = torch.tensor([4.0, 2.0, 1.0])
    torch.testing.assert_close(haar(image, 1)[1], torch.tensor([18**0.5, 1, 2**0.5]))
    expected = torch.tensor([[7, 8**0.5], [-(98**0.5), -4]]) / 3
    torch.testing.assert_close(haar(image, 2)[:2, :2], expected)


def test_wavelet_l1_beats_zero_filling() -> None:
    protocol = make_protocol(Setup(side=32, coils=4, kind="mask", acceleration=4))[0]
    image = torch.from_numpy(shepp_logan(32)).to(torch.complex64) * protocol.mask
    signal = protocol.acquisition.forward(image[None])
    sparse = error(wavelet_l1(protocol.acquisition, signal, 40, 0.002), image[None])
    assert sparse < 0.5 * error(adjoint_image(protocol.acquisition, signal), image[None])


@pytest.mark.parametrize("side", [32, 33, 36])
def test_a_large_weight_leaves_the_coarsest_band_of_any_side(side: int) -> None:
    acquisition = make_protocol(Setup(side=side, coils=3, kind="mask"))[0].acquisition
    signal = acquisition.forward(random_images(1, 1, side, side))
    waves, corner = haar(wavelet_l1(acquisition, signal, 1, 1e6), 3), -(-side // 8)
    assert waves[..., :corner, :corner].norm().item() > 0.1
    torch.testing.assert_close(waves[..., corner:, :].norm().item(), 0.0, atol=1e-5, rtol=0)
    torch.testing.assert_close(waves[..., corner:].norm().item(), 0.0, atol=1e-5, rtol=0)


def test_wavelet_steps_are_shrunken_gradient_steps_ahead_of_the_last() -> None:
    """FISTA written out; the coarsest band is never shrunken, the transform shifted each time."""
    acquisition = spiral_protocol().acquisition
    right = acquisition.adjoint(signal := random_images(1, 3, 320))
    step = 1 / largest_eigenvalue(acquisition, right)
    limit = 0.05 * right.abs().max() * step
    before = image = torch.zeros_like(right)
    pace, share = 1.0, 0.0
    for down, along in ((0, 0), (3, 5), (6, 2)):
        ahead = image + share * (image - before)
        moved = ahead - step * (acquisition.adjoint(acquisition.forward(ahead)) - right)
        waves = haar(moved.roll((down, along), (-2, -1)), 3)
        shrunken = waves * (1 - limit / waves.abs()).clamp_min(0)
        shrunken[..., :2, :2] = waves[..., :2, :2]
        before, image = image, inverse_haar(shrunken, 3).roll((-down, -along), (-2, -1))
        following = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        pace, share = following, (pace - 1) / following
    torch.testing.assert_close(wavelet_l1(acquisition, signal, 3, 0.05), image)


def test_metrics() -> None:
    truth = shepp_logan(32)
    assert nrmse(truth, truth) == 0
    assert nrmse(1.1 * truth, truth) == pytest.approx(0.1)
    half = np.arange(32)[:, None] * np.ones(32) < 16
    assert nrmse(np.where(half, truth, 9), truth, half) == 0
    assert ssim(truth * 1j, truth) == pytest.approx(1)
    assert ssim(truth[::-1], truth) < 0.9
    assert magnitude_correlation(2 * truth, -truth, np.ones((32, 32))) == pytest.approx(1)
    assert magnitude_correlation(np.where(half, truth, 9), truth, half) == pytest.approx(1)
