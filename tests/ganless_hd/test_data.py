import itertools
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.ganless_hd.contours import photo_input
from eyescream_py.ganless_hd.data import (
    ContourPhotos,
    EndlessBatches,
    ResizedPhotos,
    cache_limit,
    centre_crop,
    find_photos,
    fixed_batches,
    fixed_pairs,
    load_photo,
    make_loader,
    random_crop,
    resize_shorter_side,
    survey,
    to_network,
)
from eyescream_py.system.errors import UserError

from .conftest import save_jpeg

CPU = torch.device("cpu")


def test_photos_are_found_at_any_depth_and_sorted(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    names = ["a/deep/2.jpg", "a/1.JPEG", "b/3.png"]
    for name in [*names, "a/notes.txt", "b/4.jpg.cached", "b/x.cached.jpg"]:
        (tmp_path / name).touch()
    found = find_photos([tmp_path / "b", tmp_path / "a", tmp_path]).paths
    assert found == sorted(tmp_path / name for name in names)
    assert find_photos([tmp_path], outside=tmp_path / "a").paths == [tmp_path / "b/3.png"]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"--dataroota=.*nowhere: no such folder"):
        find_photos([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no pictures"):
        find_photos([tmp_path])


def test_survey_tells_small_and_broken_photographs_apart(tmp_path):
    good = save_jpeg(tmp_path / "good.jpg", 90, 70)
    small = save_jpeg(tmp_path / "small.jpg", 90, 63)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    photos = [good, small, broken]
    found = survey(photos, 64, skip_small=True)
    assert (found.usable, found.small, found.broken) == ([good], [small], [broken])
    assert survey(photos, 64, skip_small=False).usable == [good, small]
    with pytest.raises(UserError, match="broken 1, with a side under 64 pixels 1"):
        survey([small, broken], 64, skip_small=True)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(90, 60, (150, 100)), (60, 90, (100, 150)), (50, 50, (100, 100)), (70, 60, (116, 100))],
)
def test_shorter_side_is_resized_and_the_other_cut_to_an_integer(width, height, expected):
    picture = np.zeros((height, width, 3), np.uint8)
    assert resize_shorter_side(picture, 100).shape[1::-1] == expected


