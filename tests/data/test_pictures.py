import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from eyescream_py.data.pictures import PictureError, open_picture, picture_size, read_pixels

GREY = (np.arange(48 * 40) % 256).reshape(40, 48)


def saved(picture: Image.Image | np.ndarray, kind: str, **how) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(file, kind, **how)
    return file.getvalue()


def twelve_bit_pgm() -> bytes:
    return b"P5 48 40 4095\n" + (GREY * 4095 // 255).astype(">u2").tobytes()


DEEP = {
    "16-bit PNG": saved((GREY * 257).astype(np.uint16), "PNG"),
    "16-bit TIFF": saved((GREY * 257).astype(np.uint16), "TIFF"),
    "12-bit PGM": twelve_bit_pgm(),
    "32-bit TIFF": saved((GREY * (2**31 // 256)).astype(np.int32), "TIFF"),
    "32-bit TIFF of 16-bit values": saved((GREY * 257).astype(np.int32), "TIFF"),
    "32-bit TIFF of 8-bit values": saved(GREY.astype(np.int32), "TIFF"),
    "float TIFF": saved((GREY / 255).astype(np.float32), "TIFF"),
    "float TIFF in kelvin": saved((GREY + 273).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_more_than_8_bits_is_scaled_to_8(name):
    eight = open_picture(DEEP[name])
    assert eight.mode == "L"
    assert np.abs(np.asarray(eight, int) - GREY).max() <= 1
    assert np.abs(read_pixels(DEEP[name]) - GREY).max() <= 1
    assert open_picture(DEEP[name], "RGB").mode == "RGB"


def test_depth_is_kept_as_fractions():
    values = (GREY * 257).astype(np.uint16)
    values[0, 0] = 100
    assert read_pixels(saved(values, "PNG"))[0, 0] == pytest.approx(100 / 257)


RED = (254, 0, 0)


def test_the_luma_of_colours_keeps_its_fractions_and_grey_can_be_colour():
    colours = np.array([[[255, 0, 0], [10, 20, 30]]], np.uint8)
    luma = read_pixels(saved(colours, "PNG"), "L")
    assert luma[0].tolist() == pytest.approx([0.299 * 255, 18.15], abs=1e-3)
    grey = saved(np.array([[7, 9]], np.uint8), "PNG")
    assert read_pixels(grey, "RGB").tolist() == [[[7] * 3, [9] * 3]]


CLEAR = {
    "RGBA": saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG"),
    "LA": saved(Image.new("LA", (8, 8), (0, 0)), "PNG"),
    "palette": saved(Image.new("P", (8, 8)), "PNG", transparency=0),
    "GIF": saved(Image.new("P", (8, 8)), "GIF", transparency=0),
    "WebP": saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True),
}


def test_transparency_is_white_unless_wanted():
    for name in ("RGBA", "LA", "palette", "GIF", "WebP"):
        assert np.asarray(open_picture(CLEAR[name], "RGB")).min() == 255, name
        assert read_pixels(CLEAR[name], "L").min() == 255, name
        kept = open_picture(CLEAR[name], alpha=True)
        assert kept.mode in ("RGBA", "LA"), name
        assert kept.getextrema()[-1] == (0, 0), name


def test_the_clear_value_of_deep_grey_is_white():
    values = np.array([[0, 300], [65535, 300]], np.uint16)
    picture = saved(Image.fromarray(values), "PNG", transparency=300)
    assert np.asarray(open_picture(picture)).tolist() == [[0, 255], [255, 255]]
    assert read_pixels(picture, "L").tolist() == [[0, 255], [255, 255]]


def test_a_half_clear_colour_is_blended_with_white():
    picture = saved(Image.new("RGBA", (4, 4), (0, 100, 200, 51)), "PNG")
    assert open_picture(picture).getpixel((0, 0)) == (204, 224, 244)


OPAQUE = {
    "PNG": saved(Image.new("RGB", (16, 8), RED), "PNG"),
    "BMP": saved(Image.new("RGB", (16, 8), RED), "BMP"),
    "PPM": saved(Image.new("RGB", (16, 8), RED), "PPM"),
    "TIFF": saved(Image.new("RGB", (16, 8), RED), "TIFF"),
    "WebP": saved(Image.new("RGB", (16, 8), RED), "WEBP", quality=100),
    "GIF": saved(Image.new("RGB", (16, 8), RED), "GIF"),
    "JPEG": saved(Image.new("RGB", (16, 8), RED), "JPEG", quality=100),
    "CMYK": saved(Image.new("CMYK", (16, 8), (0, 255, 255, 1)), "JPEG", quality=100),
    "MPO": saved(
        Image.new("RGB", (16, 8), RED), "MPO", save_all=True,
        append_images=[Image.new("RGB", (16, 8), (0, 0, 255))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPAQUE)
def test_formats_by_content(name, tmp_path):
    path = tmp_path / "any.jpg"  # whatever the ending says
    path.write_bytes(OPAQUE[name])
    for source in (path, str(path), OPAQUE[name]):
        picture = open_picture(source)
        assert picture.size == (16, 8) == picture_size(source)
        assert np.abs(np.subtract(picture.getpixel((3, 3)), RED)).max() <= 2


def corner_picture() -> Image.Image:
    picture = Image.new("L", (16, 32), 128)
    picture.paste(255, (0, 0, 8, 8))  # a white top left corner
    return picture


@pytest.mark.parametrize(
    ("tag", "corner"),
    [(1, "top left"), (2, "top right"), (3, "bottom right"), (4, "bottom left"),
     (5, "top left"), (6, "top right"), (7, "bottom right"), (8, "bottom left")],
)  # fmt: skip
def test_orientation(tag, corner):
    exif = Image.Exif()
    exif[0x0112] = tag
    data = saved(corner_picture(), "PNG", exif=exif)
    turned = np.asarray(open_picture(data))
    assert turned.shape == ((16, 32) if tag > 4 else (32, 16))
    assert picture_size(data) == turned.shape[::-1]
    row, column = np.argwhere(turned == 255).mean(0) > np.array(turned.shape) / 2
    assert f"{'bottom' if row else 'top'} {'right' if column else 'left'}" == corner
    assert np.array_equal(read_pixels(data), turned)


def test_damaged_exif_data_do_not_lose_the_picture():
    data = saved(corner_picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_picture(data).size == (16, 32)


def png_of(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    small = saved(Image.new("1", (4, 4)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS or PostScript"),
        (b"<svg xmlns='x'/>", "text"),
        (bytes.fromhex("0005160700020000") + bytes(99), "a Mac's companion file"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "heic"),
        (b"hello", "text"),
        (b"\1\2hello", "an unknown format"),
        (png_of(20000, 10000), "20000x10000 pixels are too many (at most 50 million)"),
        (png_of(50000, 50000), "more pixels than any photo has"),
        (png_of(10000, 9000), "10000x9000 pixels are too many (at most 50 million)"),
        (
            saved(Image.effect_noise((99, 99), 50), "JPEG")[:-900],
            "damaged (image file is truncated",
        ),
        (OPAQUE["PNG"][:-30], "damaged"),
        (saved(np.full((4, 4), np.nan, np.float32), "TIFF"), "no numbers"),
    ],
)
def test_what_cannot_be_used_says_why(content, reason, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"^[^\n]*$") as refused:
        open_picture(path)
    assert reason in str(refused.value)


def test_no_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("pipe.jpg", "no regular file"), ("none", "No such"), (".", "directory")):
        with pytest.raises(PictureError, match=reason):
            open_picture(tmp_path / name)


def test_no_program_is_started_for_an_eps(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("started"))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("started"))
    for ending in (".eps", ".jpg"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
        with pytest.raises(PictureError):
            open_picture(path)


def test_a_jpeg_of_100_megapixels_comes_reduced(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("L", (12000, 9000), 77).save(path)
    picture = open_picture(path)
    assert picture.size == (6000, 4500)
    assert picture.getpixel((9, 9)) == 77


@pytest.mark.parametrize("mode", ["", "RGB", "L"])
def test_lab_colours_are_taken_in_every_mode(mode, tmp_path):
    """Pillow turns LAB into RGB and into nothing else."""
    lab = Image.merge("LAB", [Image.new("L", (3, 2), value) for value in (128, 160, 100)])
    lab.save(tmp_path / "lab.tif")
    picture = open_picture(tmp_path / "lab.tif", mode)
    assert picture.mode == (mode or "RGB")
    expected = lab.convert("RGB").convert(mode or "RGB")
    assert np.array_equal(np.asarray(picture), np.asarray(expected))
