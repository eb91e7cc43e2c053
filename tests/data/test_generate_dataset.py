"""dataset/generate_dataset.py, run as its users run it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyescream_py.data import augmentation
from tests.picture_files import write_photos

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "dataset" / "generate_dataset.py"
PHOTOS = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lfw")
    write_photos(folder, PHOTOS)
    return folder


def command(photos: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPT), f"--path={photos}", f"--out={out}", *options]


def generate(photos: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(photos, out, *options), capture_output=True, text=True)


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of the photos."""
    out = tmp_path_factory.mktemp("one_job")
    done = generate(photos, out, "--jobs=1")
    assert done.returncode == 0, done.stderr
    assert f"{PHOTOS} photos: {20 * PHOTOS} pictures in {out}/out_aug_64x64" in done.stdout
    assert "Done already" not in done.stdout
    return contents(out)


def test_names_sizes_and_pixels_are_the_programs(made, photos, tmp_path):
    faces = {name for name in made if name.endswith(".jpg")}
    wanted = {f"out_aug_64x64/{i:06d}_{a:03d}.jpg" for i in range(PHOTOS) for a in range(20)}
    wanted |= {f"out_unaug_64x64/{i:06d}_000.jpg" for i in range(PHOTOS)}
    assert faces == wanted
    assert made["out_aug_64x64/000007_000.jpg"] == made["out_unaug_64x64/000007_000.jpg"]
    source = Image.open(photos / "Person_03" / "Person_03_0002.jpg")  # the 8th by path
    for copy in (0, 5):
        (tmp_path / "face.jpg").write_bytes(made[f"out_aug_64x64/000007_{copy:03d}.jpg"])
        written = np.asarray(Image.open(tmp_path / "face.jpg")).astype(float)
        expected = np.asarray(augmentation.face(source, augmentation.draw(43, 7, copy)))
        assert written.shape == (64, 64, 3)
        assert np.abs(written - expected).mean() < 4  # what JPEG takes away


def test_two_jobs_make_the_same_bytes_from_inside_the_folder(made, photos, tmp_path):
    arguments = ["generate_dataset.py", f"--path={photos}", f"--out={tmp_path}", "--jobs=2"]
    subprocess.run([sys.executable, *arguments], cwd=SCRIPT.parent, check=True)
    assert contents(tmp_path) == made


def test_killed_and_run_again_it_makes_the_same_bytes(made, photos, tmp_path):
    killed = subprocess.Popen(command(photos, tmp_path, "--jobs=2"), start_new_session=True)
    augmented, plain = tmp_path / "out_aug_64x64", tmp_path / "out_unaug_64x64"
    deadline = time.monotonic() + 300
    whole = [augmented / f"{index:06d}_019.jpg" for index in (1, 17)]  # the second of each worker
    while not all(last.exists() for last in whole) and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    time.sleep(0.5)  # its workers notice that it is gone
    done = len(list(augmented.glob("*.jpg")))
    assert 80 <= done < 20 * PHOTOS
    time.sleep(0.3)
    assert len(list(augmented.glob("*.jpg"))) == done  # nobody goes on writing
    (augmented / "000000_007.jpg").unlink()
    (plain / "000016_000.jpg").unlink()
    for folder in (augmented, plain):
        (folder / f".000003_000.jpg.{killed.pid}.tmp").write_bytes(b"half")
    again = generate(photos, tmp_path, "--jobs=1")
    assert again.returncode == 0, again.stderr
    assert "Done already: " in again.stdout
    assert contents(tmp_path) == made


