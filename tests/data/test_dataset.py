"""Folders, Torch 7 files and embedded faces -> Dataset; its batches and its split."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py import torch7
from eyescream_py.data import dataset, decode
from eyescream_py.data.dataset import EMBEDDED, Dataset, load_dataset
from eyescream_py.data.pairs import coarse_and_diff, coarse_images
from eyescream_py.system.errors import UserError
from eyescream_py.torch7 import image
from tests.golden_data import fill
from tests.picture_files import faces, write_faces


def load(path, channels=1, size=25, **options):
    return load_dataset(path, channels, size, cache=False, **options)


def test_folder_in_the_order_of_names_with_sub_folders(tmp_path, capsys):
    write_faces(tmp_path / "b", 2, ".pgm")
    write_faces(tmp_path / "a", 1, ".png")
    write_faces(tmp_path, 1, ".PGM")
    (tmp_path / "notes.txt").write_text("no picture")
    write_faces(tmp_path / ".hidden", 1)
    data = load(tmp_path)
    assert data.images.dtype == torch.uint8
    in_order = [0, 0, 1, 0]  # a/face_000, b/face_000, b/face_001, face_000
    np.testing.assert_array_equal(data.images[:, 0].numpy(), faces()[in_order])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Loading new training data...", "<dataset> Loaded 4 filepaths",
        "left out: 1 hidden: .hidden, 1 of other formats (.txt)",
    ]  # fmt: skip


def test_gray_becomes_colour_by_repeating_and_colour_gray_by_luma(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / "1.png")
    Image.fromarray(colour[..., 1]).save(tmp_path / "2.png")
    rgb = load(tmp_path, 3, 20).images
    np.testing.assert_array_equal(rgb[0].permute(1, 2, 0).numpy(), colour)
    assert torch.equal(rgb[1], rgb[1, :1].expand(3, -1, -1))
    gray = load(tmp_path, 1, 20).images[0, 0].numpy()
    np.testing.assert_array_equal(gray, np.rint(colour @ [0.299, 0.587, 0.114]))


@pytest.mark.parametrize("size", [16, 25, 32])
def test_pixels_are_those_of_lua_scale_to_half_a_level(tmp_path, size):
    write_faces(tmp_path, 3)
    expected = image.scale(torch.from_numpy(faces()[:3]).float(), size)
    got = load(tmp_path, 1, size).images[:, 0].float()
    assert (got - expected).abs().max() <= 0.501


def test_processes_and_one_process_give_the_same(tmp_path, monkeypatch, capsys):
    write_faces(tmp_path, 9)
    (tmp_path / "face_004.png").write_bytes(b"")
    names = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(decode, "BLOCK", 2)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    results = []
    for limit in (1, 1000):
        monkeypatch.setattr(decode, "WORTH_PROCESSES", limit)
        rows = np.full((9, 3, 16, 16), 7, np.uint8)
        broken = decode.decode_all(tmp_path, names, rows, True)
        assert [name for name, _ in broken] == ["face_004.png"]
        results.append(rows)
    np.testing.assert_array_equal(*results)
    assert not results[0][4].any()


def test_floats_are_a_gather_in_0_to_1(tmp_path):
    write_faces(tmp_path, 5)
    data = load(tmp_path)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        rows = data.floats(torch.tensor([4, 0, 4]), dtype)
        assert rows.dtype == dtype
        assert torch.equal(rows, data.images[[4, 0, 4]].to(dtype) / 255)


def test_an_ending_in_capitals_is_a_t7_too(tmp_path):
    torch7.save(tmp_path / "BYTE.T7", torch.rand(6, 3, 8, 8))
    assert len(load(tmp_path / "BYTE.T7", 3, 8)) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_t7_tensor_keeps_its_values(tmp_path, dtype, capsys):
    values = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)
    torch7.save(tmp_path / "faces.t7", values)
    data = load(tmp_path / "faces.t7", 3, 8)
    assert torch.equal(data.images, values)
    assert torch.equal(data.floats(torch.tensor([5]), dtype), values[5:])
    assert "<dataset> Loaded 6 filepaths" in capsys.readouterr().out


def test_a_t7_of_bytes_is_0_to_255(tmp_path):
    values = torch.arange(6 * 3 * 8 * 8).remainder(256).byte().view(6, 3, 8, 8)
    torch7.save(tmp_path / "faces.t7", values)
    data = load(tmp_path / "faces.t7", 3, 8)
    assert torch.equal(data.images, values)
    assert torch.equal(data.floats(torch.tensor([5, 0])), values[[5, 0]].float() / 255)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.rand(6, 3, 9, 9), r"\(6, 3, 9, 9\).*--scale"),
        (torch.rand(6, 1, 8, 8), "--grayscale"),
        (torch.rand(3, 8, 8), r"\(3, 8, 8\), and \(N,3,8,8\) are needed"),
        (torch.rand(6, 3, 8, 8) + 0.5, "neither all within 0..1 nor all whole numbers of 0 to 255"),
        (torch.full((6, 3, 8, 8), 256), "within 0..1"),
        (torch.full((6, 3, 8, 8), float("nan")), "within 0..1"),
        ("words", "holds no pictures: an .N,C,H,W. tensor, a list of pictures, or a table with"),
    ],
)
def test_t7_that_does_not_fit_is_named(tmp_path, value, message):
    torch7.save(tmp_path / "faces.t7", value)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "faces.t7", 3, 8, sized_by="--scale or --grayscale")
    assert "faces.t7" in error.value.message


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "faces.t7")
    with pytest.raises(UserError, match="it is empty"):
        load(tmp_path / "faces.t7", 3, 8)


def test_an_empty_path_is_not_the_present_folder(tmp_path, monkeypatch):
    write_faces(tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the data set's path is empty; give a folder"):
        load("")
    assert len(load(".")) == 3


def test_t7_that_is_missing_or_no_torch_file_is_named(tmp_path):
    (tmp_path / "junk.t7").write_bytes(b"\xff" * 100)
    for name in ("junk.t7", "missing.t7"):
        with pytest.raises(UserError, match=name):
            load(tmp_path / name)


def test_embedded_faces_stand_in_for_a_missing_default_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dataset, "DEFAULT_FOLDER", tmp_path / "out_aug_64x64")
    data = load(None, 3, 32)
    assert data.name == "100 embedded LFW faces of scikit-image"
    assert data.images.shape == (5000, 3, 32, 32)
    assert "using the 100 embedded LFW faces of scikit-image" in capsys.readouterr().out
    write_faces(tmp_path / "out_aug_64x64", 2)
    assert len(load(None)) == 2


def test_embedded_copies_begin_with_the_face_itself_and_follow_the_seed():
    data = load(EMBEDDED)
    np.testing.assert_array_equal(data.images[::50, 0].numpy(), faces())
    assert torch.equal(data.images, load(EMBEDDED, augment_seed=43).images)
    other = load(EMBEDDED, augment_seed=44).images
    assert not torch.equal(data.images[1], other[1])
    distance = (data.images.float() - data.images[::50].float().repeat_interleave(50, 0)).abs()
    assert 5 < distance.mean() < 40  # copies differ from their face, and are still that face
    shuffled = (data.images[:2500].float() - data.images[2500:].float()).abs()
    assert distance.mean() < 0.75 * shuffled.mean()


def test_embedded_validation_shares_no_picture_with_training():
    validation, training = load(EMBEDDED).split(500)
    assert (len(validation), len(training)) == (500, 4500)
    assert len(load(EMBEDDED).split(320)[0]) == 300  # down to a border between pictures
    assert validation.borders == tuple(range(0, 500, 50))
    assert training.borders == tuple(range(0, 4500, 50))


def numbered(rows: int, **options) -> Dataset:
    images = torch.arange(rows, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return Dataset(images, "numbers", **options)


@pytest.mark.parametrize(
    ("rows", "wanted", "force", "expected"),
    [(100, 5, False, 5), (100, 50, False, 10), (100, 50, True, 50), (5, 500, False, 1)],
)
def test_split_never_validates_more_than_a_tenth_unless_forced(rows, wanted, force, expected):
    validation, training = numbered(rows).split(wanted, force)
    assert len(validation) == expected
    together = torch.cat([validation.images, training.images])
    assert together.flatten().tolist() == list(range(rows))


def test_split_cuts_between_the_copies_of_augmented_files(tmp_path):
    folder = tmp_path / "out_aug_64x64"
    folder.mkdir()
    for i, face in enumerate(faces()[:60]):
        Image.fromarray(face).save(folder / f"{i // 4:06d}_{i % 4:03d}.png")
    data = load(folder)
    assert data.borders == tuple(range(0, 60, 4))
    assert [len(part) for part in data.split(500)] == [4, 56]
    assert [len(part) for part in data.split(23, force=True)] == [20, 40]
    assert [len(part) for part in data.split(2)] == [4, 56]  # one whole picture is the least


@pytest.mark.parametrize(("rows", "wanted"), [(1, 1), (5, 5), (0, 1)])
def test_split_that_leaves_a_side_empty_is_refused(rows, wanted):
    with pytest.raises(UserError, match=f"--validation={wanted}: .* holds {rows} image"):
        numbered(rows).split(wanted, force=True)
    if rows < 2:
        with pytest.raises(UserError, match="cannot be split"):
            numbered(rows).split(wanted)


def test_copies_of_one_picture_are_said_to_be_copies():
    data = dataset.Dataset(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), "n", borders=(0,))
    for force in (False, True):
        with pytest.raises(UserError, match="there are copies of one picture only"):
            data.split(5, force)


def test_coarse_and_diff_add_up_to_the_fine_picture_in_float32():
    values = (fill(0.5, 0, 4, 3, 16, 16) + 0.5).double()
    data = Dataset(values, "values")
    indices = torch.tensor([2, 0])
    coarse, diff = coarse_and_diff(data, indices, 8, torch.float64)
    fine = values[indices].float()
    expected = image.scale(image.scale(fine, 8), 16)
    assert coarse.dtype == diff.dtype == torch.float64
    assert torch.equal(coarse, expected.double())
    assert torch.equal(diff, (fine - expected).double())
    assert diff.abs().max() > 0.05
    assert torch.equal(coarse_images(fine, 16), fine)


def test_a_missing_empty_or_wrong_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_text("")
    with pytest.raises(UserError, match=r"missing does not exist"):
        load(tmp_path / "missing")
    with pytest.raises(UserError, match=r"no pictures .*empty"):
        load(tmp_path / "empty")
    with pytest.raises(UserError, match=r"file.jpg is a file"):
        load(tmp_path / "file.jpg")

    def refuse(folder, endings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(dataset, "walk", refuse)
    with pytest.raises(UserError, match="empty: Permission denied"):
        load(tmp_path / "empty")


@pytest.mark.parametrize(("free", "streamed"), [(None, False), (96, False), (95, True)])
def test_pictures_go_to_the_device_where_they_take_at_most_half_of_its_free_memory(
    free, streamed, monkeypatch, capsys
):
    """48 bytes of pictures; the device of torch's that only counts stands for a GPU."""
    device = torch.device("meta")
    monkeypatch.setattr(dataset, "free_memory", lambda of: free if of == device else None)
    data = dataset.Dataset(torch.zeros(12, 1, 2, 2, dtype=torch.uint8), "n", borders=(0, 6))
    placed = dataset._placed(data, device)
    assert placed.device == device
    assert placed.borders == (0, 6)
    assert placed.streamed is streamed
    assert placed.images.device.type == ("cpu" if streamed else "meta")
    assert ("stay in host memory" in capsys.readouterr().out) is streamed
