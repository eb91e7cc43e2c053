"""The downloader against a server of this machine that breaks off, changes files, refuses ranges,
or sends pages.
"""

import contextlib
import errno
import hashlib
import http.server
import io
import os
import random
import threading
import zipfile

import pytest
from click.testing import CliRunner

from eyescream_py.srez import download_data
from eyescream_py.srez.download_data import download, main, parse_checksum, unpack
from eyescream_py.srez.make_data import render_face
from eyescream_py.system import progress
from eyescream_py.system.errors import UserError


def an_archive(count=3):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as package:
        for i in range(count):
            jpeg = io.BytesIO()
            render_face(i).save(jpeg, "JPEG")
            package.writestr(f"img_align_celeba/{i + 1:06d}.jpg", jpeg.getvalue())
        package.writestr("../../escape.jpg", b"outside")
        package.writestr("readme.txt", b"text")
    return data.getvalue()


class Server:
    """Serves `data`; each answer may be cut after `cuts.pop(0)` bytes. Records the ranges that were
    asked for.
    """

    def __init__(self):
        self.data, self.tag, self.kind = b"", '"one"', "application/zip"
        self.cuts, self.ranges, self.honours_ranges, self.status = [], [], True, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/faces.zip"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        start = 0
        if self.status:
            handler.send_error(self.status)
            return
        if wanted and self.honours_ranges and handler.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(self.data):
                handler.send_error(416)
                return
        handler.send_response(206 if start else 200)
        rest = self.data[start:]
        handler.send_header("Content-Length", str(len(rest)))
        handler.send_header("Content-Type", self.kind)
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.end_headers()
        handler.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download_data.time, "sleep", lambda seconds: None)
    server = Server()
    server.data = an_archive()
    yield server
    server.http.shutdown()
    server.http.server_close()


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def fetch(server, target, checksum=None, retries=5):
    wanted = sha(server.data) if checksum is None else checksum
    download(server.url, target, wanted, retries, say=lambda line: None)


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [1000, 500]
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.data
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.cuts = [1000]
    with pytest.raises(UserError, match="keeps what came"):
        fetch(server, tmp_path / "a.zip", retries=0)
    assert not (tmp_path / "a.zip").exists()
    fetch(server, tmp_path / "a.zip")
    assert server.ranges == [None, "bytes=1000-"]
    assert (tmp_path / "a.zip").read_bytes() == server.data


def test_a_transfer_complete_but_not_accepted_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(server.data)
    (tmp_path / "a.zip.part.json").write_text('{"tag": "\\"one\\""}')
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.data


@pytest.mark.parametrize("change", ["file", "server"])
def test_a_changed_file_or_a_server_without_ranges_starts_anew(server, tmp_path, change):
    server.cuts = [1000]
    with pytest.raises(UserError):
        fetch(server, tmp_path / "a.zip", retries=0)
    if change == "file":
        server.data, server.tag = an_archive(2), '"two"'
    else:
        server.honours_ranges = False
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.data


