import errno
import os
import socket

import pytest

from eyescream_py.data.walk import walk

ENDINGS = (".jpg", ".png")


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_any_depth_sorted_with_upper_case_endings(tmp_path):
    names = ["a.jpg", "B.PNG", "a/b/c/d/e/f/g/deep.JPG", "a/c.png"]
    for name in names:
        touch(tmp_path / name)
    found = walk(tmp_path, ENDINGS)
    assert found.names == sorted(names)
    assert found.paths == [tmp_path / name for name in sorted(names)]
    assert found.line() == ""
    assert {file.size for file in found.files} == {1}


def test_other_formats_are_counted_with_their_endings(tmp_path):
    for i in range(3):
        touch(tmp_path / f"{i}.jpg")
    for i in range(4):
        touch(tmp_path / f"{i}.heic")
    touch(tmp_path / "README")
    assert walk(tmp_path, ENDINGS).line() == "left out: 5 of other formats (.heic, no ending)"


def test_linked_folders_are_walked_once_and_loops_are_named(tmp_path):
    photos = tmp_path / "elsewhere"
    touch(photos / "one.jpg")
    os.symlink("..", photos / "up")
    folder = tmp_path / "set"
    touch(folder / "a" / "two.jpg")
    os.symlink("../../elsewhere", folder / "a" / "more")
    os.symlink("a", folder / "again")
    os.symlink(folder / "a" / "two.jpg", folder / "linked.jpg")
    found = walk(folder, ENDINGS)
    assert found.names == ["a/more/one.jpg", "a/two.jpg", "linked.jpg"]
    assert "2 backward links: again, a/more/up" in found.line()


def test_broken_links_and_what_is_no_regular_file(tmp_path):
    os.symlink("nowhere", tmp_path / "gone.jpg")
    os.symlink("round.jpg", tmp_path / "round.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        one.bind("s.jpg")
        os.chdir(here)
        found = walk(tmp_path, ENDINGS)
    assert found.names == []
    assert "2 broken links: gone.jpg, round.jpg" in found.line()
    assert "2 no regular file: pipe.jpg, s.jpg" in found.line()


def test_hidden_files_of_macs_are_left_out(tmp_path):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "._a.jpg")
    touch(tmp_path / "__MACOSX" / "a.jpg")
    touch(tmp_path / ".trash" / "b.jpg")
    touch(tmp_path / ".generated.json")
    (tmp_path / "album.jpg").mkdir()
    found = walk(tmp_path, ENDINGS)
    assert found.names == ["a.jpg"]
    assert found.line() == "left out: 3 hidden: ._a.jpg, .trash, __MACOSX"


def test_names_are_bytes(tmp_path):
    name = b"Jos\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass
    os.symlink("nowhere", os.path.join(os.fsencode(tmp_path), b"\xff.jpg"))
    found = walk(tmp_path, ENDINGS)
    assert [os.fsencode(n) for n in found.names] == [name]
    assert found.line().isascii()


def test_unreadable_folders_are_told(tmp_path, monkeypatch):
    touch(tmp_path / "closed" / "a.jpg")
    scandir = os.scandir

    def refusing(path):  # root may read everything, whatever a folder's mode
        if os.path.basename(path) == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        found = walk(tmp_path, ENDINGS)
    assert "1 unreadable: closed" in found.line()


def test_the_folder_itself_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        walk(tmp_path / "none", ENDINGS)
    with pytest.raises(NotADirectoryError):
        walk(touch(tmp_path / "file"), ENDINGS)


def test_any_endings_and_broken_ones_of_the_caller(tmp_path):
    touch(tmp_path / "HEAD.PLY")
    found = walk(tmp_path, (".ply",))
    assert found.names == ["HEAD.PLY"]
    assert found.line([("HEAD.PLY", "cut short")]) == "left out: 1 broken: HEAD.PLY (cut short)"


def test_what_the_program_made_is_left_out(tmp_path):
    for name in ("a.jpg", "runs/one/metrics.jsonl", "runs/one/pictures/e.png", "out/b.jpg"):
        touch(tmp_path / name)
    found = walk(tmp_path, ENDINGS, without=(tmp_path / "out", tmp_path / "none"))
    assert found.names == ["a.jpg"]
    assert found.line() == "left out: 2 made by this program: out, runs/one"
    # whoever names such a folder means it
    assert walk(tmp_path / "out", ENDINGS, without=(tmp_path / "out",)).names == ["b.jpg"]
    assert walk(tmp_path / "runs/one", ENDINGS).names == ["pictures/e.png"]
