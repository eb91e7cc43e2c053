import numpy as np
import pytest

from eyescream_py.ganless_hd.contours import (
    colour_map,
    contours,
    drawn_lines,
    network_input,
    photo_input,
)


def step_picture(heights: tuple[int, int, int], size: int = 32) -> np.ndarray:
    """Black on the left; on the right each channel at its own height."""
    picture = np.zeros((size, size, 3), np.uint8)
    picture[:, size // 2 :] = heights
    return picture


def test_a_step_gives_one_thin_line_at_the_step():
    lines = contours(step_picture((200, 200, 200)))
    assert set(np.unique(lines)) == {0, 255}
    columns = np.flatnonzero(lines[16, :, 0])
    assert len(columns) == 1
    assert columns[0] in (15, 16)
    assert (lines[2:-2, columns[0]] == 255).all()


def test_gradient_threshold_is_255_in_l1_of_sobel():
    """A vertical step of height h has |gx| = 4h: 63 stays below 255, 64 is above."""
    lines = contours(step_picture((63, 64, 0)))
    assert not lines[..., 0].any()
    assert lines[..., 1].any()


def test_edges_belong_to_their_channel_alone():
    picture = step_picture((200, 0, 0))
    inputs = photo_input(picture)
    edge = contours(picture)[..., 0] > 0
    assert edge.any()
    assert (inputs[edge][:, 0] == 255).all()
    assert (inputs[..., 1:] == 0).all()


def test_weak_edges_are_followed_from_a_strong_pixel_only():
    picture = np.zeros((64, 64, 3), np.uint8)
    fade = np.linspace(120, 20, 64).astype(np.uint8)
    picture[:, 32:] = fade[:, None, None]
    line = contours(picture)[2:-2, 30:34, 0].any(1)
    assert line.all()  # strong at the top, and followed to the weak end
    assert not contours(picture // 3)[..., 0].any()


def test_input_equals_the_colour_map_away_from_edges():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    lines, colours = contours(picture), colour_map(picture)
    inputs = photo_input(picture)
    assert (inputs[lines == 255] == 255).all()
    assert np.array_equal(inputs[lines == 0], colours[lines == 0])
    assert inputs.dtype == np.uint8


def test_constant_picture_has_its_own_colour_and_no_edges():
    picture = np.full((64, 64, 3), (10, 120, 250), np.uint8)
    assert not contours(picture).any()
    assert np.array_equal(colour_map(picture), picture)
    assert np.array_equal(photo_input(picture), picture)


def test_colour_map_has_sixteen_cells_a_side_and_is_aliased():
    """Bilinear reduction by 8 reads the two middle pixels of each cell in both directions."""
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[3::8, 3::8] = picture[4::8, 3::8] = picture[3::8, 4::8] = picture[4::8, 4::8] = 200
    assert (colour_map(picture) == 200).all()
    picture = 200 - picture
    assert (colour_map(picture) == 0).all()


def test_colour_map_cells_can_be_counted_apart():
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 64:] = 255
    halves = colour_map(picture, (1, 2))
    assert (halves[:, :32] == 0).all()
    assert (halves[:, 96:] == 255).all()


def test_without_colour_map_the_ground_is_black():
    picture = step_picture((200, 150, 100))
    assert np.array_equal(photo_input(picture, colormap=False), contours(picture))
    assert network_input(contours(picture), None).min() == 0


@pytest.mark.parametrize("dark", [False, True])
def test_drawn_lines(dark):
    drawing = np.full((8, 8, 3), 20, np.uint8)
    drawing[3] = 230
    lines = drawn_lines(255 - drawing if dark else drawing, dark)
    assert (lines[3] == 255).all()
    assert lines.sum() == 255 * 8 * 3
