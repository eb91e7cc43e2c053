from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.image_model.data import (
    Augmentation,
    ShuffledQueue,
    find_pairs,
    list_pictures,
    load_folder,
    load_listed,
    load_pairs,
    load_picture,
    normalise,
    read_picture,
    resize,
)
from eyescream_py.system.errors import UserError


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def gradient(height: int, width: int, top: int = 200) -> np.ndarray:
    return np.linspace(20, top, height * width).reshape(height, width).astype(np.uint8)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_batch_has_mean_zero_and_span_one(tmp_path: Path) -> None:
    for i, size in enumerate([(40, 30), (16, 16), (9, 50)]):
        save(tmp_path / f"{i}.png", gradient(*size))
    (batch,) = load_folder(tmp_path, "--synth_dir", 16, 1, rng()).draw(3)
    assert batch.shape == (3, 1, 16, 16)
    assert batch.mean((1, 2, 3)).abs().max() < 1e-6
    spans = batch.amax((1, 2, 3)) - batch.amin((1, 2, 3))
    torch.testing.assert_close(spans, torch.ones(3))
    assert batch.abs().max() <= 1


def test_constant_pictures_are_left_out_and_said(tmp_path: Path, capsys) -> None:
    save(tmp_path / "a.png", gradient(8, 8))
    save(tmp_path / "b.png", np.full((8, 8), 7, np.uint8))
    pictures = load_folder(tmp_path, "--synth_dir", 8, 1, rng())
    assert pictures.names == ["a"]
    assert "Left out 1 constant picture, b first" in capsys.readouterr().out


def test_only_constant_pictures_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "b.png", np.full((8, 8), 7, np.uint8))
    with pytest.raises(UserError, match="only constant"):
        load_folder(tmp_path, "--synth_dir", 8, 1, rng())


def test_cubic_zoom_keeps_corners_and_straight_lines() -> None:
    planes = np.arange(9.0).repeat(9).reshape(1, 9, 9)
    enlarged = resize(planes, 17)
    column = enlarged[0, :, 5]
    np.testing.assert_allclose(column[[0, -1]], [0, 8], atol=1e-6)
    np.testing.assert_allclose(column[2:-2], np.linspace(0, 8, 17)[2:-2], atol=0.03)
    assert resize(planes, 9) is planes
    curve = resize(planes**2, 17)[0, :, 5]  # between pixels straight lines would be 0.25 off
    np.testing.assert_allclose(curve[4:-6], (np.linspace(0, 8, 17) ** 2)[4:-6], atol=0.05)


def test_grey_and_colour_reading(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0] = gradient(4, 4)
    path = save(tmp_path / "red.png", pixels)
    colour, grey = read_picture(path, 3), read_picture(path, 1)
    assert colour.shape == (3, 4, 4)
    assert grey.shape == (1, 4, 4)
    assert not colour[1:].any()
    np.testing.assert_allclose(grey[0], colour[0] * 0.299, atol=1)


def test_sixteen_bit_depth_maps_keep_their_depth(tmp_path: Path) -> None:
    deep = np.linspace(30_000, 30_100, 64).reshape(8, 8).astype(np.uint16)
    path = save(tmp_path / "deep.png", deep)
    stored = load_picture(path, 8, 1)
    assert stored is not None
    assert len(np.unique(stored)) == 64
    np.testing.assert_allclose(read_picture(path, 3)[2], deep / 257, atol=1e-3)


def test_stored_bytes_span_0_to_255_in_the_files_orientation(tmp_path: Path) -> None:
    pixels = np.full((8, 8), 50, np.uint8)
    pixels[1, 6] = 90
    stored = load_picture(save(tmp_path / "p.png", pixels), 8, 1)
    assert stored is not None
    assert stored[0, 1, 6] == 255
    assert stored.sum() == 255
    assert normalise(torch.from_numpy(stored)[None]).max() == pytest.approx(63 / 64)


def test_queue_gives_each_index_once_per_round_and_goes_on_from_its_state() -> None:
    generator = rng()
    queue = ShuffledQueue(5, generator)
    rounds = queue.draw(5), queue.draw(5)
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(5))
    assert rounds[0] != rounds[1]
    queue.draw(3)
    other = ShuffledQueue(5, np.random.default_rng())
    other.load_state(queue.state())
    assert other.draw(2) == queue.draw(2)


def test_queue_state_of_another_set_starts_a_new_round() -> None:
    queue = ShuffledQueue(3, rng())
    queue.load_state([0, 7])
    assert sorted(queue.draw(3)) == [0, 1, 2]


def test_queue_serves_batches_larger_than_the_set() -> None:
    drawn = ShuffledQueue(3, rng()).draw(8)
    assert np.bincount(drawn).tolist() in ([2, 3, 3], [3, 2, 3], [3, 3, 2])


def test_pairs_stay_together(tmp_path: Path) -> None:
    for i in range(6):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[i, 0] = 255
        save(tmp_path / f"p{i}_D.png", pixels)
        save(tmp_path / f"p{i}_I.png", pixels.T)
    depth, photo = load_pairs(tmp_path, "--nd_dir", 8, 1, rng()).draw(6)
    assert torch.equal(depth, photo.transpose(2, 3))


