import struct
from pathlib import Path

import numpy as np
import pytest

from eyescream_py.image_model.ply import Mesh, read_ply, write_ply
from eyescream_py.system.errors import UserError

TETRAHEDRON = Mesh(
    np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]),
)
ASCII = """ply
format ascii 1.0
comment a square of one quad
element vertex 4
property float x
property float y
property float z
property uchar red
element face 1
property list uchar int vertex_indices
end_header
0 0 0 9
2 0 0 9
2 2 0 9
0 2 0 9
4 0 1 2 3
"""


def test_binary_round_trip(tmp_path: Path) -> None:
    write_ply(tmp_path / "t.ply", TETRAHEDRON)
    mesh = read_ply(tmp_path / "t.ply")
    np.testing.assert_array_equal(mesh.vertices, TETRAHEDRON.vertices)
    np.testing.assert_array_equal(mesh.triangles, TETRAHEDRON.triangles)


def test_ascii_with_extra_properties_and_a_polygon(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text(ASCII)
    mesh = read_ply(tmp_path / "a.ply")
    assert mesh.vertices.tolist() == [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("odd", ["comment a square of one quad\n", "ply\n", "end_header\n"])
def test_a_line_that_ends_as_another_system_has_it(odd: str, tmp_path: Path) -> None:
    text = ASCII.replace(odd, odd.replace("\n", "\r\n"))
    (tmp_path / "a.ply").write_bytes(text.encode())
    assert len(read_ply(tmp_path / "a.ply").triangles) == 2


def test_big_endian_with_faces_of_unequal_length(tmp_path: Path) -> None:
    header = ASCII.split("end_header")[0].replace("ascii", "binary_big_endian")
    header = header.replace("property uchar red\n", "").replace("face 1", "face 2")
    body = np.arange(12, dtype=">f4").tobytes()
    body += struct.pack(">B4i", 4, 0, 1, 2, 3) + struct.pack(">B3i", 3, 0, 2, 3)
    (tmp_path / "b.ply").write_bytes(f"{header}end_header\n".encode() + body)
    mesh = read_ply(tmp_path / "b.ply")
    assert mesh.vertices.ravel().tolist() == list(range(12))
    assert mesh.triangles.tolist() == [[0, 2, 3], [0, 1, 2], [0, 2, 3]] or sorted(
        mesh.triangles.tolist()
    ) == [[0, 1, 2], [0, 2, 3], [0, 2, 3]]


def test_surface_points_spread_by_area() -> None:
    vertices = np.array([[0.0, 0, 0], [3, 0, 0], [0, 1, 0], [9, 9, 0], [10, 9, 0], [9, 10, 0]])
    mesh = Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]))  # areas 1.5 and 0.5
    points = mesh.surface_points(4000, np.random.default_rng(0))
    assert points.shape == (4000, 3)
    small = points[:, 0] > 5
    assert small.sum() == 1000
    large = points[~small]
    assert (large[:, 0] / 3 + large[:, 1] <= 1 + 1e-9).all()
    np.testing.assert_allclose(large.mean(0), [1, 1 / 3, 0], atol=0.02)


def test_points_without_faces_are_the_vertices(tmp_path: Path) -> None:
    cloud = Mesh(TETRAHEDRON.vertices, np.empty((0, 3), np.int64))
    assert cloud.surface_points(10, np.random.default_rng(0)) is cloud.vertices
    write_ply(tmp_path / "cloud.ply", cloud)
    assert read_ply(tmp_path / "cloud.ply").triangles.shape == (0, 3)


BOMB = b"ply\nformat binary_little_endian 1.0\nelement face 2000000000\n"
BOMB += b"property list char int i\nend_header\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"solid stl",
        b"ply\nformat ascii 1.0\nend_header\n",
        ASCII.replace("4 0 1 2 3", "4 0 1 2 7").encode(),
        ASCII.replace("2 2 0 9", "2 nan 0 9").encode(),
        ASCII.replace("vertex 4", "vertex 99").encode(),
        ASCII.replace("vertex 4", "vertex -4").encode(),
        ASCII.replace("ascii", "binary_little_endian")
        .replace("vertex 4", "vertex 9000000000")
        .encode(),
        ASCII.replace("ascii", "martian").encode(),
        ASCII.replace("2 2 0 9", "2 1e300 0 9").encode(),
        ASCII.replace("vertex 4", "vertex 1" + "0" * 30).encode(),
        ASCII.replace("face 1", "face -1").encode(),
        ASCII.replace("element face", "element vertex").encode(),
        ASCII.replace("list uchar int", "list float int").encode(),
        ASCII.replace("list uchar int", "list uchar double").encode(),
        BOMB + b"\xff" * 3000,
        BOMB.replace(b"list char", b"list int") + b"\xff\xff\xff\x7f" * 20,
        ASCII.replace("float z", "list uchar int z").encode(),
        ASCII.replace("property float x", "property quad x").encode(),
        ASCII.replace("element face 1", "element face").encode(),
    ],
)
def test_damaged_meshes_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ply: is no"):
        read_ply(tmp_path / "bad.ply")
