import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from eyescream_py.srez.batches import held_out_pictures
from eyescream_py.srez.checkpoints import checkpoint_path, load_generator, save_checkpoint
from eyescream_py.srez.data import load_split
from eyescream_py.srez.evaluation import enlarge, psnr
from eyescream_py.srez.faces import find_faces
from eyescream_py.srez.options import Options
from eyescream_py.srez.photos import Photo, luma_of, open_photo, save_photo
from eyescream_py.srez.pictures import bicubic
from eyescream_py.srez.steps import build_networks
from eyescream_py.srez.upscale import SHIPPED, Painter, _paint, run_upscale, upscale_tiled
from eyescream_py.system.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def told(tiny):
    """Options whose checkpoint_dir holds an untrained generator of 8 -> 32 pixels."""
    Path(tiny.checkpoint_dir).mkdir()
    save_checkpoint(tiny.checkpoint_dir, build_networks(tiny, CPU), tiny, 1, 1.0)
    return dataclasses.replace(tiny, crop="none")


def upscale(told, images, tmp_path, mode="face", say=lambda line: None, outscale=None):
    out = str(tmp_path / "out")
    return run_upscale(told, tuple(map(str, images)), mode, out, CPU, say, outscale)


@pytest.fixture
def shipped(tiny):
    """Options of a fresh clone: the default folder, which holds no checkpoint here."""
    return dataclasses.replace(tiny, crop="none", checkpoint_dir=Options.checkpoint_dir)


def small_astronaut():
    """Of the astronaut's photo that comes with scikit-image, so much that her face is 16 wide."""
    photo = Image.fromarray(data.astronaut())
    return photo.resize((64, 64), Image.Resampling.BOX)


def test_faces_become_squares_of_the_trained_size(told, tmp_path, faces_folder):
    small = tmp_path / "small.png"
    Image.new("RGB", (8, 8), "red").save(small)
    images = [faces_folder / "000001.jpg", small]
    written = upscale(told, images, tmp_path)
    assert len(written) == 2
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == (32, 32)


def test_faces_are_reduced_by_the_means_of_boxes(told, tmp_path):
    checks = np.where(np.add.outer(np.arange(32), np.arange(32)) % 2, 100, 200).astype(np.uint8)
    Image.fromarray(checks).convert("RGB").save(tmp_path / "checks.png")
    Image.new("RGB", (8, 8), (150, 150, 150)).save(tmp_path / "plain.png")
    a, b = upscale(told, [tmp_path / "checks.png", tmp_path / "plain.png"], tmp_path)
    assert np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))


def test_luma_is_rec_601s():
    assert luma_of(torch.eye(3)[:, None])[0, 0].tolist() == pytest.approx([0.299, 0.587, 0.114])


def test_a_part_of_a_photo_repeats_its_edge_outside():
    photo = Photo(np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8))
    wide = np.pad(photo.pixels, ((2, 3), (1, 4), (0, 0)), "edge") / np.float32(255)
    assert torch.equal(photo.part((-1, -2, 11, 7)), torch.from_numpy(wide).permute(2, 0, 1))


def test_a_grey_network_s_brightness_gets_the_colours_enlarged_smoothly(told):
    torch.manual_seed(0)
    generator, small = (
        load_generator(checkpoint_path(told.checkpoint_dir))[0],
        torch.rand(2, 3, 8, 8),
    )
    luma = luma_of(small)
    painted = enlarge(generator, luma.expand(-1, 3, -1, -1), told).mean(1, keepdim=True)
    colour = nn.functional.interpolate(small - luma, (32, 32), mode="bicubic", antialias=True)
    found = Painter(generator, 8, 4, True, told, CPU)(small)
    assert torch.allclose(found, (painted + colour).clamp(0, 1), atol=1e-6)


def test_a_painted_square_fades_into_the_photo():
    class White:
        side = 8

        def __call__(self, small):
            return torch.ones(1, 3, 32, 32)

    canvas = np.zeros((60, 80, 3), np.uint8)
    photo = Photo(np.full((30, 40, 3), 255, np.uint8))
    _paint(White(), photo, canvas, (5, 3, 20), 2.0)
    assert (canvas[26, 30] == 255).all()  # the middle of rows 6 to 45, columns 10 to 49
    assert canvas[6:46, 10].max() < 30
    assert canvas[6, 10:50].max() < 30
    across = canvas[26, 10:50, 0].astype(int)
    assert (np.diff(across[:20]) >= 0).all()
    assert (across == across[::-1]).all()
    canvas[6:46, 10:50] = 0
    assert not canvas.any()


def test_the_celeba_window_is_cut_as_in_training(told, tmp_path):
    """Of an aligned face, what lies outside (25,60)-(153,188) has no influence."""
    Image.new("RGB", (178, 218), "red").save(tmp_path / "a.png")
    framed = Image.new("RGB", (178, 218), "green")
    framed.paste("red", (25, 60, 153, 188))
    framed.save(tmp_path / "b.png")
    options = dataclasses.replace(told, crop="celeba")
    a, b = upscale(options, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (13, 9), (31, 33)])