def test_without_a_tag_nothing_is_resumed(server, tmp_path):
    server.tag, server.cuts = "", [1000]
    fetch(server, tmp_path / "a.zip")
    assert server.ranges == [None, None]
    assert (tmp_path / "a.zip").read_bytes() == server.data


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(UserError, match="its sha256 is"):
        fetch(server, tmp_path / "a.zip", sha(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_refusals_and_web_pages_are_reported(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="web page"):
        fetch(server, tmp_path / "a.zip")
    server.status = 404
    with pytest.raises(UserError, match="404"):
        fetch(server, tmp_path / "a.zip")
    assert len(server.ranges) == 2
    server.status = 503
    with pytest.raises(UserError, match="503"):
        fetch(server, tmp_path / "a.zip", retries=2)
    assert len(server.ranges) == 5


def test_other_addresses_are_refused(tmp_path):
    with pytest.raises(UserError, match="http or https"):
        download("file:///etc/hostname", tmp_path / "a", "", 0)
    with pytest.raises(UserError, match="Connection refused; check the address and the network"):
        download("http://127.0.0.1:9/nothing", tmp_path / "a", "", 0)
    with pytest.raises(UserError, match="is no address"):
        download("http://[::1", tmp_path / "a", "", 0)
    with pytest.raises(UserError, match="control characters"):
        download("http://a b/c", tmp_path / "a", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_not_tried_again(server, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_data, "_copy", full)
    with pytest.raises(OSError, match="No space left") as caught:
        fetch(server, tmp_path / "a.zip")
    assert caught.value.filename == str(tmp_path / "a.zip.part")
    assert len(server.ranges) == 1


def test_what_came_is_told_while_it_comes(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(download_data, "MB", 100)
    fetch(server, tmp_path / "a.zip")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{len(server.data) // 100} of {len(server.data) // 100} MB, ")


def test_checksums_are_checked_before_anything_is_fetched():
    assert parse_checksum("MD5:" + "0" * 32) == ("md5", "0" * 32)
    for wrong in ("abc", "md5:12", "crc:00000000", "sha256:" + "0" * 32):
        with pytest.raises(UserError, match="checksum"):
            parse_checksum(wrong)


def test_unpacking_is_flat_and_stays_inside(tmp_path):
    archive, folder = tmp_path / "a.zip", tmp_path / "in" / "faces"
    archive.write_bytes(an_archive())
    folder.mkdir(parents=True)
    assert unpack(archive, folder) == 4
    assert sorted(p.name for p in folder.iterdir()) == [
        "000001.jpg",
        "000002.jpg",
        "000003.jpg",
        "escape.jpg",
    ]
    assert sorted(p.name for p in tmp_path.rglob("*.jpg")) == sorted(
        p.name for p in folder.iterdir()
    )


def test_archives_that_are_none_or_hold_no_pictures_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no zip archive"):
        unpack(tmp_path / "a.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as package:
        package.writestr("readme.txt", "x")
    with pytest.raises(UserError, match="no JPEG files"):
        unpack(tmp_path / "b.zip", tmp_path)


def test_the_command_fetches_and_unpacks_and_takes_an_archive_that_is_there(server, tmp_path):
    arguments = ["--url", server.url, "--checksum", sha(server.data)]
    arguments += ["--archive", str(tmp_path / "x" / "a.zip"), "--dataset", str(tmp_path / "faces")]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert "4 pictures" in first.output
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0
    assert len(server.ranges) == 1


def zipped(path, name, data, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as package:
        package.writestr(name, data)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members_are_one_line(tmp_path, method):
    archive = tmp_path / "a.zip"
    zipped(archive, "a.jpg", random.Random(1).randbytes(5000), method)
    whole = archive.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 4))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        archive.write_bytes(data)
        with contextlib.suppress(UserError):  # the one error that is allowed
            unpack(archive, tmp_path)
        (tmp_path / "a.jpg").unlink(missing_ok=True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_encrypted_and_swollen_archives_are_refused(tmp_path):
    archive = tmp_path / "a.zip"
    zipped(archive, "a.jpg", b"x" * 100)
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flag of encryption, in both headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        unpack(archive, tmp_path)
    zipped(archive, "a.jpg", bytes(65 << 20))
    with pytest.raises(UserError, match="68157440 bytes"):
        unpack(archive, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--archive", "{tmp}/pipe"), ("--archive", "/dev/full"), ("--dataset", "{tmp}/file")],
)
def test_what_could_not_be_kept_is_not_fetched(flag, value, tmp_path):
    """Nobody listens at port 9: the address is never asked."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    places = {"--archive": f"{tmp_path}/a.zip", "--dataset": f"{tmp_path}/faces"}
    places[flag] = value.format(tmp=tmp_path)
    words = [f"{name}={place}" for name, place in places.items()]
    done = CliRunner().invoke(main, ["--url=http://127.0.0.1:9/x.zip", "--retries=0", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {flag}={places[flag]}: ")
    assert (tmp_path / "file").read_text() == "mine"
