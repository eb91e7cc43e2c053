import gzip
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyescream_py.image_model import prepare
from eyescream_py.image_model.ply import Mesh, write_ply
from eyescream_py.image_model.prepare import (
    crop_faces,
    depth_map,
    fill_rows,
    find_face,
    flatten,
    meshes_to_depth_maps,
    notre_dame_pairs,
    photo_pairs,
    read_abs,
    zbuffer,
)
from eyescream_py.system.errors import UserError


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file, float)


def test_row_fill_by_hand() -> None:
    depth = np.array([[0.0, 2, 0, 0, 8, 0], [0, 0, 0, 0, 0, 0], [5, 5, 0, 7, 0, 0]])
    expected = [[0, 2, 4, 6, 8, 0], [0, 0, 0, 0, 0, 0], [5, 5, 6, 7, 0, 0]]
    assert fill_rows(depth).tolist() == expected
    assert depth[0, 2] == 0


def test_zbuffer_keeps_the_nearest_point() -> None:
    rows, columns = np.array([0, 0, 1, 0]), np.array([1, 1, 0, 1])
    z = np.array([1.0, 5, -2, 3])
    assert zbuffer(rows, columns, z, 2).tolist() == [[-1, 1], [2, -1]]


def test_depth_map_is_upright_and_scaled_to_the_wider_side() -> None:
    # x right, y up, z to the viewer: a low far point left, a high near one right, one hidden behind
    points = np.array([[0.0, 0, 0.5], [4, 2, 3], [4, 2, 1], [0, 0, 0.0]])
    depth = depth_map(points, 4)
    assert depth[0, 3] == 3  # high and right is the top right corner
    assert depth[2, 0] == 0.5  # two units lower, of four over the whole width
    assert np.count_nonzero(depth) == 2


def test_meshes_become_depth_maps(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    roof = np.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [1, 1, 1]])
    sides = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    write_ply(tmp_path / "in" / "roof.ply", Mesh(roof, sides))
    assert meshes_to_depth_maps(tmp_path / "in", tmp_path / "out", 16) == 1
    depth = pixels(tmp_path / "out" / "roof.png")
    assert depth.shape == (16, 16)
    assert depth[7:9, 7:9].min() > 200
    np.testing.assert_allclose(depth[8, 8:].argmax(), 0, atol=1)
    np.testing.assert_allclose(depth, depth.T, atol=12)
    assert (depth > 0).mean() > 0.95


ABS = "2 rows\n3 columns\npixels (flag X Y Z):\n1 1 0 1 0 1\n0 1 2 0 1 2\n5 5 5 4 4 4\n"
ABS += "-70 -60 9 -75 9 -65\n"


def write_abs(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("name", ["x.abs", "x.abs.gz"])
def test_range_images_are_read_from_the_smallest_valid_z(tmp_path: Path, name: str) -> None:
    write_abs(tmp_path / name, ABS)
    assert read_abs(tmp_path / name).tolist() == [[5, 15, 0], [0, 0, 10]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2 rows\n",
        ABS.replace("2 rows", "many rows"),
        ABS.replace("2 rows", "5 rows"),
        ABS.replace("2 rows", "99999 rows"),
        ABS.replace("-65", "low"),
        *(ABS.replace("-75", depth) for depth in ("nan", "inf", "-1e300", "9" * 400)),
        ABS.replace("2 rows", "-2 rows").replace("3 col", "-3 col"),
        ABS.replace("2 rows", "4096 rows").replace("3 col", "4096 col"),
        ABS.replace("1 1 0 1 0 1", " " * 5000),
        ABS.replace("1 1 0 1 0 1", "0 0 0 0 0 0"),
    ],
)
def test_damaged_range_images_are_named(tmp_path: Path, text: str) -> None:
    write_abs(tmp_path / "bad.abs.gz", text)
    with pytest.raises(UserError, match=r"bad\.abs\.gz"):
        read_abs(tmp_path / "bad.abs.gz")