def test_tiles_cover_pictures_of_any_size(told, tmp_path, size):
    Image.new("RGB", size, "blue").save(tmp_path / "any.png")
    (path,) = upscale(told, [tmp_path / "any.png"], tmp_path, "tile")
    with Image.open(path) as picture:
        assert picture.size == (4 * size[0], 4 * size[1])


def test_tiles_are_put_where_they_belong_without_seams():
    class Nearest(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, scale_factor=4)

    picture = torch.rand(3, 21, 37)
    large = upscale_tiled(Nearest(), picture, 16, 4)
    assert torch.allclose(
        large, nn.functional.interpolate(picture[None], scale_factor=4)[0], atol=1e-5
    )


def test_what_cannot_be_enlarged_is_named_and_nothing_is_written(told, tmp_path):
    good = tmp_path / "good.png"
    Image.new("RGB", (40, 40)).save(good)
    Image.new("RGB", (7, 40)).save(tmp_path / "tiny.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("tiny.png", "text.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            upscale(told, [good, tmp_path / name], tmp_path)
    with pytest.raises(UserError, match="name the pictures"):
        upscale(told, [], tmp_path)
    assert not (tmp_path / "out").exists()


def test_pictures_that_differ_in_their_ending_alone_are_refused(told, tmp_path):
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"a_x4\.png: two pictures would be written there; rename"):
        upscale(told, [tmp_path / "a.png", tmp_path / "a.bmp"], tmp_path)
    assert not (tmp_path / "out").exists()


def test_existing_pictures_are_kept(told, tmp_path):
    good = tmp_path / "good.png"
    Image.new("RGB", (40, 40)).save(good)
    upscale(told, [good], tmp_path)
    with pytest.raises(UserError, match="would be overwritten"):
        upscale(told, [good], tmp_path)
    with pytest.raises(UserError, match="two pictures would be written there"):
        run_upscale(told, (str(good), str(good)), "face", str(tmp_path / "new"), CPU)


def test_noise_checkpoints_cannot_enlarge(told, tmp_path):
    options = dataclasses.replace(told, input="noise")
    save_checkpoint(told.checkpoint_dir, build_networks(options, CPU), options, 1, 1.0)
    with pytest.raises(UserError, match="from noise"):
        upscale(told, ["a.png"], tmp_path)


def test_the_shipped_network_paints_the_face_of_a_photo_and_says_where_it_comes_from(
    shipped, tmp_path
):
    small_astronaut().save(tmp_path / "me.png")
    lines = []
    (path,) = upscale(shipped, [tmp_path / "me.png"], tmp_path, "photo", lines.append)
    assert "comes with" in lines[0]
    assert lines[1].endswith("64x64 -> 256x256, 1 face painted")
    truth = np.asarray(Image.fromarray(data.astronaut()).resize((256, 256), Image.Resampling.BOX))
    smooth = small_astronaut().resize((256, 256), Image.Resampling.BICUBIC)
    ours, bicubic = np.asarray(Image.open(path)), np.asarray(smooth)
    changed = (ours != bicubic).any(2)
    (left, top, side), *_ = find_faces(open_photo(tmp_path / "me.png"))
    box = np.zeros_like(changed)
    box[4 * top : 4 * (top + side), 4 * left : 4 * (left + side)] = True
    assert not (changed & ~box).any()  # all but the face is bicubic
    error = [np.square(p[box].astype(float) - truth[box]).mean() for p in (ours, bicubic)]
    assert error[0] < 0.95 * error[1]


def test_the_shipped_network_is_small_tells_what_it_is_and_beats_bicubic(faces_folder):
    assert SHIPPED.stat().st_size < 1 << 20
    assert SHIPPED.with_name("README.md").is_file()
    generator, stored = load_generator(SHIPPED)
    assert stored.grey
    _, test = load_split(str(faces_folder), "celeba", 16, 0, "", 0, "")
    small, label = held_out_pictures(test, stored.options, CPU)
    large = enlarge(generator, small, Options())
    assert psnr(large, label) > psnr(bicubic(small, 64), label) + 0.5


def test_faces_are_found_where_they_are_in_photos_of_any_size(tmp_path):
    astronaut = Image.fromarray(data.astronaut())
    for factor in (0.12, 0.4, 1.3):
        size = [round(512 * factor)] * 2
        astronaut.resize(size, Image.Resampling.BOX if factor < 1 else None).save(
            tmp_path / "a.png"
        )
        (left, top, side), *_ = find_faces(open_photo(tmp_path / "a.png"))
        centre = (left + side / 2) / factor, (top + side / 2) / factor
        assert np.hypot(centre[0] - 222, centre[1] - 115) < 25
        assert 80 < side / factor < 170
    Image.new("RGB", (300, 200), "green").save(tmp_path / "none.png")
    assert find_faces(open_photo(tmp_path / "none.png")) == []


def test_faces_that_have_detail_of_their_own_are_left(shipped, tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "large.png")
    lines = []
    (path,) = upscale(shipped, [tmp_path / "large.png"], tmp_path, "photo", lines.append, 1.5)
    assert "0 faces painted, 1 left as is (wider than 32 pixels" in lines[-1]
    with Image.open(path) as picture:
        assert picture.size == (768, 768)


