import numpy as np
import pytest
import scipy.sparse
import torch

from eyescream_py.mln.nufft import (
    CartesianFFT,
    ExactDFT,
    Finufft,
    GriddedNUFFT,
    MatrixNUFFT,
    choose_operator,
)
from eyescream_py.mln.trajectories import cartesian, spiral
from tests.mln.small import random_images

SIDE = 32
TRAJECTORY = spiral(500, 9, SIDE / 2)
DOUBLE = torch.complex128


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    return ((value - truth).norm() / truth.norm()).item()


def inner_product_error(operator: object, images: torch.Tensor, signal: torch.Tensor) -> float:
    left = (operator.forward(images).conj() * signal).sum()
    right = (images.conj() * operator.adjoint(signal)).sum()
    return ((left - right).abs() / (images.norm() * signal.norm())).item()


def double_sum(trajectory: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The definition, written out."""
    side = len(image)
    place = np.arange(side) - side // 2
    r, u = np.meshgrid(place, place, indexing="ij")
    return np.array(
        [
            (image * np.exp(-2j * np.pi * (k1 * r + k2 * u) / side)).sum() / side
            for k1, k2 in trajectory.T
        ]
    )


def test_exact_dft_is_the_double_sum() -> None:
    image = random_images(SIDE, SIDE, dtype=DOUBLE)
    signal = ExactDFT(TRAJECTORY, SIDE, DOUBLE).forward(image)
    np.testing.assert_allclose(signal.numpy(), double_sum(TRAJECTORY, image.numpy()), rtol=1e-10)


@pytest.mark.parametrize(
    ("operator", "error"),
    [
        (Finufft(TRAJECTORY, SIDE, 1e-12, DOUBLE), 1e-10),
        (Finufft(TRAJECTORY, SIDE, 1e-7, DOUBLE), 1e-6),
        (Finufft(TRAJECTORY, SIDE, 1e-4), 1e-3),
        (GriddedNUFFT(TRAJECTORY, SIDE, dtype=DOUBLE), 1e-4),
    ],
)
def test_fast_transforms_agree_with_the_exact_one(operator: object, error: float) -> None:
    images = random_images(2, 3, SIDE, SIDE, dtype=DOUBLE)
    exact = ExactDFT(TRAJECTORY, SIDE, DOUBLE)
    assert relative(operator.forward(images), exact.forward(images)) < error
    signal = random_images(2, 3, TRAJECTORY.shape[1], seed=1, dtype=DOUBLE)
    assert relative(operator.adjoint(signal), exact.adjoint(signal)) < error


def test_an_odd_side_has_its_origin_at_the_middle_pixel() -> None:
    images, positions = random_images(9, 9, dtype=DOUBLE), spiral(80, 3, 4.5)
    expected = double_sum(positions, images.numpy())
    for fast in (Finufft(positions, 9, 1e-9, DOUBLE), GriddedNUFFT(positions, 9, dtype=DOUBLE)):
        assert relative(fast.forward(images), torch.from_numpy(expected)) < 1e-4
        signal = random_images(80, dtype=DOUBLE)
        assert inner_product_error(fast, images, signal) < 1e-10


@pytest.mark.parametrize(
    "operator",
    [
        ExactDFT(TRAJECTORY, SIDE, DOUBLE),
        Finufft(TRAJECTORY, SIDE, 1e-12, DOUBLE),
        GriddedNUFFT(TRAJECTORY, SIDE, dtype=DOUBLE),
    ],
)
def test_adjoints(operator: object) -> None:
    images = random_images(3, SIDE, SIDE, dtype=DOUBLE)
    signal = random_images(3, TRAJECTORY.shape[1], seed=2, dtype=DOUBLE)
    assert inner_product_error(operator, images, signal) < 1e-10


@pytest.mark.parametrize("side", [SIDE, 9])
def test_cartesian_fft_is_exact_and_adjoint(side: int) -> None:
    mask = np.random.default_rng(3).random((side, side)) < 0.4
    mask[0, -1] = mask[-1, 0] = True
    trajectory = cartesian(mask)
    operator = choose_operator(trajectory, side)
    assert isinstance(operator, CartesianFFT)
    images = random_images(2, side, side, dtype=DOUBLE)
    exact = ExactDFT(trajectory, side, DOUBLE)
    assert relative(operator.forward(images), exact.forward(images)) < 1e-12
    signal = random_images(2, trajectory.shape[1], dtype=DOUBLE)
    assert inner_product_error(operator, images, signal) < 1e-12
    with pytest.raises(ValueError, match="integer k"):
        CartesianFFT(TRAJECTORY, SIDE)


@pytest.mark.parametrize("kind", [Finufft, GriddedNUFFT])
def test_gradients_are_the_adjoint(kind: type) -> None:
    operator = kind(TRAJECTORY, SIDE, dtype=DOUBLE)
    images = random_images(SIDE, SIDE, dtype=DOUBLE).requires_grad_(True)
    signal = random_images(TRAJECTORY.shape[1], seed=4, dtype=DOUBLE)
    error = operator.forward(images) - signal
    (error.abs().square().sum() / 2).backward()
    assert relative(images.grad, operator.adjoint(error.detach())) < 1e-12


def test_gradients_pass_finite_differences() -> None:
    operator = Finufft(spiral(16, 2, 2), 4, 1e-12, DOUBLE)
    images = random_images(4, 4, dtype=DOUBLE).requires_grad_(True)
    assert torch.autograd.gradcheck(operator.forward, images)
    signal = random_images(16, dtype=DOUBLE).requires_grad_(True)
    assert torch.autograd.gradcheck(operator.adjoint, signal)


def test_matrix_nufft_reads_the_originals_layout() -> None:
    """A matrix that picks grid points, column-major on the padded grid, and the scaling in
    front.
    """
    side, padded = 8, 16
    rng = np.random.default_rng(0)
    scaling = rng.random((side, side)) + 0.5
    rows, columns = np.array([0, 3, 9]), np.array([2, 0, 15])
    matrix = scipy.sparse.csc_matrix(
        (np.ones(3), (np.arange(3), columns * padded + rows)), shape=(3, padded**2)
    )
    operator = MatrixNUFFT(matrix, scaling, padded)
    image = random_images(side, side, dtype=DOUBLE)
    grid = np.fft.fft2(image.numpy() * scaling, s=(padded, padded))
    np.testing.assert_allclose(operator.forward(image).numpy(), grid[rows, columns], rtol=1e-12)
    signal = random_images(3, seed=1, dtype=DOUBLE)
    assert inner_product_error(operator, image, signal) < 1e-12


def test_the_fastest_operator_that_is_there_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_operator(TRAJECTORY, SIDE), Finufft)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(choose_operator(TRAJECTORY, SIDE), GriddedNUFFT)


def test_empty_batches() -> None:
    operator = Finufft(TRAJECTORY, SIDE)
    assert operator.forward(torch.zeros(0, SIDE, SIDE, dtype=torch.complex64)).shape == (0, 500)
