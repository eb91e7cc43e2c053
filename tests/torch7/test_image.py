"""Against arrays made by Lua Torch's image package (tests/golden/image.json)."""

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import image
from tests.golden_data import fill, read

GOLDEN = read("image.json")
SCALES = [key for key in GOLDEN if key.startswith("scale_")]


def golden(name: str) -> torch.Tensor:
    return torch.tensor(GOLDEN[name]["data"]).reshape(GOLDEN[name]["shape"])


@pytest.mark.parametrize("name", SCALES)
def test_scale_equals_lua(name):
    channels, source, target = (int(part) for part in name.split("_")[1:])
    picture = fill(0.5, 0, channels, source, source) + 0.5
    assert torch.equal(image.scale(picture, target), golden(name))
    matrix = torch.from_numpy(image.scale_matrix(source, target))
    torch.testing.assert_close(matrix @ picture @ matrix.T, golden(name), rtol=0, atol=1e-6)


def test_scale_of_a_batch_is_that_of_each_picture_and_keeps_dtype():
    batch = fill(0.5, 2, 3, 2, 20, 30).double()
    scaled = image.scale(batch, 16, 40)
    assert scaled.shape == (3, 2, 40, 16)
    assert scaled.dtype == torch.float64
    assert torch.equal(scaled[1, 0], image.scale(batch[1, 0], 16, 40))


@pytest.mark.parametrize(("source", "target"), [(1, 5), (5, 1), (7, 7), (2, 3), (250, 16)])
def test_scale_keeps_a_flat_picture_flat(source, target):
    flat = torch.full((1, source, source), 0.3)
    torch.testing.assert_close(image.scale(flat, target), torch.full((1, target, target), 0.3))
    matrix = image.scale_matrix(source, target)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)


def test_scale_to_nothing_is_refused():
    with pytest.raises(ValueError, match="scale 4 pixels to 0"):
        image.scale(torch.zeros(1, 4, 4), 0)


def test_luma_equals_lua():
    picture = fill(0.5, 0, 3, 4, 4) + 0.5
    luma = torch.einsum("chw,c->hw", picture, torch.tensor(image.LUMA))
    torch.testing.assert_close(luma, golden("luma")[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "count", "channels"), [("grid", 10, 1), ("grid_rgb", 5, 3)])
def test_to_display_tensor_equals_lua(name, count, channels):
    images = torch.stack([fill(0.3, 10 * i, channels, 4, 4) + 0.4 for i in range(1, count + 1)])
    torch.testing.assert_close(
        image.toDisplayTensor(images, nrow=4), golden(name), rtol=0, atol=1e-6
    )


def test_to_display_tensor_with_padding_and_a_fixed_range():
    images = torch.stack([torch.full((1, 2, 2), v) for v in (-1.0, 0.0, 0.5)])
    grid = image.toDisplayTensor(images, nrow=2, padding=1, min=0, max=2)
    assert grid.shape == (1, 6, 6)
    assert grid[0, 0, 0] == 0  # -1 is cut off at 0
    assert grid[0, 3, 0] == 0.25
    assert grid[0, 2, 2] == 0.25  # the gap: the brightest of the images
    with pytest.raises(ValueError, match=r"not \(3, 2, 4, 4\)"):
        image.toDisplayTensor(torch.zeros(3, 2, 4, 4))