def test_a_folder_is_done_whole_with_its_sub_folders_and_broken_files_are_named(told, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.new("RGB", (20, 12), "red").save(tmp_path / "in" / "a.png")
    Image.new("RGB", (12, 20), "red").save(tmp_path / "in" / "sub" / "a.jpg")
    (tmp_path / "in" / "b.png").write_text("no picture")
    lines = []
    done = upscale(told, [tmp_path / "in"], tmp_path, "photo", lines.append)
    assert done == [tmp_path / "out" / "a_x4.png", tmp_path / "out" / "sub" / "a_x4.png"]
    assert [line for line in lines if line.startswith("left out: ") and "b.png" in line]
    with Image.open(done[1]) as picture:
        assert picture.size == (48, 80)


@pytest.mark.parametrize("mode", ["photo", "face", "tile"])
@pytest.mark.parametrize("outscale", [1, 2.5, 6])
def test_any_enlargement(told, tmp_path, mode, outscale):
    Image.new("RGB", (21, 16), "blue").save(tmp_path / "a.png")
    (path,) = upscale(told, [tmp_path / "a.png"], tmp_path, mode, outscale=outscale)
    assert path.name == f"a_x{outscale:g}.png"
    wide, tall = (8, 8) if mode == "face" else (21, 16)
    with Image.open(path) as picture:
        assert picture.size == (round(wide * outscale), round(tall * outscale))


@pytest.mark.parametrize("wrong", [0.5, 65.0, float("nan"), float("inf")])
def test_enlargements_that_make_no_sense(told, tmp_path, wrong):
    Image.new("RGB", (21, 16)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="--outscale"):
        upscale(told, [tmp_path / "a.png"], tmp_path, "photo", outscale=wrong)


def test_a_picture_that_would_be_too_large_is_refused_with_what_fits(told, tmp_path):
    Image.new("1", (6000, 5000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"480 megapixels; give --outscale=3\.0 or less"):
        upscale(told, [tmp_path / "a.png"], tmp_path, "photo")


@pytest.mark.parametrize("mode", ["photo", "face", "tile"])
@pytest.mark.parametrize("bits", [8, 16])
def test_transparency_and_depth_are_kept(told, tmp_path, mode, bits):
    """A ramp in 8 or 16 bits whose right half is transparent."""
    kind, white = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    pixels = np.zeros((16, 16, 4), kind)
    pixels[..., :3] = (np.linspace(0.2, 0.8, 16) * white).astype(kind)[:, None, None]
    pixels[:, :8, 3] = white
    save_photo(tmp_path / "a.png", Photo(pixels))
    (path,) = upscale(told, [tmp_path / "a.png"], tmp_path, mode)
    photo = open_photo(path)
    assert photo.pixels.dtype == kind
    opacity = photo.pixels[..., 3] / white
    wide = opacity.shape[1]
    assert opacity[:, : wide // 4].min() > 0.99
    assert opacity[:, -(wide // 4) :].max() < 0.01
    if mode == "photo":  # no face in it: the ramp itself, finer than 8 bits could show it
        seen = photo.pixels[:, 4 : wide // 2 - 8, :3] / white
        expected = np.interp(np.arange(64) / 4 - 0.375, np.arange(16), np.linspace(0.2, 0.8, 16))
        assert np.abs(seen - expected[:, None, None])[8:-8].max() < (0.006 if bits == 8 else 0.001)


def test_sixteen_bits_of_a_file_are_opened_as_they_are(tmp_path):
    ramp = (np.arange(160 * 160) % 65536).reshape(160, 160).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    assert np.array_equal(open_photo(tmp_path / "grey.png").pixels[..., 1], ramp)
    colours = np.stack([ramp, ramp // 2, 65535 - ramp], 2)
    save_photo(tmp_path / "rgb.png", Photo(colours))
    assert np.array_equal(open_photo(tmp_path / "rgb.png").pixels, colours)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_pictures_are_turned_as_eight_bit_ones(tmp_path, orientation):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "8.png", exif=exif)
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.png", exif=exif)
    eight, sixteen = open_photo(tmp_path / "8.png"), open_photo(tmp_path / "16.png")
    assert np.array_equal(eight.pixels, sixteen.pixels // 257)


def test_grey_networks_leave_colours_to_bicubic(shipped, tmp_path):
    """A photo's hue stays where only its brightness is painted."""
    picture = np.asarray(small_astronaut().convert("L"))[..., None] / 255 * np.array([1, 0.5, 0.25])
    Image.fromarray((255 * picture).astype(np.uint8)).save(tmp_path / "a.png")
    (path,) = upscale(shipped, [tmp_path / "a.png"], tmp_path, "photo")
    red, green, blue = np.moveaxis(np.asarray(Image.open(path)).astype(float), 2, 0)
    bright = red > 100
    assert abs((green / red.clip(1))[bright] - 0.5).mean() < 0.03
    assert abs((blue / red.clip(1))[bright] - 0.25).mean() < 0.03
