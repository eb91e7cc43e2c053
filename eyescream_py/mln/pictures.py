"""The 8-column picture of a batch, and the GIF of a run's pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

ROWS = 8


def batch_picture(output: Tensor, label: Tensor) -> NDArray[np.uint8]:
    """Complex (B, H, W) outputs and labels -> grey (min(8, B) * H, 8 * W).

    Columns: real output, real label, imaginary output, imaginary label (each (v + 1) / 2),
    magnitude label, magnitude output, phase label, phase output (angle / 2 pi + 1/2); everything
    clipped to 0..1.
    """
    out, truth = output[:ROWS].detach().cpu(), label[:ROWS].detach().cpu()
    signed = [(part + 1) / 2 for part in (out.real, truth.real, out.imag, truth.imag)]
    phases = [torch.angle(images) / (2 * torch.pi) + 0.5 for images in (truth, out)]
    columns = torch.cat([*signed, truth.abs(), out.abs(), *phases], 2)  # [B,H,8W]
    return (columns.clamp(0, 1) * 255).round().to(torch.uint8).flatten(0, 1).numpy()


def write_png(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """Write a grey picture (H, W), whole or not at all. Raises OSError."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def write_demo(
    folder: str | Path, target: str | Path, seconds: float = 0.2, widest: int = 1024
) -> int:
    """Join the batch*_out*.png of a train folder, in order, to a looping GIF; returns the number of
    frames.

    Each frame lasts `seconds`, the last ten times as long; frames wider than `widest` pixels are
    scaled down. Raises UserError when the folder holds no such picture or one cannot be read.
    """
    from eyescream_py.data.pictures import PictureError, open_picture

    paths = sorted(Path(folder).glob("batch*_out*.png"))
    if not paths:
        raise UserError(f"{folder}: holds no batch*_out*.png; give the ..._train folder of a run")
    frames = []
    for path in paths:
        try:
            frame = open_picture(path, "L")
        except PictureError as error:
            raise UserError(f"{path}: cannot be read ({error}); remove it") from None
        frame.thumbnail((widest, widest * 4))
        frames.append(frame)
    durations = [int(1000 * seconds)] * (len(frames) - 1) + [int(10000 * seconds)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    with atomic_write(target) as file:
        file.write(buffer.getvalue())
    return len(frames)
