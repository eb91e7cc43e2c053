"""The one way in for picture files: which formats, which way up, which grey.

Every system of the package opens pictures here, so that a photo means the same to all of them.
Imports no torch, so that worker processes start fast.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from eyescream_py.system.text import BOM
from eyescream_py.system.voice import warn
from eyescream_py.torch7.image import LUMA

# By content, whatever the name ends in. None of them starts a program, as EPS would. Pillow's JPEG
# reader takes MPO (a camera's pair of JPEGs) too.
FORMATS = ("JPEG", "PNG", "PPM", "WEBP", "BMP", "TIFF", "GIF")
ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".webp",
    ".bmp", ".tif", ".tiff", ".gif",
)  # fmt: skip
IN_WORDS = "JPEG, PNG, PPM/PGM, WebP, BMP, TIFF or GIF"
MAX_PIXELS = 50_000_000  # decoded at most: beyond what photos have
MAX_JPEG_PIXELS = 178_000_000  # in the file: JPEG can be decoded at a half, a quarter, an eighth
# Beyond both, a few bytes ask for much memory: values (of all channels), values per byte of file.
THIN_VALUES, VALUES_PER_BYTE = 12_000_000, 10_000
_ORIENTATION = 0x0112  # the EXIF tag
_BITS_TAG, _WHITE_TAG, _SAMPLE_FORMAT_TAG = 258, 262, 339  # of TIFF
_SIGNED = 2  # a sample format
_RANGES = (255, 65535, 2**31 - 1, 2**32 - 1)  # 32 bits often hold what was 8 or 16
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OWN = (b"\x89PNG", b"GIF8", b"BM")
_OF_MANY_KINDS = {"JPEG": (b"\xff\xd8\xff",), "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")}
_FOREIGN = (
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"<", "text (HTML, SVG or XML)"),
    (b"version https://git-lfs", "a Git LFS pointer (`git lfs pull` fetches the real file)"),
    (b"v/1\x01", "an OpenEXR file"),
    (b"gimp xcf", "a GIMP file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x00\x05\x16\x07", "a Mac's companion file"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL file"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"P7\n", "a PAM file"),
    (b"DDS ", "a DDS texture"),
)
Source = str | os.PathLike[str] | bytes

# The limits above judge, in words; Pillow's own warnings say nothing that a person could act on.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS
warnings.filterwarnings("ignore", module=r"PIL\.")


class PictureError(Exception):
    """Why a file cannot be used as a picture, without its name."""


def open_picture(source: Source, mode: str = "", *, alpha: bool = False) -> Image.Image:
    """A file's (or bytes') picture, decoded, upright, 8 bits per value, opaque on white.

    mode: "RGB", "L" (Rec. 601 luma), or "" for L where the picture is grey, else RGB. alpha: hand
    out RGBA (LA for grey) where the picture has transparency. Grey of 12, 16 or 32 bits is scaled
    by its type's range, floats by the picture's own. A JPEG over `MAX_PIXELS` comes at a half, a
    quarter or an eighth of its size. Raises PictureError with the reason.
    """
    with opened(source) as picture:
        if _is_deep(picture):
            values = np.rint(deep_values(picture) * np.float32(255))
            image = _turned(Image.fromarray(values.astype(np.uint8)), _orientation(picture))
            return image.convert(mode) if mode else image
        upright = _turned(_decoded(picture), _orientation(picture))
        if upright.has_transparency_data:
            return _transparent(upright, mode) if alpha else _on_white(upright, mode)
        if upright.mode == "LAB":  # which Pillow converts to nothing else
            upright = upright.convert("RGB")
        return upright.convert(mode or _plain_mode(upright))


def read_pixels(source: Source, mode: str = "") -> np.ndarray:
    """`open_picture` as float32 (H,W) or (H,W,3) in 0..255, without rounding: grey of more than 8
    bits and the luma of colours keep their fractions."""
    with opened(source) as picture:
        if _is_deep(picture):
            grey = _turned(Image.fromarray(deep_values(picture) * 255), _orientation(picture))
            values = np.asarray(grey, np.float32)
            return np.repeat(values[..., None], 3, 2) if mode == "RGB" else values
        if mode == "L":  # a JPEG's own luma plane: no colour is computed
            picture.draft("L", picture.size)
        upright = _turned(_decoded(picture), _orientation(picture))
        plain = _plain_mode(upright) if mode == "L" else mode  # colours become grey below
        if upright.has_transparency_data:
            values = np.asarray(_on_white(upright, plain), np.float32)
        else:
            values = np.asarray(upright.convert(plain or _plain_mode(upright)), np.float32)
        return values @ np.asarray(LUMA, np.float32) if mode == "L" and values.ndim == 3 else values


def picture_size(source: Source) -> tuple[int, int]:
    """(width, height) as a viewer shows it, from the header alone. Raises PictureError."""
    with opened(source, reduce=False) as picture:
        width, height = picture.size
        return (height, width) if _orientation(picture) in (5, 6, 7, 8) else (width, height)


@contextlib.contextmanager
def opened(source: Source, reduce: bool = True) -> Iterator[Image.Image]:
    """A picture whose header is read and whose size is allowed; pixels are not decoded yet.

    What is wrong with it inside the block is a PictureError too. reduce: ask large JPEGs for a
    smaller decoding.
    """
    try:
        with _stream(source) as stream, Image.open(stream, formats=FORMATS) as picture:
            _check_size(picture, reduce)
            _check_density(picture, stream)
            yield picture
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError("more pixels than any photo has") from error
    except Exception as error:  # Pillow's readers raise a dozen kinds on damaged files
        raise PictureError(_reason(error, source)) from error


@contextlib.contextmanager
def _stream(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    # Not blocking: a named pipe would be waited for, perhaps for ever.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        kind = os.fstat(descriptor)
        if not stat.S_ISREG(kind.st_mode):
            raise PictureError("no regular file")
        if kind.st_size == 0:
            raise PictureError("an empty file")
        yield file


def _check_size(picture: Image.Image, reduce: bool) -> None:
    width, height = picture.size
    most = MAX_JPEG_PIXELS if picture.format in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > most:
        raise PictureError(_too_many(f"{width}x{height} pixels are too many", most))
    if not width * height:
        raise PictureError("it has no pixels")
    if reduce and width * height > MAX_PIXELS:
        part = next(n for n in (2, 4, 8) if width * height <= MAX_PIXELS * n * n)
        picture.draft(None, (width // part, height // part))


def _check_density(picture: Image.Image, stream: BinaryIO) -> None:
    place, size = stream.tell(), stream.seek(0, os.SEEK_END)
    stream.seek(place)
    width, height = picture.size
    values = width * height * len(picture.getbands())
    if values > THIN_VALUES and values > VALUES_PER_BYTE * size:
        raise PictureError(f"{width}x{height} pixels in {size} bytes are no photo")


def _too_many(what: str, most: int = MAX_PIXELS) -> str:
    return f"{what} (at most {most // 1_000_000} million)"


def _decoded(picture: Image.Image) -> Image.Image:
    picture.load()
    return picture


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data are no reason to lose the picture
        return 1


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def _plain_mode(picture: Image.Image) -> str:
    return "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"


def _transparent(picture: Image.Image, mode: str) -> Image.Image:
    return picture.convert("LA" if (mode or _plain_mode(picture)) == "L" else "RGBA")


def _on_white(picture: Image.Image, mode: str) -> Image.Image:
    layer = picture.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return flat.convert(mode or _plain_mode(picture))


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I") or _is_signed_byte(picture)


def _is_signed_byte(picture: Image.Image) -> bool:
    return picture.mode == "L" and _tiff(picture, _SAMPLE_FORMAT_TAG) == _SIGNED


def _tiff(picture: Image.Image, tag: int) -> int | None:
    """What a TIFF says under a tag, of its first channel; None where it or the tag is none."""
    value = getattr(picture, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def deep_values(picture: Image.Image) -> np.ndarray:
    """Grey of more than 8 bits -> float32 (H,W) in 0..1, not turned; transparent values are 1."""
    values = np.asarray(_decoded(picture))
    if _is_signed_byte(picture):
        values = values.view(np.int8)
    clear = picture.info.get("transparency")
    scaled = _by_own_range(values) if picture.mode == "F" else _by_type(values, picture)
    if picture.mode != "L" and _tiff(picture, _WHITE_TAG) == 0:  # 0 is white, not black
        scaled = 1 - scaled
    return np.where(values == clear, np.float32(1), scaled) if isinstance(clear, int) else scaled


def _by_type(values: np.ndarray, picture: Image.Image) -> np.ndarray:
    """Integers by the largest value of their type."""
    bits, signed = _tiff(picture, _BITS_TAG), _tiff(picture, _SAMPLE_FORMAT_TAG) == _SIGNED
    if picture.mode.startswith("I;"):  # 16 bits, or TIFF's 12
        return values.astype(np.float32) / np.float32(4095 if bits == 12 else 65535)
    if picture.format in ("PNG", "PPM"):
        return values.astype(np.float32) / np.float32(65535)
    if picture.mode == "I" and not signed:
        values = values.view(np.uint32)
    if values.min() < 0:
        return _by_own_range(values)
    highest = int(values.max())
    ranges = {8: (127,), 16: (255, 32767)}.get(bits or 0, _RANGES) if signed else _RANGES
    most = next(m for m in ranges if highest <= m)
    return (values / most).astype(np.float32)


def _by_own_range(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise PictureError("it holds values that are no numbers")
    if high == low:
        return np.full(values.shape, min(max(low, 0.0), 1.0), np.float32)
    _say_once("Pictures of floats or signed numbers: the lowest value is black, the highest white.")
    return ((values - np.float64(low)) / (high - low)).astype(np.float32)


@functools.cache
def _say_once(text: str) -> None:
    warn(text)


def _reason(error: Exception, source: Source) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        kind = _foreign(source)
        return kind if kind.endswith("not read") else f"{kind}: no {IN_WORDS} picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory for it"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"damaged ({text})"


def _foreign(source: Source) -> str:
    """What a file seems to be whose content is no picture that we read."""
    try:
        with _stream(source) as stream:
            start = stream.read(64)
    except (OSError, PictureError):
        return "unreadable"
    start = start.removeprefix(BOM)
    if start.startswith(_OWN) or start[8:12] == b"WEBP":
        return "damaged, or cut short"
    for kind, marks in _OF_MANY_KINDS.items():
        if start.startswith(marks):
            return f"damaged, cut short, or a kind of {kind} that is not read"
    if start[4:8] == b"ftyp":
        return f"a file of type {start[8:12].decode('ascii', 'replace')} (HEIC, AVIF or a film)"
    kind = next((words for magic, words in _FOREIGN if start.lstrip().startswith(magic)), "")
    # PPM and its kin begin with letters too
    if not kind and start[:1] != b"P" and start.isascii() and start.decode().split():
        kind = "text" if all(c.isprintable() or c.isspace() for c in start.decode()) else ""
    return kind or "an unknown format, or damaged at its start"
