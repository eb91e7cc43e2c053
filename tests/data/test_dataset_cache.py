"""The decoded pictures on disk: used only when they are what they should be."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.data import cache as dataset_cache
from eyescream_py.data import dataset
from eyescream_py.data.cache import cached_rows
from eyescream_py.data.dataset import load_dataset
from eyescream_py.system.errors import UserError
from tests.picture_files import faces, write_faces


@pytest.fixture
def folder(tmp_path):
    write_faces(tmp_path / "faces", 30)
    return tmp_path / "faces"


@pytest.fixture
def decodings(monkeypatch):
    """The number of files of every decoding there was."""
    counts = []
    decode = dataset.decode_all

    def counted(folder, names, out, progress):
        counts.append(len(names))
        return decode(folder, names, out, progress)

    monkeypatch.setattr(dataset, "decode_all", counted)
    return counts


def check(folder: Path, count: int = 30, size: int = 25) -> None:
    images = load_dataset(folder, 1, size).images
    assert images.shape == (count, 1, size, size)
    if size == 25:
        np.testing.assert_array_equal(images[:, 0].numpy(), faces()[:count])


def cache_file(folder: Path, suffix: str) -> Path:
    (found,) = (folder.parent / ".cache").glob("*" + suffix)
    return found


def test_a_second_load_decodes_nothing(folder, decodings):
    check(folder)
    left = folder.parent / ".cache" / f".faces.u8.{os.getpid()}.tmp"  # by one that was killed
    left.touch()
    check(folder)
    assert decodings == [30]
    assert not left.exists()
    check(folder, size=16)
    check(folder)
    assert decodings == [30, 30]
    assert not list((folder.parent / ".cache").glob("*.tmp"))


def test_without_cache_nothing_is_written(folder, decodings):
    load_dataset(folder, 1, 25, cache=False)
    assert not (folder.parent / ".cache").exists()


def test_a_changed_folder_is_read_again(folder, decodings):
    check(folder)
    write_faces(folder, 31)
    check(folder, 31)
    (folder / "face_030.png").unlink()
    check(folder)
    swapped = folder / "face_000.png"
    swapped.write_bytes((folder / "face_001.png").read_bytes())
    images = load_dataset(folder, 1, 25).images
    assert torch.equal(images[0], images[1])
    status = swapped.stat()
    os.utime(swapped, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    load_dataset(folder, 1, 25)
    assert decodings == [30, 31, 30, 30, 30]


def test_another_folder_of_that_name_has_a_cache_of_its_own(folder, decodings, tmp_path):
    check(folder)
    write_faces(tmp_path / "other" / "faces", 7)
    check(tmp_path / "other" / "faces", 7)
    check(folder)
    assert decodings == [30, 7]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def claim_broken_file(path: Path) -> None:
    record = json.loads(path.read_text())
    record["notes"]["broken"] = [["face_003.png", "so it is said"]]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".u8", cut),
        (".u8", flip_one_bit),
        (".u8", Path.unlink),
        (".json", cut),
        (".json", claim_broken_file),
        (".json", Path.unlink),
        (".json", lambda path: path.write_text("[]")),
        (".json", lambda path: path.write_text("{}")),
        (".json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_damaged_cache_is_made_anew(folder, decodings, suffix, damage):
    check(folder)
    damage(cache_file(folder, suffix))
    check(folder)
    check(folder)
    assert decodings == [30, 30]


@pytest.mark.parametrize("suffix", [".u8", ".json", ".lock"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_in_its_place_is_not_waited_for(folder, decodings, suffix, kind):
    check(folder)
    path = cache_file(folder, ".u8").with_suffix(suffix)
    path.unlink()
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}
    make[kind](path)
    check(folder)


def test_pixels_of_other_code_are_made_anew(folder, decodings, monkeypatch):
    check(folder)
    monkeypatch.setattr(dataset, "CODE_VERSION", dataset.CODE_VERSION + 1)
    check(folder)
    assert decodings == [30, 30]


def test_writing_into_the_images_leaves_the_cache_alone(folder, decodings):
    load_dataset(folder, 1, 25).images.zero_()
    check(folder)
    assert decodings == [30]


def test_a_full_disk_means_a_run_without_cache(folder, decodings, monkeypatch, capsys):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    check(folder)
    assert "Not keeping the decoded pictures on disk: No space left" in capsys.readouterr().out
    assert not list((folder.parent / ".cache").glob("*.u8"))
    assert not list((folder.parent / ".cache").glob("*.tmp"))


def test_where_the_data_set_cannot_be_written_the_home_folder_keeps_it(
    folder, decodings, monkeypatch, tmp_path
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    check(folder)
    check(folder)
    assert decodings == [30]
    assert len(list((tmp_path / "home" / "eyescream_py").glob("*.u8"))) == 1


def test_a_relative_cache_folder_is_ignored(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    check(folder)
    assert len(list((tmp_path / "home" / ".cache" / "eyescream_py").glob("*.u8"))) == 1
    monkeypatch.setenv("HOME", "relative")
    check(folder)
    assert "pictures on disk: this user has no home folder" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "home"}


def test_a_folder_that_is_refused_leaves_no_cache(folder):
    for path in list(folder.iterdir())[:20]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="20 of 30 pictures"):
        load_dataset(folder, 1, 25)
    assert not list((folder.parent / ".cache").glob("*.u8"))
    assert not list((folder.parent / ".cache").glob("*.tmp"))


def test_a_broken_picture_stays_left_out_when_it_comes_from_the_cache(folder, decodings, capsys):
    (folder / "face_005.png").write_bytes(b"")
    for _ in range(2):
        images = load_dataset(folder, 1, 25).images
        np.testing.assert_array_equal(images[:, 0].numpy(), np.delete(faces()[:30], 5, 0))
        assert "left out: 1 broken: face_005.png" in capsys.readouterr().out
    assert decodings == [30]


def test_a_picture_that_can_be_read_by_now_is_taken_although_the_cache_left_it_out(
    folder, decodings, capsys, monkeypatch
):
    """Its rights were changed, which no date of the file tells."""
    opened = os.open

    def forbidden(path, *rest, **named):
        if str(path).endswith("face_005.png"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", forbidden)
        assert len(load_dataset(folder, 1, 25).images) == 29
    assert "left out: 1 broken: face_005.png (Permission denied)" in capsys.readouterr().out
    for _ in range(2):
        check(folder)
        assert "left out" not in capsys.readouterr().out
    assert decodings == [30]


MAKER = """
import os, sys, time
from pathlib import Path
from eyescream_py.data.cache import cached_rows

