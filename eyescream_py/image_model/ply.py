"""PLY meshes: ASCII and binary files in, binary little-endian files out (Turk 1994)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write, open_to_read
from eyescream_py.system.text import BOM

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_HEADER_LIMIT = 64 * 1024
_FILE_LIMIT = 1 << 29  # bytes; heads have a few million
_FARTHEST = 1e15  # a coordinate whose square and sums are still good numbers


@dataclass(frozen=True)
class Mesh:
    """`vertices` float64 (N, 3) and `triangles` int64 (M, 3) of indices into them; M may be 0."""

    vertices: np.ndarray
    triangles: np.ndarray

    def surface_points(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` points (count, 3) spread evenly over the surface; the vertices if no triangles.

        Stratified in area: each 1/count of the surface gets one point.
        """
        if not len(self.triangles):
            return self.vertices
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        areas = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
        targets = (np.arange(count) + rng.random(count)) / count * areas[-1]
        chosen = np.minimum(np.searchsorted(areas, targets, side="right"), len(areas) - 1)
        u, v = rng.random((2, count, 1))
        outside = u + v > 1
        u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
        return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]


def write_ply(path: str | Path, mesh: Mesh) -> None:
    """Write `mesh` as binary little-endian PLY with float32 vertices and int32 faces."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.triangles)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(mesh.triangles), [("n", "u1"), ("i", "<i4", 3)])
    faces["n"], faces["i"] = 3, mesh.triangles
    with atomic_write(path, synced=False) as file:
        file.write(header.encode() + mesh.vertices.astype("<f4").tobytes() + faces.tobytes())


def read_ply(path: str | Path) -> Mesh:
    """Read the vertices and faces of a PLY file (polygons become fans of triangles).

    Raises UserError where the file is no PLY file, is cut short, or holds no vertices.
    """
    try:
        with open_to_read(path) as file:
            data = file.read(_FILE_LIMIT + 1).removeprefix(BOM)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from None
    if len(data) > _FILE_LIMIT:
        raise UserError(f"{path}: is larger than {_FILE_LIMIT >> 20} MB; export a coarser mesh")
    end = data.find(b"end_header", 0, _HEADER_LIMIT)
    if not data.startswith(b"ply") or end < 0:
        raise UserError(f"{path}: is no PLY mesh, it has no PLY header")
    # Where some lines end in CR LF and others in LF, all end in LF.
    last = b"\n" if b"\n" in data[:end] else b"\r"
    body = data[data.find(last, end) + 1 :]
    # Comments may hold anything, in any encoding.
    header = data[:end].decode("latin-1").split(last.decode())
    try:
        form, elements = _parse_header(header)
        tables = (
            _read_ascii(body, elements) if form == "ascii" else _read_binary(body, elements, form)
        )
        mesh = _build_mesh(tables)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: is no readable PLY mesh ({error}); export it anew") from None
    return mesh


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    scalars: list[tuple[str, str]]  # (name, NumPy type) of each single property
    lists: list[tuple[str, str, str]]  # (name, count type, item type)


def _parse_header(lines: list[str]) -> tuple[str, list[_Element]]:
    form = ""
    elements: list[_Element] = []
    for words in (line.split() for line in lines):
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2]), [], []))
        elif words[:2] == ["property", "list"]:
            elements[-1].lists.append((words[4], _TYPES[words[2]], _TYPES[words[3]]))
        elif words[:1] == ["property"]:
            elements[-1].scalars.append((words[2], _TYPES[words[1]]))
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"format {form or 'missing'}")
    for element in elements:
        if element.count < 0:
            raise ValueError(f"element {element.name} has {element.count} rows")
        if any("f" in kinds[1] + kinds[2] for kinds in element.lists):
            raise ValueError(f"element {element.name} counts or names corners in fractions")
        if element.lists and (element.scalars or len(element.lists) > 1):
            raise ValueError(f"element {element.name} mixes a list with other properties")
    return form, elements


def _read_ascii(body: bytes, elements: list[_Element]) -> dict[str, Any]:
    lines = body.decode("ascii").splitlines()
    tables: dict[str, Any] = {}
    at = 0
    for element in elements:
        if element.count > len(lines) - at:
            raise ValueError(f"it ends within its element {element.name}")
        rows = [line.split() for line in lines[at : at + element.count]]
        at += element.count
        if element.lists:
            tables[element.name] = [
                [int(word) for word in row[1 : 1 + int(row[0])]] for row in rows
            ]
        else:
            values = np.array(rows, np.float64).reshape(len(rows), len(element.scalars))
            tables[element.name] = {
                name: values[:, i] for i, (name, _) in enumerate(element.scalars)
            }
    return tables


def _read_binary(body: bytes, elements: list[_Element], form: str) -> dict[str, Any]:
    order = "<" if form == "binary_little_endian" else ">"
    tables: dict[str, Any] = {}
    at = 0
    for element in elements:
        if element.lists:
            tables[element.name], at = _read_lists(body, at, element, order)
            continue
        row = np.dtype([(name, order + kind) for name, kind in element.scalars])
        values = np.frombuffer(body, row, element.count, at)
        tables[element.name] = {name: values[name] for name, _ in element.scalars}
        at += values.nbytes
    return tables


def _read_lists(body: bytes, at: int, element: _Element, order: str) -> tuple[Any, int]:
    """All rows at once when they are equally long, as in most meshes, else one by one."""
    _, count_kind, item_kind = element.lists[0]
    length = int(np.frombuffer(body, order + count_kind, 1, at)[0]) if element.count else 0
    row = np.dtype([("n", order + count_kind), ("i", order + item_kind, (length,))])
    if at + row.itemsize * element.count <= len(body):
        rows = np.frombuffer(body, row, element.count, at)
        if (rows["n"] == length).all():
            return rows["i"], at + rows.nbytes
    rows_read = []
    for _ in range(element.count):
        number = int(np.frombuffer(body, order + count_kind, 1, at)[0])
        if number < 0:
            raise ValueError(f"a row of {element.name} has {number} corners")
        at += np.dtype(count_kind).itemsize
        items = np.frombuffer(body, order + item_kind, number, at)
        rows_read.append(items.tolist())
        at += items.nbytes
    return rows_read, at


def _build_mesh(tables: dict[str, Any]) -> Mesh:
    vertex = tables["vertex"]
    vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
    if not len(vertices) or not (np.abs(vertices) < _FARTHEST).all():
        raise ValueError("no vertices, or vertices that are nowhere")
    triangles = _fan(tables.get("face", []))
    if triangles.size and (triangles.min() < 0 or triangles.max() >= len(vertices)):
        raise ValueError("a face names a vertex that does not exist")
    return Mesh(vertices, triangles)


def _fan(faces: Any) -> np.ndarray:
    """Polygons as triangles that share the first corner."""
    if isinstance(faces, np.ndarray) and faces.ndim == 2:
        corners = faces.astype(np.int64)
        fans = [corners[:, [0, i, i + 1]] for i in range(1, corners.shape[1] - 1)]
        return np.concatenate(fans) if fans else np.empty((0, 3), np.int64)
    fan = [(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)]
    return np.array(fan, np.int64).reshape(-1, 3)
