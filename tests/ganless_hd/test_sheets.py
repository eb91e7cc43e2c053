import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.ganless_hd.sheets import sheet, to_bytes, write_png


def test_size_columns_and_padding():
    S, rows = 10, 3
    values = (torch.full((rows, 3, S, S), value) for value in (-1.0, 0.0, 1.0))
    page = sheet(list(values))
    assert page.shape == (rows * (S + 2) + 2, 3 * (S + 2) + 2, 3)
    assert (page[:2] == 0).all()
    assert (page[:, 12:14] == 0).all()
    for column, value in enumerate((0, 128, 255)):
        left = column * (S + 2) + 2
        assert (page[2 : S + 2, left : left + S] == value).all()


def test_rows_are_samples():
    samples = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 5, 5)
    page = sheet([samples, samples])
    assert [page[3 + row * 7, 3, 0] for row in range(4)] == [0, 85, 170, 255]


def test_smallest_and_largest_value_of_the_whole_sheet_become_black_and_white():
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(2, 3, 6, 6, generator=generator) * scale for scale in (0.1, 3)]
    page = sheet(columns)
    low, high = min(map(torch.min, columns)), max(map(torch.max, columns))
    expected = ((columns[0][0, :, 0, 0] - low) / (high - low) * 255).round()
    assert page[2, 2].tolist() == expected.int().tolist()
    assert page.max() == 255


def test_bytes_of_a_picture():
    picture = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 2, 4)
    assert to_bytes(picture).shape == (2, 4, 3)
    assert to_bytes(picture)[0, 0].tolist() == [0, 128, 255]


def test_png_round_trip_and_unwritable_folder(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        write_png(tmp_path / "file" / "a.png", picture)
