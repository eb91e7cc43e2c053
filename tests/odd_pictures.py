"""Odd pictures as bytes: what every system must take, and what none may."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

BLOCK = (slice(80), slice(56))  # white, at the top left


@functools.cache
def base(side: int) -> np.ndarray:
    """Grey, brighter to the right, with a white block at the top left: no two ways up are equal."""
    picture = np.tile(np.linspace(20, 220, side), (side, 1)).round().astype(np.uint8)
    picture[BLOCK] = 255
    return picture


def saved(picture: Image.Image | np.ndarray, kind: str, **how: object) -> bytes:
    """The bytes of a file; JPEGs lose next to nothing."""
    file = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    if kind in ("JPEG", "MPO"):
        how = {"quality": 100, "subsampling": 0, **how}
    image.save(file, kind, **how)
    return file.getvalue()


def hidden(grey: np.ndarray) -> np.ndarray:
    """The base with black where its white block was."""
    return np.where(grey == 255, 0, grey).astype(np.uint8)


def with_alpha(grey: np.ndarray, mode: str) -> Image.Image:
    """The base, whose white block is a hole over hidden black."""
    picture = Image.fromarray(hidden(grey)).convert(mode)
    picture.putalpha(Image.fromarray(np.where(grey == 255, 0, 255).astype(np.uint8)))
    return picture


def film(picture: Image.Image, kind: str, **how: object) -> bytes:
    """The picture, and a black one behind it; of copies, in which saving leaves its settings."""
    behind = Image.new(picture.mode, picture.size)
    return saved(picture.copy(), kind, save_all=True, append_images=[behind], **how)


def black_ink(grey: np.ndarray) -> Image.Image:
    none = Image.new("L", grey.shape[::-1])
    return Image.merge("CMYK", (none, none, none, Image.fromarray(255 - grey)))


def turned(grey: np.ndarray, kind: str, tag: int, by: Image.Transpose, **how: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return saved(Image.fromarray(grey).transpose(by), kind, exif=exif, **how)


def png_of(width: int, height: int) -> bytes:
    small = saved(Image.new("1", (4, 4)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour_type: int, bits: int, rows: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG that Pillow does not write; rows: [H,W,C] of 16 bits, or packed bytes [H,W*bits/8]."""
    height, width = rows.shape[:2]
    width = width if rows.ndim == 3 else width * 8 // bits
    packed = rows.astype(">u2" if bits == 16 else "u1")
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def deep(grey: np.ndarray, colours: int) -> np.ndarray:
    """16 bits per value, `colours` times the same."""
    return np.repeat((grey.astype(np.uint16) * 257)[..., None], colours, 2)


def deep_alpha(grey: np.ndarray, colours: int) -> np.ndarray:
    values = deep(hidden(grey), colours + 1)
    values[..., -1] = np.where(grey == 255, 0, 65535)
    return values


def see_through(grey: np.ndarray, kind: str) -> bytes:
    """A palette whose entry for the hidden black of the block is transparent."""
    palette = Image.fromarray(hidden(grey)).convert("P")
    return saved(palette, kind, transparency=palette.getpixel((5, 5)))


def tiff_of(values: np.ndarray, tag: int, old: int, new: int) -> bytes:
    """A TIFF one of whose tags says another thing than Pillow writes; `old` 0: it writes none."""
    if not old:
        return saved(values, "TIFF", tiffinfo={tag: new})
    before, after = (struct.pack("<HHLHH", tag, 3, 1, value, 0) for value in (old, new))
    return saved(values, "TIFF").replace(before, after)


def pnm(head: str, grey: np.ndarray, body: bytes) -> bytes:
    return f"{head.replace('SIDE', f'{len(grey)} {len(grey)}')}\n".encode() + body


def huge_jpeg() -> bytes:
    """12000x9000, which cameras make; grey 60, and 190 on the right half."""
    picture = Image.new("L", (12000, 9000), 60)
    picture.paste(190, (6000, 0, 12000, 9000))
    return saved(picture, "JPEG", quality=50)


def huge_bits() -> bytes:
    """A whole PNG of 20000x10000 single bits."""
    return png(0, 1, np.zeros((10000, 2500), np.uint8))


def plain(grey: np.ndarray) -> dict[str, bytes]:
    """Common formats under common and uncommon names."""
    colour = Image.fromarray(grey).convert("RGB")
    return {
        "grey.jpg": saved(grey, "JPEG"),
        "colour.jpg": saved(colour, "JPEG"),
        "colour.jpeg": saved(colour, "JPEG", progressive=True),
        "LOUD.JPG": saved(colour, "JPEG") + b"behind its end",
        "grey.png": saved(grey, "PNG"),
        "colour.bmp": saved(colour, "BMP"),
        "colour.ppm": saved(colour, "PPM"),
        "grey.pgm": saved(grey, "PPM"),
        "colour.webp": saved(colour, "WEBP", lossless=True),
        "webp_named.jpg": saved(colour, "WEBP", lossless=True),
        "png_named.jpg": saved(colour, "PNG"),
        "palette.gif": saved(grey, "GIF"),
        "palette.png": saved(Image.fromarray(grey).convert("P"), "PNG"),
        "colour.tif": saved(colour, "TIFF"),
        "lzw.tiff": saved(colour, "TIFF", compression="tiff_lzw"),
        "pair.mpo": film(colour, "MPO"),
        "mpo_named.jpg": film(colour, "MPO"),
        "film.webp": film(colour, "WEBP", lossless=True),
        "film.png": film(colour, "PNG"),
        "pages.tif": film(colour, "TIFF"),
        "cmyk.jpg": saved(black_ink(grey), "JPEG"),
        "cmyk.tif": saved(black_ink(grey), "TIFF"),
    }


