"""`--run demo`: the sample pictures of a training run as a film, mp4 with ffmpeg, GIF without."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from eyescream_py.srez.data import open_picture
from eyescream_py.system import voice
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write, temporary_name
from eyescream_py.system.places import as_module
from eyescream_py.system.voice import counted

FRAMES_PER_SECOND = 30
GIF_FRAME_MS = 30  # GIF counts in 10 ms
FAMILIES = (r"batch\d+_out\.png", r"batch\d+_out_l\.png", r"gen_batch\d+_out_s\.png")


def run_demo(
    train_dir: str, ffmpeg: str | None = None, say: Callable[[str], None] = voice.say
) -> Path:
    """Join the sheets of `train_dir` (or, where there are none, its strips) in batch order into
    demo1.mp4 or .gif.

    The number grows where a film stands already. `ffmpeg` is the program to use: None looks for
    one, "" takes GIF. No checkpoint is read. Raises UserError for a folder without pictures or with
    pictures of two sizes.
    """
    folder = Path(train_dir)
    frames = _frames(folder)
    program = _find_ffmpeg() if ffmpeg is None else ffmpeg
    path = _free_name(folder, ".mp4" if program else ".gif")
    if program:
        _write_mp4(path, frames, program)
    else:
        _write_gif(path, frames)
    say(f"{counted(len(frames), 'picture')} -> {path}")
    return path


def _frames(folder: Path) -> list[Path]:
    names = sorted(p for p in folder.glob("*.png")) if folder.is_dir() else []
    family = next((f for f in FAMILIES if any(re.fullmatch(f, p.name) for p in names)), None)
    if family is None:
        command = f"{as_module('srez')} --run=train"
        raise UserError(f"--train_dir={folder}: no sample pictures in it; `{command}` writes them")
    frames = [p for p in names if re.fullmatch(family, p.name)]
    size = open_picture(frames[0]).size
    for frame in frames:
        if open_picture(frame).size != size:
            raise UserError(
                f"{frame}: has another size than {frames[0].name}; keep the pictures of one run in "
                "a folder"
            )
    return frames


def _find_ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return ""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _free_name(folder: Path, suffix: str) -> Path:
    number = 1
    while (folder / f"demo{number}{suffix}").exists():
        number += 1
    return folder / f"demo{number}{suffix}"


def _write_mp4(path: Path, frames: list[Path], program: str) -> None:
    width, height = open_picture(frames[0]).size
    temporary = temporary_name(path)
    command = [
        program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-",
        "-pix_fmt", "yuv420p", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-f", "mp4", str(temporary),
    ]  # fmt: skip
    data = b"".join(open_picture(frame).tobytes() for frame in frames)
    done = subprocess.run(  # noqa: S603  ffmpeg, with arguments of ours
        command, input=data, capture_output=True, check=False
    )
    if done.returncode:
        temporary.unlink(missing_ok=True)
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(
            f"{program} could not write {path}: {reason[-1] if reason else 'no reason given'}"
        )
    temporary.replace(path)


def _write_gif(path: Path, frames: list[Path]) -> None:
    images: list[Image.Image] = [open_picture(frame) for frame in frames]
    with atomic_write(path) as file:
        images[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=GIF_FRAME_MS,
            loop=0,
        )
