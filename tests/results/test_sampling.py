"""Generating, ranking, neighbours and grids."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eyescream_py.networks.modes import evaluating
from eyescream_py.results.sampling import generate, judge, nearest, ranking, save_grid
from eyescream_py.torch7.layers.shapes import View


def networks():
    torch.manual_seed(1)
    G = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Sigmoid(), View(1, 4, 4))
    D = nn.Sequential(View(16), nn.Linear(16, 1), nn.Sigmoid())
    return G, D


def test_evaluation_is_left_as_it_was_entered():
    G, D = networks()
    D.eval()
    with evaluating(G, D):
        assert not G.training
        assert torch.is_inference_mode_enabled()
    assert G.training
    assert not D.training


def test_batches_do_not_change_what_is_generated():
    G, _ = networks()
    noise = torch.rand(10, 3)
    torch.testing.assert_close(generate(G, noise, 3), generate(G, noise))
    assert generate(G, noise).shape == (10, 1, 4, 4)


def test_ranking_is_by_the_discriminators_word():
    G, D = networks()
    images = generate(G, torch.rand(9, 3))
    likes = judge(D, images, 4)
    order = ranking(D, images)
    assert sorted(order.tolist()) == list(range(9))
    assert torch.equal(likes[order], likes.sort(descending=True).values)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_neighbours_equal_a_search_one_by_one(dtype):
    generator = torch.Generator().manual_seed(2)
    bytes_ = torch.randint(0, 256, (50, 3, 4, 4), generator=generator, dtype=torch.uint8)
    candidates = bytes_ if dtype == torch.uint8 else bytes_.float() / 255
    images = torch.rand(7, 3, 4, 4, generator=generator)
    images[0] = bytes_[31].float() / 255
    floats = bytes_.float() / 255
    expected = [int((floats - image).flatten(1).norm(dim=1).argmin()) for image in images]
    assert nearest(images, candidates, batch=8).tolist() == expected
    assert expected[0] == 31


@pytest.mark.parametrize(("name", "kind"), [("g.png", "PNG"), ("deep/g.jpg", "JPEG")])
def test_a_grid_on_disk(name, kind, tmp_path):
    images = torch.stack([torch.full((1, 4, 4), value) for value in (0.0, 0.5, 1.0)])
    save_grid(tmp_path / name, images, 2)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind
        pixels = np.asarray(picture)
    assert pixels.shape == (8, 8)
    for row, column, value in ((0, 0, 0), (0, 4, 128), (4, 0, 255)):
        assert abs(int(pixels[row + 2, column + 2]) - value) <= 3
    assert [p.name for p in (tmp_path / name).parent.iterdir()] == [(tmp_path / name).name]


def test_a_grid_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        save_grid(tmp_path / "file/g.png", torch.zeros(1, 1, 2, 2), 1)
    assert (tmp_path / "file").read_text() == "kept"