def test_a_gzip_bomb_is_read_no_further_than_its_header_allows(tmp_path: Path) -> None:
    """Half a megabyte that would become half a gigabyte."""
    head = b"9 rows\n9 columns\ntext\n"
    with gzip.open(tmp_path / "bomb.abs.gz", "wb") as file:
        file.write(head)
        for _ in range(100):
            file.write(b"1 " * (1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"bomb\.abs\.gz"):
        read_abs(tmp_path / "bomb.abs.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_range_images_in_capitals_find_their_photos(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    depth = np.add.outer(np.arange(40), np.arange(40)) + 1
    (source / "02463D550.ABS.GZ").write_bytes(gzip.compress(range_image(depth).encode()))
    (source / "02463d550.ABS").write_text(range_image(depth))
    Image.fromarray(depth.astype(np.uint8)).save(source / "02463d551.PPM", "ppm")
    assert notre_dame_pairs(source, tmp_path / "out", 1.0, detect=False) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "02463d550_D.png",
        "02463d550_I.png",
    ]


def test_a_gzip_file_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.abs.gz").write_bytes(gzip.compress(ABS.encode() * 50)[:-30])
    with pytest.raises(UserError, match=r"cut\.abs\.gz"):
        read_abs(tmp_path / "cut.abs.gz")


def range_image(depth: np.ndarray) -> str:
    def line(values: np.ndarray) -> str:
        return " ".join(str(v) for v in values.ravel())

    zeros = line(np.zeros_like(depth))
    body = [line((depth > 0).astype(int)), zeros, zeros, line(depth)]
    return f"{depth.shape[0]} rows\n{depth.shape[1]} columns\ntext\n" + "\n".join(body) + "\n"


def test_notre_dame_pairs_are_cut_alike(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    depth = np.zeros((8, 12))
    depth[3, 4], depth[3, 7], depth[0, 5] = 50, 80, 30  # the lowest becomes 0, as if invalid
    write_abs(source / "02463d099.abs.gz", range_image(depth))
    photo = np.full((8, 12), 10)
    photo[3, 4] = 200
    save(source / "02463d100.ppm", photo)
    write_abs(source / "04000d001.abs.gz", range_image(depth))  # its photo is missing
    assert notre_dame_pairs(source, tmp_path / "out", 1.0, detect=False) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "02463d099_D.png",
        "02463d099_I.png",
    ]
    cut_depth = pixels(tmp_path / "out" / "02463d099_D.png")
    cut_photo = pixels(tmp_path / "out" / "02463d099_I.png")
    assert cut_depth.shape == cut_photo.shape == (8, 8)  # the centre square begins at column 2
    assert np.unravel_index(cut_photo.argmax(), (8, 8)) == (3, 2)
    assert cut_depth[3, 5] == 255
    assert cut_depth[3, 4] == pytest.approx(255 * 40 / 50, abs=1)  # filled from 20 and 50


def test_centre_cut_takes_the_inverse_of_scale() -> None:
    assert find_face(np.zeros((60, 100)), 2.0, detect=False) == (15, 35, 30, 30)


def test_detected_box_is_scaled_about_its_centre_and_kept_inside(monkeypatch) -> None:
    monkeypatch.setattr(prepare, "detect_faces", lambda grey: [(10, 20, 30, 30)])
    grey = np.zeros((100, 200))  # rows and columns are not swapped, as they were
    assert find_face(grey, 1.0, detect=True) == (10, 20, 30, 30)
    assert find_face(grey, 1.2, detect=True) == (7, 17, 36, 36)
    assert find_face(grey, 2.0, detect=True) == (0, 5, 60, 60)
    monkeypatch.setattr(prepare, "detect_faces", lambda grey: [(0, 0, 30, 30), (9, 9, 40, 40)])
    assert find_face(grey, 1.0, detect=True) is None


def test_photos_without_a_face_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "noise.png", np.random.default_rng(0).integers(0, 255, (48, 48)))
    assert crop_faces(tmp_path / "in", tmp_path / "out", 1.0) == 0
    assert crop_faces(tmp_path / "in", tmp_path / "centre", 1.5, detect=False) == 1
    assert pixels(tmp_path / "centre" / "noise.png").shape == (32, 32, 3)


def test_a_face_in_a_photo_is_found() -> None:
    from skimage.data import astronaut

    photo = astronaut()[:256, 128:384].mean(2)  # her face is about 100 pixels wide, at (115, 95)
    boxes = prepare.detect_faces(photo)
    assert len(boxes) == 1
    top, left, height, width = boxes[0]
    assert abs(top + height / 2 - 115) < 15
    assert abs(left + width / 2 - 95) < 15
    assert 80 < width < 130
    assert find_face(photo, 1.0, detect=True) == boxes[0]


def test_flatten_copies_from_every_depth_and_refuses_equal_names(tmp_path: Path) -> None:
    for person in ("A", "B"):
        (tmp_path / "in" / person).mkdir(parents=True)
        save(tmp_path / "in" / person / f"{person}_1.jpg", np.eye(8) * 200)
    assert flatten(tmp_path / "in", tmp_path / "out") == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["A_1.jpg", "B_1.jpg"]
    save(tmp_path / "in" / "B" / "A_1.jpg", np.eye(8))
    with pytest.raises(UserError, match=r"two files named A_1\.jpg"):
        flatten(tmp_path / "in", tmp_path / "more")


@pytest.mark.parametrize("kind", ["edges", "soft-edges", "blur"])
def test_photo_pairs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    photo = np.zeros((40, 60, 3))
    photo[10:30, 20:40] = [200, 100, 50]
    save(tmp_path / "in" / "p.png", photo)
    assert photo_pairs(tmp_path / "in", tmp_path / "out", kind, 20, 3) == 1
    source, target = (pixels(tmp_path / "out" / f"p_{side}.png") for side in "DI")
    assert source.shape == target.shape == (20, 20, 3)
    assert target[10, 10].tolist() == [255, 128, 64]
    if kind == "soft-edges":
        assert source[10, 10].max() == 0
        assert source[10, 4:6].min() > 200  # along the square's side, in no colour
        assert np.ptp(source, axis=-1).max() == 0
    elif kind == "edges":
        assert source[10, 10].max() == 0
        assert source[5, 5:15].min() > 60 or source[4, 5:15].min() > 60
    else:
        assert 0 < source[10, 4, 0] < source[10, 10, 0]


