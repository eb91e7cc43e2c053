"""Tensors as PNG files: the sample sheet, the strip of outputs, single pictures."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eyescream_py.system.files import atomic_write


def bicubic(small: Tensor, side: int) -> Tensor:
    """Bicubic enlargement to side x side (a = -0.5, pixel centres half a pixel in), clipped to
    0..1.
    """
    large = F.interpolate(small, size=(side, side), mode="bicubic", antialias=True)
    return large.clamp(0, 1)


def nearest(small: Tensor, side: int) -> Tensor:
    """[N,C,H,W] to [N,C,side,side] with square pixels."""
    return F.interpolate(small, size=(side, side), mode="nearest")


def back_project(large: Tensor, small: Tensor) -> Tensor:
    """`large` plus the bicubic enlargement of what its reduction lacks of `small`, in 0..1.

    (N,C,KH,KW) and (N,C,H,W). What a network invents stays only as far as the small picture, the
    one thing that is known, does not contradict it (Irani and Peleg 1991).
    """
    size = large.shape[-2:]
    lacking = small - F.interpolate(large, size=small.shape[-2:], mode="area")
    correction = F.interpolate(lacking, size=size, mode="bicubic", antialias=True)
    return (large + correction).clamp(0, 1)


def sheet(small: Tensor, generated: Tensor, label: Tensor, rows: int = 8) -> Tensor:
    """(3,rows*H,4*W) picture: per row the enlarged input, bicubic, the output, the truth."""
    side = label.shape[-1]
    columns = [nearest(small, side), bicubic(small, side), generated.clamp(0, 1), label]
    return torch.cat([torch.cat(list(column[:rows]), 1) for column in columns], 2)


def strip(generated: Tensor, count: int = 10) -> Tensor:
    """(3,H,count*W) picture of the first outputs side by side."""
    return torch.cat(list(generated[:count].clamp(0, 1)), 2)


def to_image(picture: Tensor) -> Image.Image:
    """(3,H,W) floats, clipped to 0..1 -> 8-bit RGB."""
    values = picture.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().contiguous().numpy())


def save_png(path: str | Path, picture: Tensor) -> None:
    """Write one picture [C,H,W] in 0..1, whole or not at all."""
    with atomic_write(path) as file:
        to_image(picture).save(file, format="PNG")
