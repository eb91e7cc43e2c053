"""Real data into training folders: meshes to depth maps, range images and photos to pairs.

Each function reads a folder and writes PNG files into another that must be new or empty.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from eyescream_py.data.face_boxes import face_boxes
from eyescream_py.image_model.data import (
    by_name,
    by_stem,
    list_files,
    list_pictures,
    read_picture,
    to_bytes,
)
from eyescream_py.image_model.ply import Mesh, read_ply
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import new_folder
from eyescream_py.system.progress import each
from eyescream_py.system.text import BOM
from eyescream_py.system.voice import warn

Box = tuple[int, int, int, int]  # top, left, height, width
SURFACE_POINTS = 100_000
_ABS_LIMIT = 1 << 20  # points; the cameras have 640x480
_FARTHEST = 1e9  # beyond it a depth is no measure of anything
_ABS_WORD = 32  # bytes that a number may take
NOT_ONE_FACE = "without exactly one face"
_ND_NAME = re.compile(r"^(?P<person>.+d)(?P<number>\d+)$")


def save_pixels(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W) or (H, W, 3) as a PNG file, whole or not at all. Raises OSError."""
    with atomic_write(path, synced=False) as file:
        Image.fromarray(pixels).save(file, "png")


def save_grey(path: Path, values: np.ndarray) -> None:
    """Save a plane (H, W), minimum to black and maximum to white; a constant plane is black."""
    save_pixels(path, to_bytes(values))


@contextlib.contextmanager
def passing_over() -> Iterator[None]:
    """A file that cannot be used is named on stderr; the others are done."""
    try:
        yield
    except UserError as error:
        tqdm.write(f"passed over: {error.message}", file=sys.stderr)


def say_left_out(reasons: Counter[str]) -> None:
    """One line on stderr that counts what nothing was made of, where there is any."""
    if reasons:
        warn(f"left out: {', '.join(f'{count} {reason}' for reason, count in reasons.items())}")


def zbuffer(rows: np.ndarray, columns: np.ndarray, z: np.ndarray, size: int) -> np.ndarray:
    """Index (size, size) of the point with the largest z in each pixel, -1 where there is none.

    `rows` and `columns` are integer pixel positions inside 0..size-1, one per point.
    """
    order = np.argsort(z, kind="stable")
    top = np.full(size * size, -1)
    top[(rows * size + columns)[order]] = order  # the last, highest point of a pixel stays
    return top.reshape(size, size)


def fill_rows(depth: np.ndarray) -> np.ndarray:
    """Close gaps: in each row, zeros between two non-zero pixels become their linear blend."""
    filled = depth.copy()
    for row in filled:
        known = np.flatnonzero(row)
        if len(known):
            inside = slice(known[0], known[-1] + 1)
            row[inside] = np.interp(np.arange(known[0], known[-1] + 1), known, row[known])
    return filled


def depth_map(points: np.ndarray, size: int) -> np.ndarray:
    """Points (N, 3), x right, y up, z towards the viewer -> depth (size, size), 0 background.

    The seed's steps: rotate by 90 degrees about z (rows then run along x), shift to >= 0, scale so
    that the wider of both sides is the image, keep the largest z of each pixel, fill the rows.
    """
    turned = np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)
    turned = turned - turned.min(axis=0)
    width = turned[:, :2].max()
    pixels = np.minimum((turned[:, :2] * (size / max(width, 1e-12))).astype(int), size - 1)
    top = zbuffer(pixels[:, 0], pixels[:, 1], turned[:, 2], size)
    return fill_rows(np.where(top >= 0, turned[top, 2], 0.0))


def meshes_to_depth_maps(source: str | Path, target: str | Path, size: int) -> int:
    """Every readable `.ply` of `source` -> a depth map PNG (size x size) of the same name; their
    number.
    """
    files = by_stem(list_files(source, (".ply",), ".ply file", "IN"), "IN")
    target = new_folder(target)
    written = 0
    for number, (stem, path) in enumerate(each(files.items(), "meshes")):
        with passing_over():
            mesh: Mesh = read_ply(path)
            points = mesh.surface_points(SURFACE_POINTS, np.random.default_rng(number))
            save_grey(target / f"{stem}.png", depth_map(points, size))
            written += 1
    return written


