import numpy as np
import torch
from PIL import Image

from eyescream_py.srez.pictures import bicubic, nearest, save_png, sheet, strip, to_image


def test_sheet_columns_are_input_bicubic_output_truth(tmp_path):
    small, generated, label = (
        torch.rand(9, 3, 16, 16),
        torch.rand(9, 3, 64, 64),
        torch.rand(9, 3, 64, 64),
    )
    picture = sheet(small, generated, label)
    assert picture.shape == (3, 512, 256)
    second_row = picture[:, 64:128]
    wanted = [nearest(small, 64)[1], bicubic(small, 64)[1], generated[1], label[1]]
    for column, expected in enumerate(wanted):
        assert torch.equal(second_row[:, :, 64 * column : 64 * column + 64], expected)
    save_png(tmp_path / "a.png", picture)
    assert Image.open(tmp_path / "a.png").size == (256, 512)


def test_strip_is_the_first_ten_in_a_row():
    pictures = torch.rand(12, 3, 8, 8)
    row = strip(pictures)
    assert row.shape == (3, 8, 80)
    assert torch.equal(row[:, :, 72:], pictures[9])


def test_bicubic_is_pillow_s():
    small = torch.rand(1, 3, 16, 16)
    channel = Image.fromarray(small[0, 1].numpy()).resize((64, 64), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(channel)).clamp(0, 1)
    assert torch.allclose(bicubic(small, 64)[0, 1], expected, atol=1e-4)


def test_values_are_clipped_and_rounded():
    image = to_image(torch.tensor([-1.0, 0.5, 0.9999, 7.0]).expand(3, 1, 4))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 255]
