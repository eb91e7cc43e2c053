from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.mln import series
from eyescream_py.mln.pictures import batch_picture, write_demo, write_png
from eyescream_py.system.errors import UserError
from tests.mln.small import random_images


def test_eight_columns_in_the_originals_order() -> None:
    output, label = random_images(3, 4, 4) / 4, random_images(3, 4, 4, seed=1) / 4
    picture = batch_picture(output, label)
    assert picture.shape == (12, 32)
    columns = picture.reshape(3, 4, 8, 4).transpose(2, 0, 1, 3) / 255
    expected = [
        (output.real + 1) / 2, (label.real + 1) / 2, (output.imag + 1) / 2, (label.imag + 1) / 2,
        label.abs(), output.abs(), torch.angle(label) / (2 * np.pi) + 0.5,
        torch.angle(output) / (2 * np.pi) + 0.5,
    ]  # fmt: skip
    for column, values in zip(columns, expected, strict=True):
        np.testing.assert_allclose(column, values.clamp(0, 1).numpy(), atol=0.5 / 255 + 1e-6)


def test_at_most_eight_rows_and_values_are_clipped() -> None:
    picture = batch_picture(5 * random_images(11, 4, 4), random_images(11, 4, 4))
    assert picture.shape == (32, 32)
    assert picture.max() == 255


def test_demo_joins_the_pictures_in_order(tmp_path: Path) -> None:
    for number, grey in ((2, 200), (0, 10), (1, 90)):
        write_png(tmp_path / f"batch{number:06d}_out.png", np.full((8, 16), grey, np.uint8))
    assert write_demo(tmp_path, tmp_path / "d.gif", 0.1, 8) == 3
    with Image.open(tmp_path / "d.gif") as gif:
        assert (gif.n_frames, gif.size) == (3, (8, 4))
        greys = []
        for frame in range(3):
            gif.seek(frame)
            greys.append(gif.convert("L").getpixel((1, 1)))
    assert greys == [10, 90, 200]


def test_demo_says_when_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no batch"):
        write_demo(tmp_path, tmp_path / "d.gif")
    (tmp_path / "batch000000_out.png").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        write_demo(tmp_path, tmp_path / "d.gif")


def test_magnitudes_are_white_at_their_brightest_but_for_a_few() -> None:
    rows = np.array([[[3 + 4j, 0]], [[2.5, 50]]])  # the 99.7th percentile is 49.595
    assert series.picture(rows).tolist() == [[26, 0], [13, 255]]
    assert series.picture(0 * rows).max() == 0