def read_abs(path: str | Path) -> np.ndarray:
    """Notre Dame range image (`.abs` or `.abs.gz`) -> depth (rows, columns), 0 where invalid.

    Lines: "R rows", "C columns", a text, then flags, x, y, z with R*C numbers each. Depth is z
    less the smallest valid z. Raises UserError where the file is cut short or something else.
    """
    opener: Callable = gzip.open if str(path).lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            first, second = (file.readline(256).removeprefix(BOM) for _ in range(2))
            rows, columns = (int(line.split()[0]) for line in (first, second))
            if rows < 1 or columns < 1 or rows * columns > _ABS_LIMIT:
                raise ValueError(f"{rows} rows and {columns} columns")
            file.readline(256)
            limit = _ABS_WORD * rows * columns + 2
            flags, _, _, z = (_numbers(file.readline(limit), rows * columns) for _ in range(4))
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{path}: is no readable .abs range image ({error})") from None
    valid = (flags == 1).reshape(rows, columns)
    depth = z.reshape(rows, columns)
    if not valid.any():
        raise UserError(f"{path}: has no valid point")
    if not (np.abs(depth[valid]) < _FARTHEST).all():
        raise UserError(f"{path}: has points without a depth among its valid ones")
    return np.where(valid, depth - depth[valid].min(), 0.0)


def _numbers(line: bytes, count: int) -> np.ndarray:
    values = np.array(line.split(), np.float64)
    if len(values) != count:
        raise ValueError(f"a line holds {len(values)} numbers, not {count}")
    return values


