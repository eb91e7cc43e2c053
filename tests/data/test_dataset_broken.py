"""Odd and broken picture files: read as a person would expect, or left out by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from eyescream_py.data.dataset import load_dataset
from eyescream_py.data.decode import decode_picture
from eyescream_py.data.pictures import PictureError
from eyescream_py.system.errors import UserError
from tests.picture_files import faces, write_faces


def gradient(channels: int = 1) -> np.ndarray:
    """uint8 (16,16) or (16,16,channels), different in every direction and channel."""
    ramp = np.arange(16 * 16 * channels) * 251 // (256 * channels)
    picture = ramp.astype(np.uint8).reshape(16, 16, channels)
    return picture[..., 0] if channels == 1 else picture


def decoded(path, channels=1, size=16) -> np.ndarray:
    return decode_picture(path, channels, size)


def test_16_bit_png_and_pgm_keep_their_upper_bits(tmp_path):
    values = gradient().astype(np.uint16) * 257
    Image.fromarray(values).save(tmp_path / "a.png")
    (tmp_path / "b.pgm").write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    (tmp_path / "c.pgm").write_bytes(b"P5 16 16 1023\n" + (values // 64).astype(">u2").tobytes())
    np.testing.assert_array_equal(decoded(tmp_path / "a.png")[0], gradient())
    np.testing.assert_array_equal(decoded(tmp_path / "b.pgm", 3)[2], gradient())
    assert np.abs(decoded(tmp_path / "c.pgm")[0].astype(int) - gradient()).max() <= 1


def test_cmyk_jpeg_has_the_colours_of_its_rgb_version(tmp_path):
    flat = Image.new("RGB", (32, 32), (200, 60, 30))
    flat.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    pixels = decoded(tmp_path / "cmyk.jpg", 3).reshape(3, -1).mean(1)
    np.testing.assert_allclose(pixels, (200, 60, 30), atol=4)
    luma = 0.299 * 200 + 0.587 * 60 + 0.114 * 30
    np.testing.assert_allclose(decoded(tmp_path / "cmyk.jpg", 1).mean(), luma, atol=4)


def test_palette_and_one_bit_pictures(tmp_path):
    colour = Image.fromarray(gradient(3)).quantize(16)
    colour.save(tmp_path / "palette.png")
    expected = np.moveaxis(np.asarray(colour.convert("RGB")), -1, 0)
    np.testing.assert_array_equal(decoded(tmp_path / "palette.png", 3), expected)
    dots = Image.fromarray(gradient() > 100)
    dots.save(tmp_path / "bits.png")
    np.testing.assert_array_equal(decoded(tmp_path / "bits.png")[0], (gradient() > 100) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path, mode):
    picture = Image.fromarray(gradient())
    if mode == "P":
        picture = picture.convert("P")
        picture.save(tmp_path / "t.png", transparency=0)
        clear = gradient() == 0
    else:
        clear = np.arange(256).reshape(16, 16) % 3 == 0
        picture = picture.convert(mode)
        picture.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
        picture.save(tmp_path / "t.png")
    np.testing.assert_array_equal(decoded(tmp_path / "t.png")[0], np.where(clear, 255, gradient()))


def test_a_photo_turned_by_exif_is_upright(tmp_path):
    photo = Image.fromarray(np.repeat(np.repeat(gradient(), 2, 0), 2, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    photo.rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    photo.save(tmp_path / "upright.jpg", quality=95)
    turned, upright = (decoded(tmp_path / f"{n}.jpg").astype(int) for n in ("turned", "upright"))
    assert np.abs(turned - upright).max() <= 6
    assert np.abs(turned - np.rot90(upright[0])).max() > 100


def test_what_is_not_square_is_cut_to_its_centre(tmp_path):
    wide = np.concatenate([np.zeros((16, 5)), gradient(), np.full((16, 6), 255)], 1)
    Image.fromarray(wide.astype(np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(wide.astype(np.uint8).T).save(tmp_path / "high.png")
    np.testing.assert_array_equal(decoded(tmp_path / "wide.png")[0], gradient())
    np.testing.assert_array_equal(decoded(tmp_path / "high.png")[0], gradient().T)


def test_the_content_decides_not_the_name(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "really_png.jpg", "PNG")
    np.testing.assert_array_equal(decoded(tmp_path / "really_png.jpg")[0], gradient())


def test_a_single_pixel_fills_the_picture(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "dot.png")
    assert (decoded(tmp_path / "dot.png") == 77).all()


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(gradient(), (8, 8))).save(buffer, kind)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


BROKEN = {
    "truncated.jpg": (encoded("JPEG")[:-200], "truncated"),
    "truncated.png": (encoded("PNG")[:-200], ""),
    "short_of_data.png": (png_that_claims(100, 100), ""),
    "empty.jpg": (b"", "an empty file"),
    "text.pgm": (b"no picture at all", "no JPEG"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0", "an EPS or PostScript file: no JPEG"),
    "large.png": (png_that_claims(8000, 8000), "8000x8000 pixels"),
    "bomb.png": (png_that_claims(50_000, 50_000), "more pixels than any photo"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("channels", [1, 3])
def test_broken_files_say_why_without_a_path(tmp_path, name, channels, recwarn):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=reason) as error:
        decoded(tmp_path / name, channels)
    assert str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_a_few_broken_files_are_left_out_and_named(tmp_path, capfd):
    write_faces(tmp_path, 100)
    for row, name in zip((3, 50, 60, 98, 99), BROKEN, strict=False):
        (tmp_path / f"face_{row:03d}.png").write_bytes(BROKEN[name][0])
    data = load_dataset(tmp_path, 1, 25, cache=False)
    kept = np.delete(faces(), [3, 50, 60, 98, 99], 0)
    np.testing.assert_array_equal(data.images[:, 0].numpy(), kept)
    out, err = capfd.readouterr()
    assert "left out: 5 broken: face_003.png (" in out
    assert "face_060.png" in out
    assert "and 2 more" in out
    assert "face_098.png" not in out
    assert err == ""


def test_a_bomb_among_good_files_prints_no_warning(tmp_path, capfd, recwarn):
    write_faces(tmp_path, 30)
    (tmp_path / "face_009.png").write_bytes(png_that_claims(10_000, 10_000))
    assert len(load_dataset(tmp_path, 1, 25, cache=False)) == 29
    assert not recwarn.list
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("files", "broken"), [(20, 2), (100, 6), (1, 1)])
def test_too_many_broken_files_are_an_error(tmp_path, files, broken):
    for path in write_faces(tmp_path, files)[:broken]:
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"{broken} of {files} pictures .*face_000.png \(an empty file"
    ):
        load_dataset(tmp_path, 1, 25, cache=False)


def test_one_broken_file_of_a_small_folder_is_no_error(tmp_path):
    write_faces(tmp_path, 4)[2].write_bytes(b"")
    assert len(load_dataset(tmp_path, 1, 25, cache=False)) == 3
