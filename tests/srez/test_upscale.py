import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from eyescream_py.srez.checkpoints import save_checkpoint
from eyescream_py.srez.steps import build_networks
from eyescream_py.srez.upscale import run_upscale, upscale_tiled
from eyescream_py.system.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def told(tiny):
    """Options whose checkpoint_dir holds an untrained generator of 8 -> 32 pixels."""
    Path(tiny.checkpoint_dir).mkdir()
    save_checkpoint(tiny.checkpoint_dir, build_networks(tiny, CPU), tiny, 1, 1.0)
    return dataclasses.replace(tiny, crop="none")


def upscale(told, images, tmp_path, mode="face"):
    out = str(tmp_path / "out")
    return run_upscale(told, tuple(map(str, images)), mode, out, CPU, lambda line: None)


def test_faces_become_squares_of_the_trained_size(told, tmp_path, faces_folder):
    small = tmp_path / "small.png"
    Image.new("RGB", (8, 8), "red").save(small)
    images = [faces_folder / "000001.jpg", small]
    for path in upscale(told, images, tmp_path):
        with Image.open(path) as picture:
            assert picture.size == (32, 32)


def test_the_celeba_window_is_cut_as_in_training(told, tmp_path):
    """Of an aligned face, what lies outside (25,60)-(153,188) has no influence."""
    Image.new("RGB", (178, 218), "red").save(tmp_path / "a.png")
    framed = Image.new("RGB", (178, 218), "green")
    framed.paste("red", (25, 60, 153, 188))
    framed.save(tmp_path / "b.png")
    options = dataclasses.replace(told, crop="celeba")
    a, b = upscale(options, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (13, 9), (31, 33)])
def test_tiles_cover_pictures_of_any_size(told, tmp_path, size):
    Image.new("RGB", size, "blue").save(tmp_path / "any.png")
    (path,) = upscale(told, [tmp_path / "any.png"], tmp_path, "tile")
    with Image.open(path) as picture:
        assert picture.size == (4 * size[0], 4 * size[1])


def test_tiles_are_put_where_they_belong_without_seams():
    class Nearest(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, scale_factor=4)

    picture = torch.rand(3, 21, 37)
    large = upscale_tiled(Nearest(), picture, 16, 4)
    assert torch.allclose(
        large, nn.functional.interpolate(picture[None], scale_factor=4)[0], atol=1e-5
    )


def test_what_cannot_be_enlarged_is_named_and_nothing_is_written(told, tmp_path):
    good = tmp_path / "good.png"
    Image.new("RGB", (40, 40)).save(good)
    Image.new("RGB", (7, 40)).save(tmp_path / "tiny.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("tiny.png", "text.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            upscale(told, [good, tmp_path / name], tmp_path)
    with pytest.raises(UserError, match="name the pictures"):
        upscale(told, [], tmp_path)
    assert not (tmp_path / "out").exists()


def test_existing_pictures_are_kept(told, tmp_path):
    good = tmp_path / "good.png"
    Image.new("RGB", (40, 40)).save(good)
    upscale(told, [good], tmp_path)
    with pytest.raises(UserError, match="would be overwritten"):
        upscale(told, [good], tmp_path)
    with pytest.raises(UserError, match="would be overwritten"):
        run_upscale(told, (str(good), str(good)), "face", str(tmp_path / "new"), CPU)


def test_noise_checkpoints_cannot_enlarge(told, tmp_path):
    options = dataclasses.replace(told, input="noise")
    save_checkpoint(told.checkpoint_dir, build_networks(options, CPU), options, 1, 1.0)
    with pytest.raises(UserError, match="from noise"):
        upscale(told, ["a.png"], tmp_path)
