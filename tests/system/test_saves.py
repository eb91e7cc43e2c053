"""Checkpoints of a run on a full disk, and in a folder that is renamed under it."""

import errno
import os

import pytest

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.locks import writing
from eyescream_py.system.saves import Saves, keep_earlier, stamp
from tests.system.test_locks import holder


def writer(path, content):
    def write():
        with atomic_write(path, keep_old=True) as file:
            file.write(content)

    return write


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(".lock")}


@pytest.fixture
def room_for_two(monkeypatch, tmp_path):
    """A disk that holds two checkpoints of 10 bytes."""
    fsync = os.fsync

    def full(descriptor):
        if len({p.stat().st_ino for p in tmp_path.iterdir()}) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def test_where_two_checkpoints_fill_the_disk_each_new_one_is_kept(room_for_two, tmp_path, capsys):
    path, saves = tmp_path / "a.net", Saves("free the place")
    for turn in range(4):
        assert saves.save(path, last=turn == 3, write=writer(path, b"%010d" % turn))
    assert contents(tmp_path) == {"a.net": b"%010d" % 3, "a.net.old": b"%010d" % 2}
    assert capsys.readouterr().out.count("a.net.old was removed to make room") == 2


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9")],
)
def test_too_little_memory_for_a_save_is_told_and_the_next_one_makes_up_for_it(
    error, tmp_path, capsys
):
    path, saves = tmp_path / "a.net", Saves("free the place")

    def greedy():
        raise error

    assert not saves.save(path, last=False, write=greedy)
    assert capsys.readouterr().out == (
        f"Could not save {path}: there is not enough memory; training goes on and tries again.\n"
    )
    with pytest.raises(UserError, match="not enough memory; free the place"):
        saves.save(path, last=True, write=greedy)
    assert saves.save(path, last=False, write=writer(path, b"whole"))


def test_a_fault_of_the_program_in_a_save_is_none_of_the_system():
    def faulty():
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        Saves("").save("a.net", last=False, write=faulty)


def test_the_old_one_stays_where_the_newer_may_be_damaged(room_for_two, tmp_path):
    """A run that went on from the old one has not seen the other."""
    path = tmp_path / "a.net"
    before = {"a.net": b"damaged", "a.net.old": b"whole"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"could not save .*No space left"):
        Saves("free the place").save(path, last=True, write=writer(path, b"new"))
    assert contents(tmp_path) == before


@pytest.fixture
def moved(tmp_path):
    """A lock that was taken in a folder which is another one now, with an `a.net` of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    with writing(folder / "a.net", "wait") as lock:
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / "a.net").write_bytes(b"another's")
        yield folder, lock


def test_a_renamed_folder_s_successor_is_locked_and_loses_nothing(moved, capsys):
    folder, lock = moved
    path, saves = folder / "a.net", Saves("free the place", kept=True, lock=lock)
    for turn in range(3):
        assert saves.save(path, last=False, write=writer(path, b"%d" % turn))
    (dated,) = folder.glob("a_20*.net")
    assert dated.read_bytes() == b"another's"
    assert path.read_bytes() == b"2"
    assert capsys.readouterr().out == (
        f"{path} may be another run's by now: it is kept as {dated.name}.\n"
    )
    assert saves.displaced
    with pytest.raises(UserError, match="is writing"), writing(path, "wait"):
        pass


def test_without_its_lock_s_file_a_run_knows_its_own_checkpoint(tmp_path, capsys):
    """Someone tidied up. What another run wrote there meanwhile is kept."""
    path = tmp_path / "a.net"
    with writing(path, "wait") as lock:
        saves = Saves("free the place", lock=lock)
        for turn in range(2):
            assert saves.save(path, last=False, write=writer(path, b"%d" % turn))
            (tmp_path / ".a.net.lock").unlink()
        assert (contents(tmp_path), capsys.readouterr().out) == (
            {"a.net": b"1", "a.net.old": b"0"}, "",
        )  # fmt: skip
        writer(path, b"another's")()
        assert saves.save(path, last=False, write=writer(path, b"2"))
    (dated,) = tmp_path.glob("a_20*.net")
    assert dated.read_bytes() == b"another's"


def test_the_only_checkpoint_makes_no_room(room_for_two, tmp_path):
    """Someone removed the newest; `.old` is all that is left."""
    path, saves = tmp_path / "a.net", Saves("free the place", kept=True)
    for name in ("a.net.old", "other"):
        (tmp_path / name).write_bytes(b"0123456789")
    assert not saves.save(path, last=False, write=writer(path, b"new"))
    assert set(contents(tmp_path)) == {"a.net.old", "other"}


def test_another_run_s_folder_is_left_alone_until_that_run_ends(moved, capsys):
    folder, lock = moved
    path, saves = folder / "a.net", Saves("give another --save", kept=True, lock=lock)
    process = holder(path)
    try:
        assert not saves.save(path, last=False, write=writer(path, b"ours"))
        assert path.read_bytes() == b"another's"
        said = f"Could not save {path}: process {process.pid} "
        assert capsys.readouterr().out.startswith(said)
        with pytest.raises(UserError, match="is writing it; give another --save"):
            saves.save(path, last=True, write=writer(path, b"ours"))
        lock.release()  # as at the end of a run: the other one's lock stays
        with pytest.raises(UserError, match="is writing"), writing(path, "wait"):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("seconds", [1e12, -1e12, 1e300, float(2**62)])
def test_a_file_of_no_possible_date_is_kept_all_the_same(seconds):
    """tmpfs and NFS hold such times."""
    assert stamp(seconds) == "undated"
    assert stamp(86400 * 365.25 * 40).startswith("20")


def test_without_hard_links_no_dated_file_is_overwritten(tmp_path, monkeypatch):
    def forbidden(*paths):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", forbidden)
    path = tmp_path / "a.net"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (1, 1))  # the clock was set back, or both fall into one second
        assert keep_earlier(path).read_bytes() == content
    assert sorted(contents(tmp_path).values()) == [b"one", b"two", b"two"]


def test_a_link_to_nowhere_of_that_name_is_left_alone(tmp_path):
    """The dated file was moved to a disk that is not mounted now."""
    path = tmp_path / "a.net"
    path.write_bytes(b"one")
    link = tmp_path / f"a_{stamp(path.stat().st_mtime)}.net"
    link.symlink_to(tmp_path / "disk" / link.name)
    assert keep_earlier(path).read_bytes() == b"one"
    assert link.is_symlink()
