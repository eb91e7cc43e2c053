import errno
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.srez import data
from eyescream_py.srez.data import (
    decode,
    list_pictures,
    load_faces,
    load_split,
    open_picture,
    split,
    split_digest,
)
from eyescream_py.system.errors import UserError


def coordinates(width, height):
    """A picture whose red is x and whose green is y."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8))


@pytest.mark.parametrize(
    ("crop", "size", "corner"), [("celeba", (178, 218), (17, 52)), ("lfw", (250, 250), (53, 53))]
)
def test_fixed_windows(tmp_path, crop, size, corner):
    coordinates(*size).save(tmp_path / "a.png")
    window, means = decode(tmp_path / "a.png", crop)
    assert window.shape == (144, 144, 3)
    assert tuple(window[0, 0, :2]) == corner
    assert tuple(window[-1, -1, :2]) == (corner[0] + 143, corner[1] + 143)
    frame = np.asarray(coordinates(*size)) / 255
    assert means == pytest.approx([*frame.mean((0, 1)), frame.max(2).mean()], abs=1e-5)


def test_crop_none_takes_the_centred_square_of_any_size(tmp_path):
    wide = Image.new("RGB", (300, 150), "blue")
    wide.paste("red", (75, 0, 225, 150))
    wide.save(tmp_path / "wide.png")
    window, _ = decode(tmp_path / "wide.png", "none")
    assert window.shape == (144, 144, 3)
    assert (window == (255, 0, 0)).all()


def test_crop_none_reduces_by_the_means_of_boxes(tmp_path):
    checks = np.where(np.add.outer(np.arange(288), np.arange(288)) % 2, 100, 200).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "checks.png")
    window, _ = decode(tmp_path / "checks.png", "none")
    assert (window == 150).all()


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "1", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.png"
        Image.new(mode, (80, 80)).save(path)
        assert open_picture(path).mode == "RGB"


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turn clockwise
    coordinates(100, 60).save(tmp_path / "phone.png", exif=turned)
    picture = open_picture(tmp_path / "phone.png")
    assert picture.size == (60, 100)
    assert picture.getpixel((59, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("crop", "size"), [("celeba", (150, 218)), ("lfw", (190, 250)), ("none", (60, 300))]
)
def test_too_small_pictures_are_named(tmp_path, crop, size):
    Image.new("RGB", size).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=rf"small\.png: {size[0]}x{size[1]} is too small"):
        decode(tmp_path / "small.png", crop)


def test_files_that_are_no_pictures_are_named(tmp_path):
    (tmp_path / "fake.jpg").write_text("hello")
    good = coordinates(178, 218)
    good.save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    for name in ("fake.jpg", "cut.jpg", "absent.jpg"):
        with pytest.raises(UserError, match=name):
            load_faces(tmp_path, [name], "celeba") if name != "absent.jpg" else open_picture(
                tmp_path / name
            )


def test_listing_is_sorted_goes_into_sub_folders_and_ignores_other_files(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.jpg", "b/a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == ["b/a.PNG", "z.jpg"]


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_pictures(tmp_path / "absent")
    with pytest.raises(UserError, match="no pictures"):
        list_pictures(tmp_path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match="this is a file"):
        list_pictures(tmp_path / "a.jpg")


def test_what_is_left_out_is_counted_in_one_line(tmp_path, capsys):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "album.jpg").mkdir()
    coordinates(80, 80).save(tmp_path / "a" / "b" / "deep.webp")
    (tmp_path / "._a.jpg").write_bytes(bytes.fromhex("0005160700020000") + bytes(99))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    os.rename(tmp_path / "notes.txt", os.fsencode(tmp_path) + b"/Jos\xe9.txt")
    coordinates(80, 80).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/Jos\xe9.png")
    names = list_pictures(tmp_path)
    assert names == ["Jos\udce9.png", "a/b/deep.webp"]
    line = capsys.readouterr().err
    assert "1 of other formats" in line
    assert "._a.jpg" in line
    faces = load_faces(tmp_path, names, "none", str(tmp_path / "cache"))
    assert faces.names == tuple(names)


def test_broken_pictures_are_left_out_and_named_fresh_or_from_the_cache(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png", "d.png", "e.png"):
        coordinates(80, 80).save(folder / name)
    (folder / "c.png").write_text("no picture")
    for _ in range(2):
        train, test = load_split(str(folder), "none", 2, 0, "", 0, str(tmp_path / "cache"))
        assert "left out: " in (told := capsys.readouterr().err)
        assert "c.png" in told
        assert sorted(train.names + test.names) == ["a.png", "b.png", "d.png", "e.png"]
        windows, _ = train.pick(torch.arange(len(train)))
        assert (windows[:, 0].float().std((1, 2)) > 1).all()  # real rows, not the empty one
    listed = tmp_path / "list.txt"
    listed.write_text("5\n3")  # counts what the folder lists, the broken one among it
    train, test = load_split(str(folder), "none", 2, 0, str(listed), 0, "")
    assert test.names == ("e.png",)
    assert train.names == ("a.png", "b.png", "d.png")


def test_sixteen_bit_ramps_stay_ramps(tmp_path):
    ramp = (np.arange(160 * 160) % 256).reshape(160, 160)
    Image.fromarray(ramp.astype("u2") * 257).save(tmp_path / "g.png")
    assert (
        np.abs(np.asarray(open_picture(tmp_path / "g.png"))[..., 0] - ramp.astype(int)).max() <= 1
    )


def test_hidden_colours_under_transparency_are_white(tmp_path):
    Image.new("RGBA", (160, 160), (0, 0, 0, 0)).save(tmp_path / "t.png")
    assert np.asarray(open_picture(tmp_path / "t.png")).min() == 255


def test_eps_is_refused_whatever_its_name(tmp_path):
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    with pytest.raises(UserError, match=r"a\.jpg: .*EPS"):
        open_picture(tmp_path / "a.jpg")


def test_grey_data_are_known(tmp_path):
    for i, mode in enumerate(("L", "RGB")):
        coordinates(80, 80).convert(mode).save(tmp_path / f"{i}.png")
    assert load_faces(tmp_path, ["0.png"], "none").are_grey()
    assert not load_faces(tmp_path, ["0.png", "1.png"], "none").are_grey()


def test_the_digest_of_a_split_tells_pictures_apart_and_nothing_else(faces_folder):
    def digest(*arguments):
        return split_digest(*load_split(str(faces_folder), *arguments, ""), "celeba")

    first = digest("celeba", 4, 0, "", 0)
    assert first == digest("celeba", 4, 0, "", 0)
    assert len({first, digest("celeba", 4, 1, "", 0), digest("celeba", 5, 0, "", 0)}) == 3


def test_split_is_reproducible_and_disjoint():
    names = [f"{i}.jpg" for i in range(50)]
    train, test = split(names, 16, seed=3)
    assert len(test) == 16
    assert sorted(train + test) == list(range(50))
    assert split(names, 16, seed=3) == (train, test)
    assert split(names, 16, seed=4)[1] != test


def test_split_never_divides_a_person_s_folder():
    names = [f"person{i // 4}/{i}.jpg" for i in range(40)]
    train, test = split(names, 6, seed=0)
    people = {i // 4 for i in test}
    assert len(test) == 6
    assert not people & {i // 4 for i in train}
    assert len(train) == 40 - 4 * len(people)


def test_test_list_by_name_and_by_number(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("c.jpg\n1\n")
    assert split(["a.jpg", "b.jpg", "c.jpg"], 1, 0, str(listed)) == ([1], [2, 0])
    for wrong in ("d.jpg", "4", "0", ""):
        listed.write_text(wrong)
        with pytest.raises(UserError, match="test_list"):
            split(["a.jpg", "b.jpg", "c.jpg"], 1, 0, str(listed))
    with pytest.raises(UserError, match="cannot be read"):
        split(["a.jpg"], 1, 0, str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b.jpg\n", [0]), ("\ufeffa b.jpg\r\nc.jpg\r\n", [0, 1]), ("2 1\n", [1, 0]),
        ("Jos\udce9.jpg", [2]),
    ],
)  # fmt: skip
def test_test_lists_of_every_editor(tmp_path, text, expected):
    names = ["a b.jpg", "c.jpg", "Jos\udce9.jpg", "d.jpg"]
    (tmp_path / "list.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert split(names, 1, 0, str(tmp_path / "list.txt"))[1] == expected


@pytest.mark.parametrize("entry", ["\u00b2", "\u0661", "-1", "1.0", "9" * 5000, "0x1"])
def test_what_is_no_count_is_refused_in_one_line(tmp_path, entry):
    (tmp_path / "list.txt").write_text(entry)
    with pytest.raises(UserError, match="test_list") as caught:
        split(["a.jpg", "b.jpg"], 1, 0, str(tmp_path / "list.txt"))
    assert len(str(caught.value)) < 400


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="none is left"):
        split(["a.jpg", "b.jpg"], 2, 0)


def test_cache_gives_the_same_faces_and_notices_changed_files(faces_folder, tmp_path):
    names = list_pictures(faces_folder)[:3]
    for name in names:
        (tmp_path / name).write_bytes((faces_folder / name).read_bytes())
    cache = tmp_path / "cache"
    fresh = load_faces(tmp_path, names, "celeba")
    first, again = (load_faces(tmp_path, names, "celeba", str(cache)) for _ in range(2))
    for faces in (first, again):
        assert torch.equal(faces.windows, fresh.windows)
        assert torch.equal(faces.means, fresh.means)
    assert len(list(cache.iterdir())) == 2
    Image.new("RGB", (178, 218), "red").save(tmp_path / names[0])
    changed = load_faces(tmp_path, names, "celeba", str(cache))
    assert not torch.equal(changed.windows[0], fresh.windows[0])
    assert torch.equal(changed.windows[1], fresh.windows[1])


def test_windows_go_to_the_disk_and_its_room_is_taken_before_they_are_decoded(
    faces_folder, tmp_path, monkeypatch
):
    names = list_pictures(faces_folder)[:3]
    fresh = load_faces(faces_folder, names, "celeba")
    load_faces(faces_folder, names, "celeba", str(tmp_path / "cache"))
    (file,) = (tmp_path / "cache").glob("*.windows.npy")
    as_numpy = io.BytesIO()
    np.save(as_numpy, fresh.windows.numpy())
    assert file.read_bytes() == as_numpy.getvalue()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data, "reserve", full)
    monkeypatch.setattr(data, "decode", None)  # would fail otherwise
    with pytest.raises(OSError, match="No space left") as caught:
        load_faces(faces_folder, names, "celeba", str(tmp_path / "full"))
    assert caught.value.filename.endswith(".windows.npy")
    assert list((tmp_path / "full").iterdir()) == []


def test_windows_that_another_decoder_cached_are_not_used(faces_folder, tmp_path, monkeypatch):
    names, cache = list_pictures(faces_folder)[:2], tmp_path / "cache"
    load_faces(faces_folder, names, "celeba", str(cache))
    for file in cache.glob("*.windows.npy"):
        np.save(file, np.zeros_like(np.load(file)))
    assert not load_faces(faces_folder, names, "celeba", str(cache)).windows.any()
    monkeypatch.setattr("eyescream_py.srez.data.DECODER", 99)
    assert load_faces(faces_folder, names, "celeba", str(cache)).windows.any()
    assert len(list(cache.iterdir())) == 4


def test_load_split_limits_the_training_faces(faces_folder, tmp_path):
    train, test = load_split(str(faces_folder), "celeba", 4, 0, "", 10, "")
    assert (len(train), len(test)) == (10, 4)
    listed = tmp_path / "list.txt"
    listed.write_text("1 2")
    few = [load_split(str(faces_folder), "celeba", 4, seed, str(listed), 10, "")[0].names
           for seed in (0, 1)]  # fmt: skip
    assert len(set(few[0])) == 10
    assert few[0] != few[1]  # drawn, and not the first
    assert not set(train.rows.tolist()) & set(test.rows.tolist())
    windows, means = test.pick(torch.tensor([1, 1]))
    assert torch.equal(windows[0], train.windows[test.rows[1]])
    assert means.shape == (2, 4)


@pytest.mark.parametrize(
    "entry",
    ["Ann/Jos\u00e9 1.jpg", "./Ann/Jos\u00e9 1.jpg", "Ann\\Jos\u00e9 1.jpg",
     ".\\Ann\\Jos\u00e9 1.jpg", "Ann/Jose\u0301 1.jpg", "  Ann/Jos\u00e9 1.jpg "],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Ann/Jos\u00e9 1.jpg", "Ann/Jose\u0301 1.jpg"])
def test_a_list_may_spell_names_as_other_systems_do(entry, name, tmp_path):
    """As `find .`, Windows and Macs, which take letters with accents apart, write them."""
    path = tmp_path / "list.txt"
    path.write_text(f"{entry}\n", encoding="utf-8")
    assert split(["a.jpg", name, "b.jpg"], 1, 0, str(path))[1] == [1]


@pytest.mark.parametrize(("count", "text"), [(4, "no such name"), (10_000, "")])
def test_what_cannot_be_held_out_is_told_before_anything_is_cached(
    count, text, faces_folder, tmp_path
):
    listed = tmp_path / "list.txt"
    listed.write_text(text)
    cache = tmp_path / "cache"
    with pytest.raises(UserError):
        load_split(
            str(faces_folder), "celeba", count, 0, str(listed) if text else "", 0, str(cache)
        )
    assert not cache.exists()
