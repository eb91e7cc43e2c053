from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyescream_py.image_model.heads import LOOK, POSE, SHAPE, build_head, render
from eyescream_py.image_model.make_data import make_data, make_head
from eyescream_py.image_model.ply import read_ply
from eyescream_py.image_model.prepare import meshes_to_depth_maps
from eyescream_py.system.errors import UserError

MIDDLE = {name: sum(range_) / 2 for name, range_ in {**SHAPE, **LOOK, **POSE}.items()}


def picture(**changed: float) -> tuple[np.ndarray, np.ndarray]:
    values = {**MIDDLE, "noise": 0.0, "background_slope": 0.0, **changed}
    head = build_head(values, values, values, samples=160)
    return render(head, values, values, 40, np.random.default_rng(0))


def test_folders_hold_what_was_asked_for(heads: Path) -> None:
    counts = {p.name: len(list(p.iterdir())) for p in heads.iterdir()}
    assert counts == {
        "Faces_depth": 24,
        "Faces_real": 24,
        "Faces_ND": 80,
        "Faces_ND_test": 16,
        "Faces_depth_test": 8,
        "Faces_ply": 2,
    }
    for path in [*heads.glob("Faces_depth/*"), *heads.glob("Faces_ND/*")]:
        with Image.open(path) as file:
            assert file.size == (32, 32)
            assert file.mode == "L"


def test_test_depth_maps_are_those_of_the_held_out_pairs(heads: Path) -> None:
    for path in (heads / "Faces_depth_test").iterdir():
        twin = heads / "Faces_ND_test" / f"{path.stem}_D.png"
        assert twin.read_bytes() == path.read_bytes()


def test_a_head_depends_on_its_number_alone_and_groups_share_nobody() -> None:
    first, again = make_head(0, "Faces_ND", 3, 16), make_head(0, "Faces_ND", 3, 16)
    np.testing.assert_array_equal(first[2], again[2])
    others = [make_head(0, "Faces_real", 3, 16), make_head(0, "Faces_ND", 4, 16)]
    others.append(make_head(1, "Faces_ND", 3, 16))
    assert all(not np.array_equal(first[1], other[1]) for other in others)


def test_depth_is_zero_behind_and_the_nose_is_nearest() -> None:
    depth, photo = picture(shift_x=0.0, shift_y=0.0, yaw=0.0, pitch=0.0, roll=0.0)
    assert depth[0].max() == depth[:, 0].max() == 0
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    assert 18 <= column <= 21
    assert 20 <= row <= 25
    np.testing.assert_allclose(depth, depth[:, ::-1], atol=0.15)
    assert photo[0, 0] == pytest.approx(MIDDLE["background"])


def test_yaw_turns_the_nose_to_the_right_and_pitch_lifts_it() -> None:
    straight = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}
    right = picture(**{**straight, "yaw": 30.0})[0]
    up = picture(**{**straight, "pitch": 12.0})[0]
    down = picture(**{**straight, "pitch": -12.0})[0]
    assert np.unravel_index(right.argmax(), right.shape)[1] > 24
    assert up.argmax() // 40 < down.argmax() // 40


def test_light_from_the_right_brightens_the_right_side() -> None:
    straight = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "shift_x": 0.0, "light_elevation": 0.0}
    _, photo = picture(**straight, light_azimuth=40.0)
    assert photo[18:30, 22:28].mean() > 1.05 * photo[18:30, 12:18].mean()


def test_light_skin_is_lighter() -> None:
    dark, light = (picture(skin=skin)[1][22:28, 14:26].mean() for skin in SHAPE_OF_SKIN)
    assert light / dark == pytest.approx(SHAPE_OF_SKIN[1] / SHAPE_OF_SKIN[0], rel=0.02)


SHAPE_OF_SKIN = LOOK["skin"]


def test_meshes_go_through_the_depth_map_tool(heads: Path, tmp_path: Path) -> None:
    assert meshes_to_depth_maps(heads / "Faces_ply", tmp_path / "out", 32) == 2
    mesh = read_ply(heads / "Faces_ply" / "00000.ply")
    assert mesh.triangles.max() == len(mesh.vertices) - 1
    with Image.open(tmp_path / "out" / "00000.png") as file:
        depth = np.asarray(file, float)
    _, rendered, _ = make_head(0, "Faces_ply", 0, 32)
    assert depth[0, 0] == 0
    assert depth.max() == 255
    inside = (depth > 0).sum() / (rendered > 0).sum()  # the tool fills the frame, the head did not
    assert 1 < inside < 2.5


def test_existing_sets_are_kept(heads: Path) -> None:
    with pytest.raises(UserError, match="Faces_depth: is not empty"):
        make_data(heads, 16, 1, 1, 1, 0, 0)
    assert len(list((heads / "Faces_depth").iterdir())) == 24
