import numpy as np
import pytest
import torch

from eyescream_py.mln.forward import (
    Acquisition,
    feature_to_signal,
    segment_phases,
    signal_to_feature,
)
from eyescream_py.mln.nufft import ExactDFT
from eyescream_py.mln.phantoms import b0_field
from eyescream_py.mln.trajectories import sample_times, segment_interpolation, spiral
from tests.mln.small import random_images, spiral_protocol

SIDE, SAMPLES, READOUT = 16, 200, 0.01
TRAJECTORY = spiral(SAMPLES, 5, SIDE / 2)
TIMES = sample_times(SAMPLES, READOUT)
DOUBLE = torch.complex128


def with_segments(b0: torch.Tensor, segments: int) -> Acquisition:
    weights = torch.from_numpy(segment_interpolation(TIMES, segments)).to(DOUBLE)
    coils = torch.ones(1, 1, SIDE, SIDE, dtype=DOUBLE)
    operator = ExactDFT(TRAJECTORY, SIDE, DOUBLE)
    return Acquisition(operator, coils, segment_phases(b0, segments, READOUT)[None], weights[None])


def exact_off_resonance(
    images: torch.Tensor, b0_hz: torch.Tensor, trajectory: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """The signal (B, M) of one uniform coil with every sample's own B0 phase: the sum that segments
    approximate.

    images (B, N, N), b0_hz (N, N), trajectory (2, M) in 1/FOV, times (M,) in seconds. Cost M N^2:
    small N only.
    """
    side = images.shape[-1]
    place = torch.arange(side, dtype=trajectory.dtype) - side // 2
    rows, columns = trajectory[0][:, None] * place, trajectory[1][:, None] * place  # [M,N]
    angle = (rows[:, :, None] + columns[:, None, :]) / side + b0_hz * times[:, None, None]
    waves = torch.exp(torch.complex(torch.zeros_like(angle), -2 * torch.pi * angle))
    return torch.einsum("mru,bru->bm", waves, images.to(waves.dtype)) / side


def test_without_off_resonance_segments_do_not_matter() -> None:
    images = random_images(2, 1, SIDE, SIDE, dtype=DOUBLE)
    zero = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    one = with_segments(zero, 1).forward(images)
    torch.testing.assert_close(with_segments(zero, 5).forward(images), one)


def test_segment_error_falls_with_their_number() -> None:
    b0 = torch.from_numpy(b0_field(SIDE, 150, np.random.default_rng(2)))
    images = random_images(1, 1, SIDE, SIDE, dtype=DOUBLE)
    exact = exact_off_resonance(
        images[:, 0], b0, torch.from_numpy(TRAJECTORY), torch.from_numpy(TIMES)
    )
    errors = [
        ((with_segments(b0, count).forward(images)[:, 0] - exact).norm() / exact.norm()).item()
        for count in (3, 7, 15, 31)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 < errors[0]


def test_segment_phases_turn_and_decay() -> None:
    b0 = torch.full((2, 2), 50.0)
    phases = segment_phases(b0, 3, 0.01, relaxation=torch.full((2, 2), 0.02))
    np.testing.assert_allclose(
        phases[:, 0, 0].numpy(), [1, -1j * np.exp(-0.25), -np.exp(-0.5)], atol=1e-6
    )


@pytest.mark.parametrize("bands", [1, 2])
def test_adjoint_with_coils_segments_and_bands(bands: int) -> None:
    protocol = spiral_protocol(coils=3, b0_hz=100)
    maps = [protocol.acquisition.coils[0].roll(4 * band, -1) for band in range(bands)]
    phases = protocol.acquisition.phases.expand(bands, -1, -1, -1)
    turn = torch.exp(1j * torch.arange(bands))[:, None, None]
    acquisition = Acquisition(
        ExactDFT(protocol.trajectory, SIDE, DOUBLE),
        torch.stack(maps).to(DOUBLE),
        phases.to(DOUBLE),
        (protocol.acquisition.interpolation * turn).to(DOUBLE),
    )
    images = random_images(2, bands, SIDE, SIDE, dtype=DOUBLE)
    signal = random_images(2, 3, protocol.trajectory.shape[1], seed=1, dtype=DOUBLE)
    left = (acquisition.forward(images).conj() * signal).sum()
    right = (images.conj() * acquisition.adjoint(signal)).sum()
    assert (left - right).abs() / (images.norm() * signal.norm()) < 1e-10


def test_two_bands_add_up() -> None:
    protocol = spiral_protocol(coils=2)
    coils = torch.cat([protocol.acquisition.coils, protocol.acquisition.coils.roll(3, -1)])
    images = random_images(1, 2, SIDE, SIDE)
    both = Acquisition(protocol.acquisition.operator, coils).forward(images)
    parts = [
        Acquisition(protocol.acquisition.operator, coils[band : band + 1]).forward(
            images[:, band : band + 1]
        )
        for band in range(2)
    ]
    torch.testing.assert_close(both, parts[0] + parts[1])


def test_feature_layout_is_coil_major_with_imaginary_parts_behind() -> None:
    coils, samples = 3, 5
    signal = random_images(2, coils, samples)
    feature = signal_to_feature(signal)
    assert feature.shape == (2, 2 * samples * coils)
    c, j = 2, 3
    assert feature[1, c * samples + j] == signal[1, c, j].real
    assert feature[1, samples * coils + c * samples + j] == signal[1, c, j].imag
    assert torch.equal(feature_to_signal(feature, coils), signal)
