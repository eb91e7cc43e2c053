"""Distances of sets of pictures: closed forms, no bias, and larger for worse pictures."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eyescream_py import features
from eyescream_py.data.embedded import embedded_faces
from eyescream_py.features.distances import prepared, side_for


def normal(count, size, seed, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return rows * scale + shift


def test_frechet_is_the_closed_form_for_commuting_covariances():
    """Diagonal covariances: sum of (m1 - m2)^2 + (s1 - s2)^2 over the axes, exact by whitening."""
    rows = normal(500, 6, 0)
    rows = rows - rows.mean(0)
    rows = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T @ rows / 499)).T
    s1, s2 = torch.tensor([1.0, 2, 3, 1, 0, 2]), torch.tensor([2.0, 2, 1, 0, 0, 5])
    shift = torch.tensor([1.0, 0, 0, 2, 0, 0])
    expected = float((shift.square() + (s1 - s2).square()).sum())
    assert features.frechet_distance(rows * s1, rows * s2 + shift) == pytest.approx(expected)


def test_frechet_equals_the_usual_formula():
    """Against a root of the product of the covariances, computed by scipy."""
    import scipy.linalg

    a, b = normal(300, 8, 1), normal(200, 8, 2, 0.3) @ normal(8, 8, 3)
    covariances = [np.cov(x.T) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = float((a.mean(0) - b.mean(0)).square().sum())
    expected += np.trace(covariances[0] + covariances[1] - 2 * root)
    assert features.frechet_distance(a, b) == pytest.approx(expected)


def test_few_pictures_and_many_dimensions():
    a, b = normal(20, 300, 4), normal(30, 300, 5)
    assert features.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert features.frechet_distance(a, b) == pytest.approx(features.frechet_distance(b, a))


def test_kernel_distance_is_the_mean_over_pairs():
    a, b = normal(7, 3, 6), normal(5, 3, 7, 1.0)

    def k(x, y):
        return float(x @ y / 3 + 1) ** 3

    own1 = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    own2 = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    mixed = np.mean([k(x, y) for x in a for y in b])
    assert features.kernel_distance(a, b).value == pytest.approx(own1 + own2 - 2 * mixed)


def test_jackknife_leaves_out_one_row_at_a_time():
    a, b = normal(6, 3, 8), normal(5, 3, 9)

    def without(i):
        return features.kernel_distance(torch.cat((a[:i], a[i + 1 :])), b).value

    def without_b(i):
        return features.kernel_distance(a, torch.cat((b[:i], b[i + 1 :]))).value

    one = np.array([without(i) for i in range(6)])
    two = np.array([without_b(i) for i in range(5)])
    expected = np.sqrt(5 / 6 * np.var(one) * 6 + 4 / 5 * np.var(two) * 5)
    assert features.kernel_distance(a, b).spread == pytest.approx(expected)


def test_the_kernel_distance_has_no_bias_and_its_spread_is_true():
    """Sets of 8 and of 32 of one distribution: 0 in the mean; of two, the same mean for both."""
    for shift in (0.0, 0.5):
        means = []
        for count in (8, 32):
            results = [
                features.kernel_distance(
                    normal(count, 4, 2 * n), normal(count, 4, 2 * n + 1, shift)
                )
                for n in range(600)
            ]
            values = np.array([result.value for result in results])
            error = values.std() / np.sqrt(len(values))
            means.append((values.mean(), error))
            spread = np.sqrt(np.mean([result.spread**2 for result in results]))
            if count == 32:
                assert 0.8 < spread / values.std() < 1.8
        (few, error1), (many, error2) = means
        assert abs(few - many) < 4 * np.hypot(error1, error2)
        if not shift:
            assert abs(many) < 4 * error2


def test_the_frechet_distance_falls_with_the_number_of_pictures():
    few = np.mean(
        [features.frechet_distance(normal(20, 8, n), normal(20, 8, n + 99)) for n in (1, 2)]
    )
    many = np.mean(
        [features.frechet_distance(normal(500, 8, n), normal(500, 8, n + 99)) for n in (1, 2)]
    )
    assert many < few / 5


def jpeg(pictures, quality):
    result = []
    for picture in pictures:
        data = io.BytesIO()
        Image.fromarray((picture[0] * 255).byte().numpy()).save(data, "JPEG", quality=quality)
        result.append(torch.from_numpy(np.array(Image.open(data)))[None] / 255)
    return torch.stack(result)


def blur(pictures, rounds):
    for _ in range(rounds):
        pictures = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pictures


@pytest.fixture(scope="module")
def seeing():
    """(network, faces (100, 1, 25, 25))"""
    return features.frozen(features.load("auto")), embedded_faces()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda x, level: blur(x, level),
        lambda x, level: jpeg(x, (100, 40, 10)[level]),
        lambda x, level: (
            x + level * 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        ),
    ],
    ids=["blur", "jpeg", "noise"],
)
def test_worse_pictures_are_farther(seeing, spoilt):
    network, faces = seeing
    seen = [features.vectors_of(network, spoilt(faces[:50], level), 64) for level in range(3)]
    reference = features.vectors_of(network, faces[:50], 64)
    for distance in (features.frechet_distance, lambda a, b: features.kernel_distance(a, b).value):
        near, far, farthest = (distance(reference, rows) for rows in seen)
        assert near < far < farthest


def test_pictures_are_seen_in_colour_from_minus_one_to_one_at_a_side_of_their_size():
    grey = torch.tensor([[0.0, 0.25], [0.5, 1.0]]).view(1, 1, 2, 2)
    seen = prepared(grey, 2)
    assert seen.shape == (1, 3, 2, 2)
    assert torch.equal(seen[0, 2], 2 * grey[0, 0] - 1)
    enlarged = prepared(grey, 8)
    expected = F.interpolate(grey, (8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(enlarged[:, :1], 2 * expected - 1)
    assert [side_for(torch.zeros(1, 3, 9, side)) for side in (16, 112, 113)] == [112, 112, 224]


def test_vectors_do_not_depend_on_batches(seeing):
    network, faces = seeing
    whole = features.vectors_of(network, faces[:6], 64)
    parts = features.vectors_of(network, faces[:6], 64, batch=4)
    assert whole.shape == (6, 1280)
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-3)


def test_a_network_is_asked_about_four_pictures_and_more():
    asked = [features.suffices(judge, n) for judge in ("lite0", "none") for n in (3, 4, 50)]
    assert asked == [False, True, True, False, False, False]


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="4 vectors at least"):
        features.kernel_distance(normal(3, 2, 0), normal(9, 2, 0))