def test_ctrl_c_ends_with_one_line(photos, tmp_path):
    stopped = subprocess.Popen(
        command(photos, tmp_path, "--jobs=2"), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not list(tmp_path.glob("out_aug_64x64/*.jpg")) and stopped.poll() is None:
        time.sleep(0.005)
    stopped.send_signal(signal.SIGINT)
    error = stopped.communicate(timeout=300)[1]
    assert stopped.returncode == 2
    assert error.strip() == "Error: interrupted; run the same command again to go on"


def test_other_photos_or_seed_are_refused_until_overwrite(made, photos, tmp_path):
    shutil.copytree(photos / "Person_00", tmp_path / "few")
    out = tmp_path / "out"
    assert generate(tmp_path / "few", out).returncode == 0
    before = contents(out)
    for other in (
        generate(tmp_path / "few", out, "--seed=7"),
        generate(photos / "Person_01", out),  # as many photos of other names
    ):
        assert other.returncode == 2
        assert "--overwrite" in one_line(other)
    assert contents(out) == before
    (tmp_path / "few" / "Person_00_0002.jpg").unlink()
    assert generate(tmp_path / "few", out, "--seed=7", "--overwrite").returncode == 0
    after = contents(out)
    assert after.keys() == {name for name in before if "/000001_" not in name}
    plain, copy = "out_aug_64x64/000000_000.jpg", "out_aug_64x64/000000_001.jpg"
    assert after[plain] == before[plain]
    assert after[copy] != before[copy]


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_broken_photos_are_left_out_by_name_and_keep_their_number(tmp_path):
    write_photos(tmp_path / "lfw", 6)
    (tmp_path / "lfw" / "Person_01" / "Person_01_0001.jpg").write_bytes(b"")
    Image.new("RGB", (120, 90)).save(tmp_path / "lfw" / "Person_02" / "Person_02_0002.jpg")
    done = generate(tmp_path / "lfw", tmp_path / "out")
    assert done.returncode == 0
    line = one_line(done)
    assert "left out: 2 broken: Person_01/Person_01_0001.jpg (an empty file)" in line
    assert "Person_02/Person_02_0002.jpg (120x90 pixels, LFW has 250x250)" in line
    there = {p.name for p in (tmp_path / "out" / "out_unaug_64x64").iterdir()}
    assert there == {f"00000{i}_000.jpg" for i in (0, 1, 3, 4)}


def test_bad_paths_are_one_line_each(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.jpg").write_text("no photo")
    for path, message in [
        (tmp_path / "missing", "is no folder"),
        (tmp_path / "empty", "no JPEG, PNG"),
        (tmp_path / "junk", "none of its 1 photo "),
    ]:
        done = generate(path, tmp_path / "out")
        assert done.returncode == 2
        assert message in done.stderr
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "taken").write_text("a file where the folder should be")
    done = generate(photos, tmp_path / "taken")
    assert done.returncode == 2
    assert f"cannot write to {tmp_path / 'taken'}" in one_line(done)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(photos, tmp_path):
    """A limit on the size of files stands for the disk: what goes beyond it fails as ENOSPC
    does."""
    shell = f"ulimit -f 2; exec {' '.join(command(photos, tmp_path, '--jobs=1'))}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"cannot write to {tmp_path}: File too large" in one_line(done)
    for path in tmp_path.rglob("*.jpg"):
        Image.open(path).load()
    assert not list(tmp_path.rglob("*.tmp"))


def test_every_format_way_up_depth_and_name(tmp_path):
    """.jpeg and .png count, a sideways photo is turned, names need not be UTF-8."""
    write_photos(tmp_path / "flat", 2)
    first, second = sorted((tmp_path / "flat").rglob("*.jpg"))
    lfw = tmp_path / "lfw" / "lfw-deepfunneled" / "deeper"
    lfw.mkdir(parents=True)
    upright = Image.open(first)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(lfw / "a.jpeg", exif=exif, quality=95)
    Image.open(second).save(lfw / "b.PNG")
    with open(os.path.join(os.fsencode(lfw), b"Jos\xe9.jpg"), "wb") as file:
        file.write(first.read_bytes())
    (lfw / "._a.jpg").write_bytes(bytes.fromhex("0005160700020000") + bytes(99))
    (lfw / "notes.txt").write_text("")
    done = generate(tmp_path / "lfw", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "left out: " in one_line(done)
    assert "1 hidden" in done.stderr
    assert "1 of other formats (.txt)" in done.stderr
    assert "3 photos" in done.stdout
    plain = tmp_path / "out" / "out_unaug_64x64"
    faces = [np.asarray(Image.open(p)).astype(int) for p in sorted(plain.glob("*.jpg"))]
    jose, turned, _ = faces  # sorted by name: J, a, b
    assert np.abs(turned - jose).mean() < 3
    assert np.abs(np.rot90(turned) - jose).mean() > 20


def test_photos_and_faces_in_one_folder(tmp_path):
    write_photos(tmp_path / "lfw", 1)
    assert generate(tmp_path, tmp_path, "--jobs=1").returncode == 0
    again = generate(tmp_path, tmp_path, "--jobs=1")
    assert "Done already: 1 of 1 photo." in again.stdout, again.stderr
    assert "2 made by this program: out_aug_64x64, out_unaug_64x64" in again.stderr
