import numpy as np
import pytest
from PIL import Image

from eyescream_py.ganless_hd.contours import contours
from eyescream_py.ganless_hd.scenes import write_scenes
from eyescream_py.system.errors import UserError


def pixels(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_scenes_are_reproducible_and_different(tmp_path):
    write_scenes(tmp_path / "one", 3, 96, seed=1)
    write_scenes(tmp_path / "two", 2, 96, seed=1)
    one, two = pixels(tmp_path / "one"), pixels(tmp_path / "two")
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == [
        "scene_00000.jpg",
        "scene_00001.jpg",
    ]
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=False))
    assert not np.array_equal(one[0], one[1])
    assert one[0].shape == (96, 96, 3)


def test_scenes_have_contours_and_colours(photos):
    scenes = pixels(photos)
    assert len(scenes) == 10
    for picture in scenes:
        assert 0.005 < (contours(picture) > 0).mean() < 0.4
        assert picture.std() > 10


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="below"):
        write_scenes(tmp_path / "file" / "below", 1, 64, seed=0)


def test_scenes_of_an_earlier_call_are_kept(tmp_path):
    write_scenes(tmp_path, 1, 64, seed=0)
    before = pixels(tmp_path)[0]
    with pytest.raises(UserError, match="is not empty"):
        write_scenes(tmp_path, 2, 96, seed=1)
    assert [np.array_equal(picture, before) for picture in pixels(tmp_path)] == [True]
