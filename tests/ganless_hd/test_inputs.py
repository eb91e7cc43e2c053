"""Whatever photo or folder people have: what ganless-hd reads, leaves out and refuses."""

import os

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from eyescream_py.data.pictures import PictureError
from eyescream_py.ganless_hd.__main__ import main
from eyescream_py.ganless_hd.data import (
    LONGEST,
    ResizedPhotos,
    find_photos,
    load_photo,
    resize_shorter_side,
    survey,
)
from eyescream_py.ganless_hd.start import names_of

from .conftest import save_jpeg

RAMP = (np.arange(160 * 160) % 256).reshape(160, 160)


def test_sixteen_bit_gray_keeps_its_grays(tmp_path):
    Image.fromarray(RAMP.astype("u2") * 257).save(tmp_path / "g.png")
    assert np.abs(load_photo(tmp_path / "g.png") - RAMP[..., None]).max() <= 1


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (160, 160), (0, 0, 0, 0)).save(tmp_path / "t.png")
    assert (load_photo(tmp_path / "t.png") == 255).all()


def test_floats_are_scaled_by_their_own_range(tmp_path):
    Image.fromarray((RAMP / 255).astype("f4")).save(tmp_path / "f.tif")
    assert np.abs(load_photo(tmp_path / "f.tif") - RAMP[..., None]).max() <= 1


def test_photos_lying_on_their_side_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (160, 80)).save(tmp_path / "side.jpg", exif=exif)
    assert load_photo(tmp_path / "side.jpg").shape == (160, 80, 3)
    assert survey([tmp_path / "side.jpg"], 81, skip_small=False).small


def test_no_program_is_started_for_a_file_that_is_none_of_ours(tmp_path):
    (tmp_path / "e.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(PictureError, match="EPS"):
        load_photo(tmp_path / "e.jpg")


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 4000)])
def test_thin_photographs_are_not_enlarged_whole(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    height, width = resize_shorter_side(picture, 64).shape[:2]
    assert (min(height, width), max(height, width)) == (64, 64 * LONGEST)


def test_thin_photographs_keep_their_middle():
    picture = np.zeros((2, 100, 3), np.uint8)
    picture[:, 42:58] = 255
    assert (resize_shorter_side(picture, 2) == 255).all()


@pytest.fixture
def odd(tmp_path):
    """Two photographs in odd places, one behind a link, and much that is none."""
    save_jpeg(tmp_path / "UPPER.JPG", 80, 80)
    (tmp_path / "album.jpg" / "deep").mkdir(parents=True)
    save_jpeg(tmp_path / "album.jpg" / "deep" / "b.jpeg", 80, 80, seed=1)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    save_jpeg(elsewhere / "c.jpg", 80, 80, seed=2)
    os.symlink(elsewhere, tmp_path / "more")
    os.symlink(tmp_path, tmp_path / "album.jpg" / "loop")
    os.symlink("nowhere", tmp_path / "gone.jpg")
    (tmp_path / "._a.jpg").write_bytes(bytes.fromhex("0005160700020000") + bytes(99))
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_an_odd_folder_is_walked_once_and_what_is_left_out_is_counted(odd):
    found = find_photos([odd])
    names = [str(path.relative_to(odd)) for path in found.paths]
    assert names == ["UPPER.JPG", "album.jpg/deep/b.jpeg", "more/c.jpg"]
    for words in ("1 of other formats (.txt)", "1 hidden: ._a.jpg", "1 broken link: gone.jpg"):
        assert words in found.left_out
    assert "album.jpg/loop" in found.left_out


def test_names_that_are_no_text_are_read_and_cached(tmp_path):
    os.rename(save_jpeg(tmp_path / "a.jpg", 80, 80), os.fsencode(tmp_path) + b"/Jos\xe9.jpg")
    photos = ResizedPhotos(find_photos([tmp_path]).paths, 72, tmp_path / "cache", 1)
    assert photos[0].shape == (72, 72, 3)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1
    assert len(names_of(photos)) == 64


def test_home_is_expanded_and_empty_paths_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["make-data", "~/scenes", "--count", "1", "--size", "16"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "scenes" / "scene_00000.jpg").is_file()
    for flag in ("--dataroota", "--out", "--cache", "--init", "--basis", "--features"):
        refused = CliRunner().invoke(main, ["train", flag, ""])
        assert refused.exit_code == 2
        assert "give a path; it is empty" in refused.stderr