def test_resizing_is_plain_bilinear():
    """Reducing 4 times reads the middle two pixels of four, whatever the others hold."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[1::4, 1::4] = picture[2::4, 1::4] = picture[1::4, 2::4] = picture[2::4, 2::4] = 90
    assert (resize_shorter_side(picture, 16) == 90).all()


def test_crop_offsets_leave_out_the_last_one():
    rng = np.random.default_rng(0)
    picture = np.zeros((14, 20, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(14)[:, None], np.arange(20)
    corners = {tuple(random_crop(picture, 10, rng)[0, 0, :2].tolist()) for _ in range(1000)}
    assert corners == set(itertools.product(range(4), range(10)))
    assert random_crop(picture, 10, rng).shape == (10, 10, 3)


def test_centre_crop():
    picture = np.arange(6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)
    assert np.array_equal(centre_crop(picture, 4), picture[1:5, 2:6])


def test_photographs_are_turned_upright_and_made_colour(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.new("L", (30, 20), 77).save(tmp_path / "turned.jpg", exif=exif)
    picture = load_photo(tmp_path / "turned.jpg")
    assert picture.shape == (30, 20, 3)
    assert abs(picture.astype(int) - 77).max() <= 1


@pytest.fixture
def dataset(photos) -> ContourPhotos:
    return ContourPhotos(ResizedPhotos(find_photos([photos]).paths, 72), 64, colormap=True, seed=5)


def test_items_are_pairs_of_input_and_target(dataset):
    inputs, target = dataset[3]
    assert inputs.shape == target.shape == (3, 64, 64)
    assert inputs.dtype == target.dtype == torch.uint8
    built = photo_input(target.permute(1, 2, 0).numpy())
    assert np.array_equal(inputs.permute(1, 2, 0).numpy(), built)


def test_items_depend_on_seed_and_number_alone(dataset):
    again = ContourPhotos(dataset.photos, 64, True, seed=5)
    other = ContourPhotos(dataset.photos, 64, True, seed=6)
    assert torch.equal(dataset[8][1], again[8][1])
    assert not torch.equal(dataset[8][1], other[8][1])
    assert not torch.equal(dataset[8][1], dataset[9][1])


def test_range_on_the_device():
    values = to_network(torch.tensor([[0, 255, 51]], dtype=torch.uint8), CPU)
    torch.testing.assert_close(values, torch.tensor([[-1.0, 1.0, -0.6]]))


def test_a_broken_photograph_is_named_once_and_another_taken(tmp_path, capsys):
    good = save_jpeg(tmp_path / "good.jpg", 80, 80)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(good.read_bytes()[:600])
    data = ContourPhotos(ResizedPhotos([cut, good], 72), 64, True, seed=0)
    targets = [data[number][1] for number in range(12)]
    assert all(target.float().std() > 1 for target in targets)
    assert capsys.readouterr().err.count("cut.jpg: cannot be decoded") == 1


def test_only_broken_photographs_end_with_a_message(tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(save_jpeg(tmp_path / "good.jpg", 80, 80).read_bytes()[:600])
    with pytest.raises(UserError, match="could not be decoded"):
        ContourPhotos(ResizedPhotos([cut], 72), 64, True, seed=0)[0]


def test_resized_copies_are_equal_reused_limited_and_mended(photos, tmp_path):
    paths = find_photos([photos]).paths[:3]
    plain = ResizedPhotos(paths, 72)
    cached = ResizedPhotos(paths, 72, tmp_path, limit=2)
    for _ in range(2):
        assert all(np.array_equal(plain[index], cached[index]) for index in range(3))
    copies = sorted(tmp_path.rglob("*.npy"))
    assert len(copies) == 2
    assert isinstance(cached[0], np.memmap)
    assert not isinstance(cached[2], np.memmap)
    for copy in copies:
        copy.write_bytes(copy.read_bytes()[:50])
    assert np.array_equal(cached[0], plain[0])
    assert isinstance(cached[0], np.memmap)


def test_copies_that_cannot_be_written_cost_only_time(photos, tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    paths = find_photos([photos]).paths[:1]
    monkeypatch.setattr("eyescream_py.ganless_hd.data.atomic_write", full)
    picture = ResizedPhotos(paths, 72, tmp_path, limit=1)[0]
    assert np.array_equal(picture, ResizedPhotos(paths, 72)[0])
    assert not list(tmp_path.rglob("*.npy"))


def test_copies_of_another_size_or_of_a_changed_photograph_are_others(tmp_path):
    path = save_jpeg(tmp_path / "one.jpg", 90, 80)
    cache = tmp_path / "cache"
    before = ResizedPhotos([path], 72, cache, limit=1)[0].copy()
    assert ResizedPhotos([path], 64, cache, limit=1)[0].shape == (64, 72, 3)
    save_jpeg(path, 90, 81, seed=1)
    after = ResizedPhotos([path], 72, cache, limit=1)[0]
    assert not np.array_equal(before, after)


def test_photographs_alike_but_for_folder_or_time_have_copies_of_their_own(tmp_path):
    """Of one name, or one path, and one size."""
    shades, cached = {}, {}
    for shade, (folder, time) in enumerate((("a", 1), ("b", 1), ("a", 2)), start=7):
        path = tmp_path / folder / "one.ppm"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 80), (shade,) * 3).save(path)
        os.utime(path, (time, time))
        copy = ResizedPhotos([path], 72, tmp_path / "cache", limit=1)
        cached[folder, time], shades[folder, time] = int(copy[0].max()), shade
        assert int(copy[0].max()) == shade  # from the disk
    assert cached == shades


def test_cache_limit_counts_photographs():
    assert cache_limit(1.0, 600) == 617
    assert cache_limit(0, 600) == 0


def test_epochs_end_with_a_short_batch():
    batches = list(itertools.islice(EndlessBatches(10, 4), 7))
    assert batches[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[3] == [10, 11, 12, 13]
    assert EndlessBatches(10000, 12).batches_per_epoch == 834


def test_batches_go_on_anywhere():
    every = list(itertools.islice(EndlessBatches(10, 4), 9))
    for first in range(6):
        assert list(itertools.islice(EndlessBatches(10, 4, first), 3)) == every[first : first + 3]


def test_workers_deliver_the_same_batches_as_the_main_process(dataset):
    batches = EndlessBatches(6, 2)
    here, there = (
        list(itertools.islice(make_loader(dataset, batches, workers, CPU), 4)) for workers in (0, 2)
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


class Struck(torch.utils.data.Dataset):
    """Sends its own process signals once; the numbers of those that it then would not survive."""

    def __getitem__(self, number):
        for sent in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM) if number == 0 else ():
            os.kill(os.getpid(), sent)
        return [n for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
                if signal.getsignal(n) == signal.SIG_DFL]  # fmt: skip


def test_workers_leave_signals_to_the_main_process_and_heed_a_second_sigterm():
    loader = make_loader(Struck(), EndlessBatches(1, 1), 1, CPU)
    assert next(iter(loader)) == [signal.SIGTERM]


def test_held_out_batches_leave_out_what_is_broken(photos, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"none")
    paths = [*find_photos([photos]).paths[:4], broken]
    batches = fixed_batches(fixed_pairs(ResizedPhotos(paths, 72), 64, colormap=False), 3)
    assert [len(inputs) for inputs, _ in batches] == [3, 1]
    assert set(batches[0][0].unique().tolist()) <= {0, 255}
    assert "broken.jpg" in capsys.readouterr().err
