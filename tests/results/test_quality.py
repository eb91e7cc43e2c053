"""quality: every figure against an independent NumPy computation on small arrays."""

import numpy as np
import pytest
import torch

from eyescream_py.results import quality
from eyescream_py.torch7.random import TorchSource


def pictures(n, channels, size, seed):
    return np.random.default_rng(seed).random((n, channels, size, size)).astype(np.float32)


def numpy_blur(image):
    """5x5 binomial filter of one channel, one pixel after the other."""
    line = np.array([1, 4, 6, 4, 1]) / 16
    padded = np.pad(image.astype(np.float64), 2, mode="reflect")
    out = np.zeros(image.shape)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = line @ padded[y : y + 5, x : x + 5] @ line
    return out


def numpy_levels(image):
    """The Laplacian levels of one channel."""
    levels = []
    while min(image.shape) >= 16:
        small = numpy_blur(image)[::2, ::2]
        apart = np.zeros(image.shape)
        apart[::2, ::2] = small
        levels.append(image - 4 * numpy_blur(apart))
        image = small
    return [*levels, image]


@pytest.mark.parametrize("size", [16, 19])
def test_pyramid_is_the_one_of_numpy(size):
    images = pictures(2, 3, size, 1)
    levels = quality.pyramid(torch.from_numpy(images))
    for n in range(2):
        for c in range(3):
            for ours, theirs in zip(levels, numpy_levels(images[n, c]), strict=True):
                assert np.allclose(ours[n, c].numpy(), theirs, atol=1e-5)


def test_pyramid_sizes_and_flat_pictures():
    flat = torch.full((1, 1, 32, 32), 0.7)
    levels = quality.pyramid(flat)
    assert [level.shape[-1] for level in levels] == [32, 16, 8]
    assert levels[0][..., 2:-2, 2:-2].abs().max() < 1e-5
    assert torch.allclose(levels[2], torch.full((1, 1, 8, 8), 0.7), atol=1e-5)


def test_patches_are_windows_of_their_picture():
    images = torch.arange(3 * 2 * 9 * 9).reshape(3, 2, 9, 9).float()
    found = quality.patches(images, TorchSource(4), per_picture=20).reshape(3, 20, 2, 7, 7)
    corners = set()
    for picture, row in zip(images, found, strict=True):
        for patch in row:
            y, x = divmod(int(patch[0, 0, 0] - picture[0, 0, 0]), 9)
            assert torch.equal(patch, picture[:, y : y + 7, x : x + 7])
            corners.add((y, x))
    assert corners == {(y, x) for y in range(3) for x in range(3)}


def test_sliced_wasserstein_is_the_one_of_numpy():
    rng = np.random.default_rng(2)
    a, b, along = rng.random((40, 6)), rng.random((40, 6)) + 0.2, rng.normal(size=(6, 130))
    expected = 1000 * np.mean([np.abs(np.sort(a @ d) - np.sort(b @ d)).mean() for d in along.T])
    ours = quality.sliced_wasserstein(*map(torch.from_numpy, (a, b, along)))
    assert ours == pytest.approx(expected, rel=1e-9)


def test_whole_picture_distance_is_the_one_of_numpy():
    a, b = pictures(30, 3, 8, 1), pictures(30, 3, 8, 2) ** 2
    ours = quality.distances(torch.from_numpy(a), torch.from_numpy(b), seed=5)["image"]
    along = quality.directions(192, TorchSource(5)).numpy()
    assert np.allclose(np.linalg.norm(along, axis=0), 1, atol=1e-5)
    mean = a.mean((0, 2, 3), keepdims=True)
    deviation = a.std((0, 2, 3), ddof=1, keepdims=True)
    x, y = (((s - mean) / deviation).reshape(30, -1) @ along for s in (a, b))
    expected = 1000 * np.abs(np.sort(x, 0) - np.sort(y, 0)).mean()
    assert ours == pytest.approx(expected, rel=1e-4)


def test_distance_grows_from_the_same_kind_over_blur_to_noise():
    smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(pictures(400, 1, 18, 3)), 3, 1)
    real, other = smooth[:200], smooth[200:]
    blurred = torch.nn.functional.avg_pool2d(other, 3, 1, 1)
    noise = torch.from_numpy(pictures(200, 1, 16, 4))
    floor, middle, top = (quality.distances(real, x)["mean"] for x in (other, blurred, noise))
    assert floor < 0.5 * middle
    assert middle < top
    assert quality.distances(real, real)["image"] == 0


def test_distances_depend_on_the_seed_alone():
    a, b = (torch.from_numpy(pictures(20, 1, 16, s)) for s in (1, 2))
    before = torch.get_rng_state()
    assert quality.distances(a, b, 3) == quality.distances(a, b, 3)
    assert quality.distances(a, b, 3) != quality.distances(a, b, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_diversity_and_nearest_by_brute_force():
    a, b = pictures(6, 2, 4, 1), pictures(9, 2, 4, 2)
    pairs = [np.linalg.norm(a[i] - a[j]) for i in range(6) for j in range(6) if i != j]
    assert quality.diversity(torch.from_numpy(a)) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert quality.diversity(torch.from_numpy(a[:2])) == pytest.approx(pairs[0], rel=1e-6)
    nearest = [min(np.linalg.norm(x - y) for y in b) for x in a]
    ours = quality.nearest_distances(torch.from_numpy(a), torch.from_numpy(b))
    assert np.allclose(ours.numpy(), nearest, rtol=1e-4)


def test_a_copy_is_at_distance_0_and_no_nearer_to_one_set_than_to_another():
    images = torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    for candidates in (images, images.flip(0)):
        assert not quality.nearest_distances(images, candidates).any()


def test_auc_and_roc_by_brute_force():
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 8, 30) / 8 + 0.125, rng.integers(0, 8, 20) / 8
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    scores = torch.from_numpy(positive), torch.from_numpy(negative)
    assert quality.auc(*scores) == pytest.approx(np.mean(wins))
    false, true = (rate.numpy() for rate in quality.roc(*scores))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(np.mean(wins))


def test_sets_of_different_size_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        quality.distances(torch.zeros(3, 1, 16, 16), torch.zeros(4, 1, 16, 16))