def test_both_pictures_of_a_pair_are_mirrored_and_cut_alike() -> None:
    place = torch.arange(12.0).repeat(40, 1, 12, 1) + 100 * torch.arange(12.0)[:, None]
    first, second = Augmentation(flip=True, crop=6)((place, 2 * place + 1), rng())
    torch.testing.assert_close(second, 2 * first + 1, atol=1e-3, rtol=0)
    mirrored = first[:, 0, 0, 0] > first[:, 0, 0, 1]
    assert 10 < mirrored.sum() < 30
    upright = torch.where(mirrored[:, None, None, None], first.flip(-1), first)
    steps = upright.diff(dim=-1)[:, 0, 0, 3:8]
    torch.testing.assert_close(steps, torch.full_like(steps, 12 / 18), atol=1e-3, rtol=0)
    corners = upright[:, 0, 5, 5]
    assert corners.unique().numel() > 20
    assert upright.shape == place.shape


def test_windows_reach_every_place_of_the_enlarged_picture() -> None:
    place = torch.arange(8.0).repeat(200, 1, 8, 1) + 100 * torch.arange(8.0)[:, None]
    (cut,) = Augmentation(crop=2)((place,), rng())
    assert cut[:, 0, 3, 3].round(decimals=3).unique().numel() == 3 * 3


def test_without_augmentation_nothing_is_drawn_for_it() -> None:
    sides = (torch.rand(3, 1, 4, 4),)
    unused = rng()
    assert Augmentation()(sides, unused)[0] is sides[0]
    assert unused.random() == rng().random()


def test_any_depth_and_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    save(tmp_path / "below" / "b.png", gradient(4, 4))
    save(tmp_path / "a.JPG", gradient(4, 4))
    (tmp_path / "notes.txt").write_text("no picture")
    assert [p.name for p in list_pictures(tmp_path, "--synth_dir")] == ["a.JPG", "b.png"]


def test_a_list_names_pairs_of_two_folders(tmp_path: Path) -> None:
    for side, values in (("synth", gradient(8, 8)), ("real", gradient(8, 8).T)):
        (tmp_path / side).mkdir()
        for name in ("a b", "é", "c"):
            save(tmp_path / side / f"{name}.png", values)
    folders = str(tmp_path / "synth"), str(tmp_path / "real")
    listing = tmp_path / "pairs.txt"
    listing.write_bytes("\ufeffa b.png\té.png\r\n\r\né.png\tc.png\r\n".encode())
    pairs = load_listed(listing, folders, 8, 1, rng())
    assert pairs.names == ["a b", "é"]
    assert torch.equal(pairs.sides[0], pairs.sides[1].transpose(2, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png b.png", "pair 1: give two names"),
        ("a.png\tb.png\tc.png", "pair 1"),
        ("\ta.png", "pair 1"),
        ("\n\n", "holds no pairs"),
        ("a.png\tnone.png", r"none\.png, which is not there"),
    ],
)
def test_lists_that_name_no_pairs_are_refused(tmp_path: Path, text: str, message: str) -> None:
    save(tmp_path / "a.png", gradient(8, 8))
    (tmp_path / "list").write_text(text)
    with pytest.raises(UserError, match=message):
        load_listed(tmp_path / "list", (str(tmp_path), str(tmp_path)), 8, 1, rng())
    with pytest.raises(UserError, match="cannot be read"):
        load_listed(tmp_path / "no list", (str(tmp_path), str(tmp_path)), 8, 1, rng())


def test_broken_pictures_are_counted_and_the_others_read(tmp_path: Path, capsys) -> None:
    save(tmp_path / "a.png", gradient(8, 8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "._a.png").write_bytes(bytes.fromhex("0005160700020000") + bytes(99))
    (tmp_path / "album.png").mkdir()
    assert load_folder(tmp_path, "--synth_dir", 8, 1, rng()).names == ["a"]
    lines = capsys.readouterr().err.splitlines()
    assert any("1 hidden: ._a.png" in line for line in lines)
    assert any(line.startswith("left out: 1 broken, ") and "broken.png" in line for line in lines)


def test_files_that_differ_in_their_ending_only_are_refused(tmp_path: Path) -> None:
    for name in ("x_D.png", "x_I.png", "x_I.jpg"):
        save(tmp_path / name, gradient(8, 8))
    with pytest.raises(UserError, match=r"x_I\.jpg and .*x_I\.png have one name but for"):
        find_pairs(tmp_path, "--nd_dir")


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--real_dir: .*none does not exist; name a folder"):
        list_pictures(tmp_path / "none", "--real_dir")
    with pytest.raises(UserError, match=r"holds no pictures \(JPEG"):
        list_pictures(tmp_path, "--real_dir")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_unreadable_pictures_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png: cannot be read"):
        load_folder(tmp_path, "--synth_dir", 8, 1, rng())


def test_truncated_and_oversized_pictures_are_named(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "cut.png", gradient(64, 64))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"cut\.png: cannot be read"):
        read_picture(path, 1)
    monkeypatch.setattr("eyescream_py.data.pictures.MAX_PIXELS", 100)
    with pytest.raises(UserError, match="64x64 pixels are too many"):
        read_picture(save(tmp_path / "huge.png", gradient(64, 64)), 1)


def test_lonely_and_misnamed_files_of_a_paired_folder_are_named(tmp_path: Path) -> None:
    save(tmp_path / "x_D.png", gradient(4, 4))
    with pytest.raises(UserError, match=r"x in .* lacks its _D or its _I"):
        find_pairs(tmp_path, "--nd_dir")
    save(tmp_path / "other.png", gradient(4, 4))
    with pytest.raises(UserError, match=r"other\.png is named neither"):
        find_pairs(tmp_path, "--nd_dir")