def unusual(grey: np.ndarray) -> dict[str, bytes]:
    """More or fewer bits than 8, and transparency."""
    wide = grey.astype(np.uint16) * np.uint16(257)
    letters = b" ".join(b"%d" % value for value in grey.ravel())
    return {
        "16_bit.png": saved(wide, "PNG"),
        "16_bit.tif": saved(wide, "TIFF"),
        "16_bit_rgb.png": png(2, 16, deep(grey, 3)),
        "16_bit_rgba.png": png(6, 16, deep_alpha(grey, 3)),
        "16_bit_la.png": png(4, 16, deep_alpha(grey, 1)),
        "16_bit_hole.png": png(0, 16, deep(hidden(grey), 1), chunk(b"tRNS", b"\0\0")),
        "16_bit.ppm": pnm("P6 SIDE 65535", grey, deep(grey, 3).astype(">u2").tobytes()),
        "12_bit.pgm": pnm("P5 SIDE 4095", grey, np.rint(grey / 255 * 4095).astype(">u2").tobytes()),
        "letters.pgm": pnm("P2 SIDE 255", grey, letters),
        "32_bit.tif": saved((grey.astype(np.int64) << 23).astype(np.int32), "TIFF"),
        "signed.tif": tiff_of((grey * np.uint16(128)).astype(np.uint16), 339, 0, 2),
        "white_is_0.tif": tiff_of(65535 - wide, 262, 1, 0),
        "float.tif": saved((grey.astype(np.float32) - 20) / 235, "TIFF"),
        "rgba.png": saved(with_alpha(grey, "RGB"), "PNG"),
        "rgba.webp": saved(with_alpha(grey, "RGB"), "WEBP", lossless=True),
        "la.png": saved(with_alpha(grey, "L"), "PNG"),
        "see_through.png": see_through(grey, "PNG"),
        "see_through.gif": see_through(grey, "GIF"),
    }


WAYS_UP = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@functools.cache
def taken(side: int) -> dict[str, bytes]:
    """Name -> file that means `base(side)` to all."""
    grey = base(side)
    sideways = {f"orientation_{tag}.jpg": turned(grey, "JPEG", tag, by)
                for tag, by in WAYS_UP.items()}  # fmt: skip
    others = {
        "orientation_6.png": turned(grey, "PNG", 6, WAYS_UP[6]),
        "orientation_8.webp": turned(grey, "WEBP", 8, WAYS_UP[8], lossless=True),
        "orientation_5.tif": turned(grey, "TIFF", 5, WAYS_UP[5]),
    }
    return plain(grey) | unusual(grey) | sideways | others


@functools.cache
def refused(side: int) -> dict[str, tuple[bytes, str]]:
    """Name -> file and a word of the reason why it is none."""
    colour, some = Image.fromarray(base(side)).convert("RGB"), taken(side)
    return {
        "empty.jpg": (b"", "empty file"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        "text.png": (b"<html>not found</html>", "text"),
        "mac.jpg": (bytes.fromhex("0005160700020000") + bytes(99), "Mac"),
        "jpeg_2000.jpg": (saved(colour, "JPEG2000"), "JPEG 2000"),
        "svg.jpg": (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "SVG"),
        "album.png": (b"8BPS\0\1" + bytes(30), "Photoshop"),
        "cut.tif": (saved(colour, "TIFF", compression="tiff_lzw")[:2000], "cut short"),
        "solid.webp": (saved(Image.new("RGB", (7000, 7000)), "WEBP", lossless=True), "no photo"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "LFS"),
        "answer.png": (b'{"message": "Not Found"}', "text"),
        "12_bits.jpg": (
            some["grey.jpg"].replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
            "a kind of JPEG",
        ),
        "doubles.tif": (tiff_of(np.zeros((9, 9), np.float32), 258, 32, 64), "a kind of TIFF"),
        "iphone.jpg": (b"\0\0\0\x18ftypheic" + bytes(40), "heic"),
        "truncated.jpg": (some["colour.jpg"][:-2000], "truncated"),
        "truncated.png": (some["grey.png"][: len(some["grey.png"]) // 2], "damaged"),
        "bomb.png": (png_of(20000, 10000), "pixels are too many"),
        "monster.png": (png_of(60000, 60000), "more pixels than any photo"),
    }