def test_pictures_of_both_sides_become_pairs(tmp_path: Path) -> None:
    """As pix2pix's data sets are kept: source left, target right."""
    (tmp_path / "in").mkdir()
    both = np.zeros((16, 32, 3))
    both[:8, :16] = 255  # left: bright above
    both[:, 24:] = 255  # right: bright on its right
    save(tmp_path / "in" / "1.png", both)
    assert photo_pairs(tmp_path / "in", tmp_path / "out", "side-by-side", 8, 1) == 1
    source, target = (pixels(tmp_path / "out" / f"1_{side}.png") for side in "DI")
    assert (source[:4] == 255).all()
    assert (source[4:] == 0).all()
    assert (target[:, :4] == 0).all()
    assert (target[:, 4:] == 255).all()


def test_a_broken_photo_is_named_and_the_others_are_done(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no picture")
    save(tmp_path / "in" / "b.png", np.eye(40) * 255)
    assert photo_pairs(tmp_path / "in", tmp_path / "pairs", "blur", 16, 1) == 1
    assert crop_faces(tmp_path / "in", tmp_path / "faces", 1.0, detect=False) == 1
    said = capsys.readouterr().err
    assert said.count("passed over: ") == 2
    assert said.count("a.png: cannot be read as a picture") == 2


def test_a_broken_mesh_is_named_and_the_others_are_done(tmp_path: Path, capsys) -> None:
    source = tmp_path / "in"
    source.mkdir()
    corners = np.array([[0, 0, 0], [1, 0, 0.5], [0, 1, 1]], float)
    for name in ("a", "c"):
        write_ply(source / f"{name}.ply", Mesh(corners, np.array([[0, 1, 2]])))
    (source / "b.ply").write_bytes(b"no mesh")
    (source / "d.ply").symlink_to(source / "c.ply")
    assert meshes_to_depth_maps(source, tmp_path / "out", 8) == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "d.png"]
    said = capsys.readouterr().err
    assert said.count("passed over: ") == 1
    assert "b.ply: is no PLY mesh" in said


def test_meshes_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "x.ply").write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.ply have one name but for folder"):
        meshes_to_depth_maps(tmp_path / "in", tmp_path / "out", 8)
    assert not (tmp_path / "out").exists()


def test_range_images_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "04000d001.abs").write_text("")
    (tmp_path / "04000d001.abs.gz").write_text("")
    with pytest.raises(UserError, match="have one name but for folder and ending"):
        notre_dame_pairs(tmp_path, tmp_path / "out", 1.0)


def test_what_no_pair_was_made_of_is_counted(tmp_path: Path, capsys) -> None:
    source = tmp_path / "in"
    source.mkdir()
    flat, small = range_image(np.ones((8, 8))), range_image(np.ones((4, 4)))
    texts = {"1d001": flat, "2d001": small, "3d001": flat, "4d001": flat[:9], "5d001": flat}
    for name, text in texts.items():
        write_abs(source / f"{name}.abs.gz", text)
    for name in ("2d002", "3d002", "4d002"):
        save(source / f"{name}.ppm", np.eye(8) * 255)
    (source / "5d002.ppm").write_bytes(b"no picture")
    assert notre_dame_pairs(source, tmp_path / "out", 1.0) == 0
    said = capsys.readouterr().err
    assert "left out: 1 without a photo of the next number, " in said
    assert "1 of another size than their photo, 1 without exactly one face\n" in said
    assert said.count("passed over: ") == 2
    assert ".ppm)" not in said  # photos are no files of other formats here


def test_enlarged_photos_get_no_edges_at_the_borders_of_their_pixels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", np.arange(8)[:, None] * 30 + np.zeros((8, 8)))
    assert photo_pairs(tmp_path / "in", tmp_path / "out", "edges", 256, 1) == 1
    photo = pixels(tmp_path / "out" / "a_I.png")
    assert np.abs(np.diff(photo, axis=0)).max() < 10
    assert not pixels(tmp_path / "out" / "a_D.png").any()


def test_existing_files_are_never_mixed_with_new_ones(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "p.png", np.eye(8) * 255)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    for work in (
        lambda: crop_faces(tmp_path / "in", tmp_path / "out", 1.0, detect=False),
        lambda: photo_pairs(tmp_path / "in", tmp_path / "out", "blur", 8, 1),
        lambda: flatten(tmp_path / "in", tmp_path / "out"),
    ):
        with pytest.raises(UserError, match="is not empty"):
            work()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "work",
    [
        lambda a, b: meshes_to_depth_maps(a, b, 8),
        lambda a, b: crop_faces(a, b, 1.0),
        lambda a, b: flatten(a, b),
        lambda a, b: notre_dame_pairs(a, b, 1.0),
    ],
)
def test_folders_without_input_are_named(tmp_path: Path, work) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no"):
        work(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
