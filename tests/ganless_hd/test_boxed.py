"""The small network that comes with the program paints a photograph that it never saw."""

import numpy as np
import pytest
import skimage.data
import torch
from click.testing import CliRunner
from PIL import Image

from eyescream_py.ganless_hd.__main__ import main
from eyescream_py.ganless_hd.contours import colour_map, photo_input
from eyescream_py.ganless_hd.data import resize_shorter_side
from eyescream_py.ganless_hd.sampling import BOXED, load_painter
from eyescream_py.system import safe_tensors


@pytest.fixture
def astronaut(tmp_path):
    photo = Image.fromarray(skimage.data.astronaut()[0:250, 100:350])
    photo.save(tmp_path / "me.png")
    return tmp_path / "me.png"


def test_it_is_small_and_in_half_precision():
    assert BOXED.stat().st_size <= 1_000_000
    header = safe_tensors.read_header(BOXED)
    assert {entry.dtype for entry in header.entries.values()} == {torch.float16}


def test_a_fresh_clone_paints(astronaut, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["sample", str(astronaut), "--out", str(out), "--gpu=-1"])
    assert result.exit_code == 0, result.output
    painted = np.asarray(Image.open(out / "me.png")).astype(float)
    target = resize_shorter_side(np.asarray(Image.open(astronaut)), 128).astype(float)
    colours = colour_map(target.astype(np.uint8)).astype(float)
    assert painted.shape == (128, 128, 3)
    assert np.square(painted - target).mean() < 0.9 * np.square(colours - target).mean()


def test_it_draws_what_the_contours_say(astronaut):
    """Moved contours move the picture: not the colours alone are painted."""
    painter = load_painter(BOXED, torch.device("cpu"), 0)
    target = resize_shorter_side(np.asarray(Image.open(astronaut)), 128)
    lines = photo_input(target, colormap=False)
    colours = colour_map(target)
    with_lines = np.maximum(lines, colours).transpose(2, 0, 1)
    without = colours.transpose(2, 0, 1)
    pictures = [painter(torch.from_numpy(x.copy())) for x in (with_lines, without)]
    goal = torch.from_numpy(target.transpose(2, 0, 1) / 127.5 - 1)
    errors = [float((picture - goal).square().mean()) for picture in pictures]
    assert errors[0] < 0.9 * errors[1]
