import shutil
import stat
import subprocess
import sys

import pytest
from PIL import Image

from eyescream_py.srez.demo import _find_ffmpeg, run_demo
from eyescream_py.system.errors import UserError


def frames(folder, count, name="batch{:06d}_out.png", size=(32, 64)):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (40 * i, 0, 255)).save(folder / name.format(200 * i))


def test_a_gif_without_ffmpeg_in_batch_order(tmp_path):
    frames(tmp_path, 4)
    frames(tmp_path, 2, "gen_batch{:06d}_out_s.png", (80, 8))
    path = run_demo(str(tmp_path), ffmpeg="")
    assert path.name == "demo1.gif"
    with Image.open(path) as film:
        assert (film.n_frames, film.size) == (4, (32, 64))
        assert film.info["duration"] == 30
        reds = []
        for i in range(4):
            film.seek(i)
            reds.append(film.convert("RGB").getpixel((5, 5))[0])
    assert reds == sorted(reds)
    assert reds[3] > 100


def test_films_are_never_overwritten(tmp_path):
    frames(tmp_path, 2)
    assert [run_demo(str(tmp_path), "").name for _ in range(2)] == ["demo1.gif", "demo2.gif"]


def test_strips_where_there_are_no_sheets(tmp_path):
    frames(tmp_path, 2, "gen_batch{:06d}_out_s.png", (80, 8))
    with Image.open(run_demo(str(tmp_path), "")) as film:
        assert film.size == (80, 8)


def test_ffmpeg_gets_every_frame_as_raw_rgb(tmp_path):
    frames(tmp_path, 3)
    program = tmp_path / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "open(sys.argv[-1], 'wb').write(' '.join(sys.argv).encode() + b'|' + "
        "sys.stdin.buffer.read())\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = run_demo(str(tmp_path), str(program))
    assert path.name == "demo1.mp4"
    arguments, _, data = path.read_bytes().partition(b"|")
    assert b"-s 32x64 -r 30" in arguments
    assert len(data) == 3 * 32 * 64 * 3
    assert sorted(p.name for p in tmp_path.iterdir() if "demo" in p.name) == ["demo1.mp4"]


@pytest.mark.skipif(not shutil.which("false"), reason="needs the program `false`")
def test_a_failing_ffmpeg_is_reported(tmp_path):
    frames(tmp_path, 1)
    with pytest.raises(UserError, match="could not write"):
        run_demo(str(tmp_path), shutil.which("false"))


def test_folders_without_pictures_or_with_two_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="no sample pictures"):
        run_demo(str(tmp_path))
    with pytest.raises(UserError, match="no sample pictures"):
        run_demo(str(tmp_path / "absent"))
    frames(tmp_path, 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "batch009999_out.png")
    with pytest.raises(UserError, match="another size"):
        run_demo(str(tmp_path), "")


@pytest.mark.skipif(not _find_ffmpeg(), reason="needs ffmpeg or imageio-ffmpeg")
def test_a_real_mp4_of_odd_height(tmp_path):
    frames(tmp_path, 5, size=(32, 65))
    path = run_demo(str(tmp_path))
    assert path.name == "demo1.mp4"
    shown = subprocess.run([_find_ffmpeg(), "-i", str(path)], capture_output=True, text=True).stderr
    assert "32x66" in shown
    assert "30 fps" in shown