def centre_box(height: int, width: int) -> Box:
    """The largest centred square."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def detect_faces(grey: np.ndarray) -> list[Box]:
    """Boxes of frontal faces in a grey picture (H, W), 0..255, one per face, the largest first.

    The seed used OpenCV's Haar cascade with the same scale factor 1.1 and 5 neighbours.
    """
    found = face_boxes(grey.astype(np.uint8))
    return [(round(top), round(left), round(side), round(side)) for left, top, side in found]


def find_face(grey: np.ndarray, scale: float, detect: bool) -> Box | None:
    """The square to cut: `scale` times the box of the only face, kept inside the picture.

    None unless exactly one face is seen. Without `detect` it is the centre square over `scale`.
    """
    height, width = grey.shape
    if detect:
        boxes = detect_faces(grey)
        if len(boxes) != 1:
            return None
        top, left, tall, wide = boxes[0]
        side = round(max(tall, wide) * scale)
    else:
        top, left, tall, wide = centre_box(height, width)
        side = round(tall / scale)
    side = max(1, min(side, height, width))
    row = min(max(top + (tall - side) // 2, 0), height - side)
    column = min(max(left + (wide - side) // 2, 0), width - side)
    return row, column, side, side


def cut(planes: np.ndarray, box: Box) -> np.ndarray:
    """The part of (..., H, W) inside `box`."""
    top, left, height, width = box
    return planes[..., top : top + height, left : left + width]


def readable_pictures(files: dict[str, Path], channels: int) -> Iterator[tuple[str, np.ndarray]]:
    """(stem, planes) of each of `files` that can be read; the others are named on stderr."""
    for stem, path in each(files.items(), "photos"):
        planes = None
        with passing_over():
            planes = read_picture(path, channels)
        if planes is not None:
            yield stem, planes


def crop_faces(source: str | Path, target: str | Path, scale: float, detect: bool = True) -> int:
    """Cut the one face of every picture of `source`; returns how many pictures had exactly one."""
    files = by_stem(list_pictures(source, "IN"), "IN")
    target = new_folder(target)
    kept, left_out = 0, Counter[str]()
    for stem, colour in readable_pictures(files, 3):
        box = find_face(colour.mean(0), scale, detect)
        if box is None:
            left_out[NOT_ONE_FACE] += 1
            continue
        pixels = np.clip(np.round(cut(colour, box)), 0, 255).astype(np.uint8)
        save_pixels(target / f"{stem}.png", pixels.transpose(1, 2, 0))
        kept += 1
    say_left_out(left_out)
    return kept


def flatten(source: str | Path, target: str | Path) -> int:
    """LFW's folder per person -> one flat folder of copies; their number.

    UserError where two files have the same name.
    """
    files = list_pictures(source, "IN")
    names = [p.name for p in files]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{source}: holds two files named {twice[0]}; rename one of them")
    target = new_folder(target)
    for path in each(files, "files"):
        with open(path, "rb") as copied, atomic_write(target / path.name, synced=False) as file:
            shutil.copyfileobj(copied, file)
    return len(files)


def notre_dame_pairs(
    source: str | Path, target: str | Path, scale: float, detect: bool = True
) -> int:
    """Range images `PERSONdN.abs.gz` and photos `PERSONd(N+1).ppm` -> `_D.png`, `_I.png` pairs.

    Photo and depth are cut alike around the face, and the depth's gaps are filled by rows. Pairs
    without exactly one face or of unequal sizes are left out, as is what cannot be read. Returns
    the number written.
    """
    files = list_files(source, (".abs.gz", ".abs"), ".abs.gz range image", "IN", beside=(".ppm",))
    names = by_name({path: _range_name(path) for path in files}, "IN")
    target = new_folder(target)
    written, left_out = 0, Counter[str]()
    for name, path in each(names.items(), "range images"):
        with passing_over():
            pair = _cut_pair(path, scale, detect)
            if isinstance(pair, str):
                left_out[pair] += 1
                continue
            for side, plane in zip("DI", pair, strict=True):
                save_grey(target / f"{name}_{side}.png", plane)
            written += 1
    say_left_out(left_out)
    return written


def _cut_pair(path: Path, scale: float, detect: bool) -> tuple[np.ndarray, np.ndarray] | str:
    """The depth and grey planes of a range image and its photo around the face; or why there are
    none.
    """
    photo = _next_photo(path)
    if photo is None:
        return "without a photo of the next number"
    depth, grey = read_abs(path), read_picture(photo, 1)[0]
    if depth.shape != grey.shape:
        return "of another size than their photo"
    box = find_face(grey, scale, detect)
    return NOT_ONE_FACE if box is None else (fill_rows(cut(depth, box)), cut(grey, box))


def _range_name(path: Path) -> str:
    """The name of a range image without `.abs` or `.abs.gz`, in whatever case."""
    return re.sub(r"\.abs(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _next_photo(path: Path) -> Path | None:
    match = _ND_NAME.match(_range_name(path))
    if not match:
        return None
    number = str(int(match["number"]) + 1).zfill(len(match["number"]))
    photos = (path.with_name(f"{match['person']}{number}{end}") for end in (".ppm", ".PPM"))
    return next((photo for photo in photos if photo.is_file()), None)


def edge_picture(planes: np.ndarray) -> np.ndarray:
    """(C, H, W) 0..255 -> Canny edges (C, H, W), white on black, blurred by half a pixel."""
    from skimage.feature import canny

    edges = canny(planes.mean(0) / 255, sigma=1.0).astype(np.float32)
    soft = ndimage.gaussian_filter(edges, 0.5)
    return np.broadcast_to(soft, planes.shape)


def soft_edge_picture(planes: np.ndarray) -> np.ndarray:
    """(C, H, W) 0..255 -> how steep its grey is, (C, H, W): the root of Sobel's gradient, so that
    faint edges show, without the edge's direction or colour.
    """
    grey = planes.mean(0)
    steep = np.sqrt(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)))
    return np.broadcast_to(steep.astype(np.float32), planes.shape)


def blurred_picture(planes: np.ndarray) -> np.ndarray:
    """(C, H, W) -> the same, blurred with a standard deviation of a sixteenth of its height."""
    sigma = planes.shape[1] / 16
    return ndimage.gaussian_filter(planes, (0, sigma, sigma))


PAIR_SOURCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edges": edge_picture,
    "soft-edges": soft_edge_picture,
    "blur": blurred_picture,
}


SIDE_BY_SIDE = "side-by-side"


def photo_pairs(source: str | Path, target: str | Path, kind: str, size: int, channels: int) -> int:
    """Photos -> pairs of what is left of a photo (`kind` of PAIR_SOURCES) and the photo itself;
    SIDE_BY_SIDE: pictures of both (A|B, as pix2pix keeps them) -> their left and right halves.

    Centre squares, size x size pixels. Returns the number of pairs.
    """
    files = by_stem(list_pictures(source, "IN"), "IN")
    target = new_folder(target)
    written = 0
    for stem, planes in readable_pictures(files, channels):
        if kind == SIDE_BY_SIDE:
            half = max(planes.shape[2] // 2, 1)
            pair = [_square(planes[:, :, :half], size), _square(planes[:, :, -half:], size)]
        else:
            photo = _square(planes, size)
            pair = [PAIR_SOURCES[kind](photo), photo]
        for side, picture in zip("DI", pair, strict=True):
            _save_planes(target / f"{stem}_{side}.png", picture)
        written += 1
    return written


def _square(planes: np.ndarray, size: int) -> np.ndarray:
    """The centred square of (C, H, W), as (C, size, size)."""
    square = cut(planes, centre_box(*planes.shape[1:]))
    return np.stack([_resized(plane, size) for plane in square])


def _resized(plane: np.ndarray, size: int) -> np.ndarray:
    """A square plane reduced by area means; enlarged it is smooth, as the borders of boxes would
    be edges.
    """
    how = Image.Resampling.BOX if len(plane) >= size else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(plane).resize((size, size), how), np.float32)


def _save_planes(path: Path, planes: np.ndarray) -> None:
    pixels = to_bytes(planes)
    save_pixels(path, pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
