"""The table of docs/inputs.md, held to all systems: the same pictures and folders go through the
reading of the faces' trainers, generate_dataset, srez, image_model, ganless_hd and mln.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyescream_py.cli import generate_dataset
from eyescream_py.data import dataset
from eyescream_py.data.decode import decode_picture
from eyescream_py.data.pictures import PictureError
from eyescream_py.ganless_hd import data as ganless
from eyescream_py.image_model import data as image_model
from eyescream_py.mln import data as mln
from eyescream_py.srez import data as srez
from eyescream_py.system.errors import UserError

SIDE = 250  # LFW's, which generate_dataset demands


def base() -> np.ndarray:
    """Grey, brighter to the right, with a white block at the top left: no two ways up are equal."""
    picture = np.tile(np.linspace(20, 220, SIDE), (SIDE, 1)).round().astype(np.uint8)
    picture[:80, :60] = 255
    return picture


GREY = base()


def saved(picture: Image.Image | np.ndarray, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(file, kind, **how)
    return file.getvalue()


def with_alpha(mode: str) -> Image.Image:
    """The base, whose white block is a hole over hidden black."""
    hidden = GREY.copy()
    hidden[:80, :60] = 0
    picture = Image.fromarray(hidden).convert(mode)
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[:80, :60] = 0
    picture.putalpha(Image.fromarray(alpha))
    return picture


def black_ink() -> Image.Image:
    none = Image.new("L", (SIDE, SIDE))
    return Image.merge("CMYK", (none, none, none, Image.fromarray(255 - GREY)))


def turned(tag: int, by: Image.Transpose) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return saved(Image.fromarray(GREY).transpose(by), "JPEG", exif=exif, quality=95)


def png_of(width: int, height: int) -> bytes:
    small = saved(Image.new("1", (4, 4)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_16(colour_type: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits per value, which Pillow does not write: [H,W,C] uint16."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def rgba_16() -> bytes:
    values = np.repeat((GREY * np.uint16(257)).astype(np.uint16)[..., None], 4, 2)
    values[..., 3] = 65535
    values[:80, :60] = 0
    return png_16(6, values)


def see_through(kind: str) -> bytes:
    """A palette whose entry for the hidden black of the block is transparent."""
    hidden = GREY.copy()
    hidden[:80, :60] = 0
    palette = Image.fromarray(hidden).convert("P")
    return saved(palette, kind, transparency=palette.getpixel((5, 5)))


RGB = Image.fromarray(GREY).convert("RGB")
BLACK = Image.new("RGB", (SIDE, SIDE))
TAKEN = {
    "grey.jpg": saved(GREY, "JPEG", quality=95),
    "colour.jpg": saved(RGB, "JPEG", quality=95),
    "colour.jpeg": saved(RGB, "JPEG", quality=95),
    "LOUD.JPG": saved(RGB, "JPEG", quality=95),
    "grey.png": saved(GREY, "PNG"),
    "colour.bmp": saved(RGB, "BMP"),
    "colour.ppm": saved(RGB, "PPM"),
    "grey.pgm": saved(GREY, "PPM"),
    "colour.webp": saved(RGB, "WEBP", lossless=True),
    "webp_named.jpg": saved(RGB, "WEBP", lossless=True),
    "png_named.jpg": saved(RGB, "PNG"),
    "palette.gif": saved(GREY, "GIF"),
    "palette.png": saved(Image.fromarray(GREY).convert("P"), "PNG"),
    "colour.tif": saved(RGB, "TIFF"),
    "16_bit.png": saved((GREY * np.uint16(257)).astype(np.uint16), "PNG"),
    "16_bit.tif": saved((GREY * np.uint16(257)).astype(np.uint16), "TIFF"),
    "12_bit.pgm": b"P5 250 250 4095\n" + (GREY.astype(int) * 4095 // 255).astype(">u2").tobytes(),
    "32_bit.tif": saved((GREY.astype(np.int64) << 23).astype(np.int32), "TIFF"),
    "float.tif": saved(((GREY.astype(np.float32) - 20) / 235), "TIFF"),
    "rgba.png": saved(with_alpha("RGB"), "PNG"),
    "la.png": saved(with_alpha("L"), "PNG"),
    "cmyk.jpg": saved(black_ink(), "JPEG", quality=95),
    "pair.mpo": saved(RGB, "MPO", save_all=True, append_images=[RGB], quality=95),
    "16_bit_rgba.png": rgba_16(),
    "see_through.png": see_through("PNG"),
    "see_through.gif": see_through("GIF"),
    "film.webp": saved(RGB, "WEBP", lossless=True, save_all=True, append_images=[BLACK]),
    "film.png": saved(RGB, "PNG", save_all=True, append_images=[BLACK]),
    "pages.tif": saved(RGB, "TIFF", save_all=True, append_images=[BLACK]),
    "cmyk.tif": saved(black_ink(), "TIFF"),
    "mpo_named.jpg": saved(RGB, "MPO", save_all=True, append_images=[BLACK], quality=95),
    "orientation_2.jpg": turned(2, Image.Transpose.FLIP_LEFT_RIGHT),
    "orientation_3.jpg": turned(3, Image.Transpose.ROTATE_180),
    "orientation_4.jpg": turned(4, Image.Transpose.FLIP_TOP_BOTTOM),
    "orientation_5.jpg": turned(5, Image.Transpose.TRANSPOSE),
    "orientation_7.jpg": turned(7, Image.Transpose.TRANSVERSE),
    "orientation_6.jpg": turned(6, Image.Transpose.ROTATE_90),
    "orientation_8.jpg": turned(8, Image.Transpose.ROTATE_270),
}
REFUSED = {
    "empty.jpg": (b"", "empty file"),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "text.png": (b"<html>not found</html>", "text"),
    "mac.jpg": (bytes.fromhex("0005160700020000") + bytes(99), "Mac"),
    "jpeg_2000.jpg": (saved(RGB, "JPEG2000"), "JPEG 2000"),
    "svg.jpg": (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "SVG"),
    "album.png": (b"8BPS\0\1" + bytes(30), "Photoshop"),
    "cut.tif": (saved(RGB, "TIFF", compression="tiff_lzw")[:2000], "cut short"),
    "solid.webp": (saved(Image.new("RGB", (7000, 7000)), "WEBP", lossless=True), "no photo"),
    "iphone.jpg": (b"\0\0\0\x18ftypheic" + bytes(40), "heic"),
    "truncated.jpg": (TAKEN["colour.jpg"][:-2000], "truncated"),
    "truncated.png": (TAKEN["grey.png"][: len(TAKEN["grey.png"]) // 2], "damaged"),
    "bomb.png": (png_of(20000, 10000), "pixels are too many"),
    "monster.png": (png_of(60000, 60000), "more pixels than any photo"),
}


def by_mln(path: Path) -> np.ndarray:
    images = mln.load_images(str(path.parent), 9, SIDE)
    return np.asarray(Image.fromarray(images[0]).resize((SIDE, SIDE)))


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "train.py": lambda path: decode_picture(path, 1, SIDE)[0],
    "generate_dataset": lambda path: np.asarray(generate_dataset._read_photo(path))[..., 1],
    "srez": lambda path: np.asarray(srez.open_picture(path))[..., 1],
    "image_model": lambda path: image_model.read_picture(path, 1)[0],
    "ganless_hd": lambda path: ganless.load_photo(path)[..., 1],
    "mln": by_mln,
}


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("system", READERS)
def test_a_picture_means_the_same_to_all(system: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(TAKEN[name])
    seen = READERS[system](path).astype(float)
    expected = GREY.astype(float)
    if name == "float.tif":  # scaled by its own range
        expected = (expected - 20) / 235 * 255
    assert seen.shape == (SIDE, SIDE)
    difference = np.abs(seen - expected)
    # mln scales to 256 and back, JPEG has edges of its own; the middle of each part is exact
    assert np.median(difference) <= 1
    assert difference.mean() < 3
    assert np.abs(seen[20:60, 15:45] - expected[20:60, 15:45]).max() <= 2


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("system", READERS)
def test_what_is_no_picture_says_why(system: str, name: str, tmp_path: Path, capsys) -> None:
    content, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((PictureError, UserError), match=r"^[^\n]+$") as refused:
        READERS[system](path)
    said = str(refused.value) + capsys.readouterr().err
    assert reason in said
    assert "Traceback" not in said


PICTURE = TAKEN["grey.jpg"]


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)


def flat(folder: Path) -> None:
    put(folder, "1.jpg", "2.png", "3.webp", "4.bmp", "5.tiff")


def deep(folder: Path) -> None:
    put(folder, "lfw/lfw-deepfunneled/Ann/Ann_0001.jpg", "a/1.jpg", "a/b/2.jpg", "a/b/c/d/e/3.jpg")


def loud(folder: Path) -> None:
    put(folder, "A.JPG", "B.JPEG", "C.Png")


def other_formats(folder: Path) -> None:
    put(folder, "1.jpg", "2.heic", "3.heic", "notes.txt", "README")


def mac_s_zip(folder: Path) -> None:
    put(folder, "a.jpg")
    for name in ("._a.jpg", "__MACOSX/._a.jpg", "__MACOSX/b.jpg"):
        put(folder, name)
        (folder / name).write_bytes(bytes.fromhex("0005160700020000") + bytes(99))


def folder_like_a_picture(folder: Path) -> None:
    put(folder, "a.jpg")
    (folder / "album.jpg").mkdir()


def linked_once(folder: Path) -> None:
    put(folder.parent / "elsewhere", "x.jpg")
    put(folder, "a/1.jpg")
    os.symlink(folder.parent / "elsewhere", folder / "more")
    os.symlink("a", folder / "again")


def loop(folder: Path) -> None:
    put(folder, "a/1.jpg")
    os.symlink("..", folder / "a" / "up")
    os.symlink("round.jpg", folder / "round.jpg")


def broken_link(folder: Path) -> None:
    put(folder, "1.jpg")
    os.symlink("nowhere.jpg", folder / "gone.jpg")


def pipe(folder: Path) -> None:
    put(folder, "1.jpg")
    os.mkfifo(folder / "pipe.jpg")


def socket_like_a_picture(folder: Path) -> None:
    put(folder, "1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "s.jpg"))


def long_and_broken_names(folder: Path) -> None:
    put(folder, "1.jpg", "a\nb.jpg", "n" * 251 + ".jpg")
    (folder / "not\na.jpg").symlink_to("nowhere")


def bytes_for_names(folder: Path) -> None:
    put(folder, "1.jpg")
    with open(os.path.join(os.fsencode(folder), b"Jos\xe9.jpg"), "wb") as file:
        file.write(PICTURE)


def blanks(folder: Path) -> None:
    put(folder, "Fotos José/ein Bild.jpg", "-rf.jpg", "a'b.jpg")


FOLDERS: dict[Callable[[Path], None], tuple[list[str], str]] = {
    flat: (["1.jpg", "2.png", "3.webp", "4.bmp", "5.tiff"], ""),
    deep: (["a/1.jpg", "a/b/2.jpg", "a/b/c/d/e/3.jpg",
            "lfw/lfw-deepfunneled/Ann/Ann_0001.jpg"], ""),
    loud: (["A.JPG", "B.JPEG", "C.Png"], ""),
    other_formats: (["1.jpg"], "4 of other formats (.heic, no ending, .txt)"),
    mac_s_zip: (["a.jpg"], "2 hidden: ._a.jpg, __MACOSX"),
    folder_like_a_picture: (["a.jpg"], ""),
    linked_once: (["a/1.jpg", "more/x.jpg"], "1 backward link: again"),
    loop: (["a/1.jpg"], "1 broken link: round.jpg, 1 backward link: a/up"),
    broken_link: (["1.jpg"], "1 broken link: gone.jpg"),
    pipe: (["1.jpg"], "1 no regular file: pipe.jpg"),
    socket_like_a_picture: (["1.jpg"], "1 no regular file: s.jpg"),
    long_and_broken_names: (
        ["1.jpg", "a\nb.jpg", "n" * 251 + ".jpg"], "1 broken link: not\\na.jpg",
    ),
    bytes_for_names: (["1.jpg", "Jos\udce9.jpg"], ""),
    blanks: (["-rf.jpg", "Fotos José/ein Bild.jpg", "a'b.jpg"], ""),
}  # fmt: skip


def listed_by_faces(folder: Path) -> list[str]:
    found = dataset._listed(folder)
    dataset.load_dataset(folder, 1, 8, cache=False, progress=False)
    return found.names


def listed_by_generate(folder: Path) -> list[str]:
    found = generate_dataset._photos_in(folder)
    generate_dataset._report(generate_dataset.Job(folder, folder, folder, 1), found, [])
    return found.names


def listed_by_ganless(folder: Path) -> list[str]:
    found = ganless.find_photos([folder])
    print(found.left_out)
    return [path.relative_to(folder).as_posix() for path in found.paths]


def listed_by_image_model(folder: Path) -> list[str]:
    paths = image_model.list_pictures(folder, "--synth_dir")
    return [path.relative_to(folder).as_posix() for path in paths]


LISTERS: dict[str, Callable[[Path], list[str] | int]] = {
    "train.py": listed_by_faces,
    "generate_dataset": listed_by_generate,
    "srez": srez.list_pictures,
    "image_model": listed_by_image_model,
    "ganless_hd": listed_by_ganless,
    "mln": lambda folder: len(mln.load_images(str(folder), 99, 8)),
}


@pytest.mark.parametrize("build", FOLDERS)
@pytest.mark.parametrize("system", LISTERS)
def test_a_folder_means_the_same_to_all(
    system: str, build: Callable[[Path], None], tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    build(folder)
    names, line = FOLDERS[build]
    found = LISTERS[system](folder)
    assert (sorted(found) if isinstance(found, list) else found) in (sorted(names), len(names))
    said = "".join(capsys.readouterr())
    assert (f"left out: {line}" in said) if line else "left out" not in said


def test_one_opener_and_one_walk_in_the_package() -> None:
    package = Path(__file__).parents[1] / "eyescream_py"
    text = {p.relative_to(package).as_posix(): p.read_text("utf-8") for p in package.rglob("*.py")}
    assert [name for name, code in text.items() if "Image.open(" in code] == ["data/pictures.py"]
    walks = {name for name, code in text.items() if "os.walk(" in code or ".rglob(" in code}
    assert walks == set()
