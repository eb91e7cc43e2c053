import numpy as np
import pytest

from eyescream_py.mln import trajectories
from eyescream_py.mln.trajectories import (
    _disc_mask,
    cartesian,
    density_compensation,
    is_on_grid,
    poisson_disc_mask,
    sample_times,
    segment_interpolation,
    spiral,
)
from eyescream_py.system.errors import UserError


def test_spiral_reaches_the_edge_at_an_even_pace() -> None:
    points = spiral(1000, 8, 20, density=1.3)
    radius = np.hypot(*points)
    assert radius[0] == 0
    assert radius[-1] == pytest.approx(20)
    steps = np.hypot(*np.diff(points))
    np.testing.assert_allclose(steps[50:], steps[50:].mean(), rtol=0.02)
    turns = np.unwrap(np.angle(points[0, 1:] + 1j * points[1, 1:]))
    assert (turns[-1] - turns[0]) / (2 * np.pi) == pytest.approx(8, abs=0.5)


def test_a_denser_centre_takes_more_samples() -> None:
    inner = [int((np.hypot(*spiral(2000, 12, 32, density)) < 16).sum()) for density in (1.0, 1.8)]
    assert inner[1] > 1.2 * inner[0]


def test_spiral_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        spiral(1, 8, 20)


def test_cartesian_positions() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 3] = mask[2, 2] = True
    np.testing.assert_array_equal(cartesian(mask), [[-2, 0], [1, 0]])
    assert is_on_grid(cartesian(mask), 4)
    assert not is_on_grid(np.array([[0.5], [0]]), 4)
    assert not is_on_grid(np.array([[2.0], [0]]), 4)
    assert is_on_grid(cartesian(np.ones((5, 5), bool)), 5)
    assert not is_on_grid(np.array([[3.0], [0]]), 5)


def test_no_sample_is_nearer_to_another_than_the_disc_of_the_earlier_one() -> None:
    order, distance = np.random.default_rng(0).permutation(400), np.full((20, 20), 3.5)
    places = np.argwhere(_disc_mask(order, distance, calibration=0))
    between = np.linalg.norm(places[:, None] - places, axis=2)
    assert between[~np.eye(len(places), dtype=bool)].min() >= 3.5


def test_poisson_disc_mask_hits_its_acceleration_and_is_densest_in_the_middle() -> None:
    mask = poisson_disc_mask(48, 6, np.random.default_rng(0), calibration=6)
    assert 48**2 / mask.sum() == pytest.approx(6, rel=0.15)
    assert mask[21:27, 21:27].all()
    odd, small = (poisson_disc_mask(n, 20, np.random.default_rng(0), 5) for n in (24, 4))
    assert odd[10:15, 10:15].all()
    assert small.all()
    assert mask[16:32, 16:32].mean() > 2 * mask.mean()


def test_density_compensation_gives_areas() -> None:
    """On a full Cartesian grid each sample owns about one unit; a doubled sample owns half of
    it.
    """
    full = cartesian(np.ones((12, 12), bool))
    weights = density_compensation(full)
    assert weights.reshape(12, 12)[4:8, 4:8].mean() == pytest.approx(1, rel=0.1)
    doubled = density_compensation(np.concatenate([full, full], 1))
    np.testing.assert_allclose(doubled[:144], weights / 2, rtol=1e-6)


@pytest.mark.parametrize("segments", [1, 2, 7])
def test_interpolation_sums_to_one_with_two_entries(segments: int) -> None:
    weights = segment_interpolation(sample_times(101, 0.01), segments)
    assert weights.shape == (segments, 101)
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-12)
    assert (weights > 1e-9).sum(0).max() <= 2
    assert weights[0, 0] == weights[-1, -1] == 1


def test_samples_in_another_unit_do_not_fill_the_memory(monkeypatch) -> None:
    monkeypatch.setattr(trajectories, "MOST_PAIRS", 40_000)
    path = spiral(400, 8, 16)
    assert density_compensation(path).shape == (400,)
    with pytest.raises(UserError, match=r"have 160000 pairs within 1.5 / FOV, .*in 1/FOV"):
        density_compensation(path / 64)
