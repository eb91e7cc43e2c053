"""Films of pictures: GIF by Pillow, MP4 by the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.memory import demand_memory

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SIDE = 512


def demand_memory_of(flag: str, frames: int, dims: Sequence[int]) -> None:
    """Raise UserError, which names `flag`, where this machine cannot hold a film of pictures of
    `dims` (C,H,W), enlarged ones included."""
    each = 4 * math.prod(dims) + dims[0] * (LONGEST_SIDE // 2) ** 2
    demand_memory(flag, "such a film", frames * each)


def write(path: Path, frames: Tensor, seconds_per_frame: float = 0.08) -> None:
    """Write [T,C,H,W] in 0..1 as a looping GIF, or as an MP4 where `path` ends so; small frames
    are enlarged.

    Raises OSError where the file cannot be written, UserError where MP4 needs what is not there.
    """
    arrays = (frames.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    pictures = [_enlarged(array.numpy()) for array in arrays]
    write_pictures(path, pictures, seconds_per_frame)


def write_pictures(
    path: Path, pictures: list[Image.Image], seconds_per_frame: float = 0.08
) -> None:
    """As `write`, of Pillow images that all have one size."""
    if path.suffix.lower() == ".mp4":
        _write_mp4(path, pictures, 1 / seconds_per_frame)
        return
    with atomic_write(path) as file:
        pictures[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 * seconds_per_frame),
            loop=0,
        )


def _enlarged(array: np.ndarray) -> Image.Image:
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    factor = max(1, LONGEST_SIDE // 2 // max(picture.size))
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )


def _even(frame: np.ndarray) -> np.ndarray:
    """(H,W,3) with a last row and column repeated where the number is odd."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write_mp4(path: Path, pictures: Iterable[Image.Image], rate: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            f"{path}: MP4 needs imageio-ffmpeg (pip install imageio-ffmpeg); .gif needs nothing"
        ) from error
    frames = [_even(np.asarray(picture.convert("RGB"))) for picture in pictures]
    height, width = frames[0].shape[:2]
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    try:
        # the format wants even sides; ffmpeg's default would stretch them to a multiple of 16
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (width, height), fps=rate, macro_block_size=2
        )
        with closing(writer):  # waits for ffmpeg, which must not outlive an error
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