def fill(rows):
    time.sleep(0.5)
    rows[:] = 9
    return {"pid": os.getpid()}

rows, notes = cached_rows(Path(sys.argv[1]), {"a": 1}, (1000, 10), fill)
print(notes["pid"], rows.min())
"""


def test_of_processes_that_want_the_same_rows_one_makes_them(tmp_path):
    command = [sys.executable, "-c", MAKER, str(tmp_path / "rows")]
    makers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {maker.communicate(timeout=300)[0] for maker in makers}
    assert len(answers) == 1
    assert int(answers.pop().split()[0]) in {maker.pid for maker in makers}


CUT = """
import os, sys
from pathlib import Path
from eyescream_py.data.cache import cached_rows

def fill(rows):
    rows[:] = 9
    return {}

stem = Path(sys.argv[1])
for fill in (fill, None):  # made, then found
    rows, _ = cached_rows(stem, {"a": 1}, (1000, 10), fill)
    os.truncate(f"{stem}.u8", 0)
    print(rows.min(), rows.max())
    Path(f"{stem}.u8").write_bytes(b"\t" * 10000)
"""


def test_a_cache_that_is_cut_short_in_mid_run_leaves_the_rows_as_they_are(tmp_path):
    """A process of its own: of a mapping SIGBUS would end it."""
    command = [sys.executable, "-c", CUT, str(tmp_path / "rows")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "9 9\n9 9\n")


def test_rows_that_may_not_fit_into_memory_are_mapped_from_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_cache, "MOST_READ", 29)
    for _ in range(2):  # made, then found
        rows, _ = cached_rows(tmp_path / "rows", {}, (10, 3), lambda rows: rows.fill(7) or {})
        assert isinstance(rows, np.memmap)
        assert Path(rows.filename) == dataset_cache._data(tmp_path / "rows")
        assert rows.tolist() == [[7] * 3] * 10
        rows[:] = 1
        assert Path(rows.filename).read_bytes() == bytes([7] * 30)
    assert not isinstance(cached_rows(tmp_path / "a", {}, (9, 3), lambda rows: {})[0], np.memmap)
    other = cached_rows(tmp_path / "a", {}, (3, 9), lambda rows: rows.fill(5) or {})[0]
    assert other.tolist() == [[5] * 9] * 3
