"""The contact sheet of sample.py: every picture is in its place."""

import numpy as np
import torch
from PIL import Image

from eyescream_py.results.sheet import CAPTION, MARGIN, WIDTH, Section, write_sheet


def test_pictures_stand_in_rows_under_their_caption(tmp_path):
    shades = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    write_sheet(tmp_path / "sheet.png", [Section("six shades", shades, 4)])
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    side = WIDTH // 4 - 2
    assert page.shape == (CAPTION + 2 * (side + 2) + MARGIN, WIDTH + 2 * MARGIN, 3)
    for i, shade in enumerate(shades[:, 0, 0, 0].tolist()):
        row, column = divmod(i, 4)
        y, x = CAPTION + row * (side + 2) + side // 2, MARGIN + column * (side + 2) + side // 2
        assert np.abs(page[y, x].astype(int) - round(255 * shade)).max() <= 1
    assert (page[:CAPTION] < 128).any()  # the caption's letters


def test_colours_and_several_sections(tmp_path):
    red = torch.zeros(2, 3, 8, 8)
    red[:, 0] = 1
    gray = torch.full((2, 1, 8, 8), 0.5)
    write_sheet(tmp_path / "sheet.png", [Section("red", red, 2), Section("gray", gray, 2)])
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    tall = CAPTION + WIDTH // 2
    assert page[CAPTION + 20, MARGIN + 20].tolist() == [255, 0, 0]
    assert page[tall + CAPTION + 20, MARGIN + 20].tolist() == [128, 128, 128]
