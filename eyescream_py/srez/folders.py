"""`--run evaluate MADE TRUE`: a folder's pictures against those of the same names in another,
whatever program made them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyescream_py.features.distances import LARGE
from eyescream_py.srez.data import list_pictures, open_picture
from eyescream_py.srez.evaluation import (
    add_feature_distances,
    finest_level,
    psnr,
    sliced_wasserstein,
    ssim,
    table,
)
from eyescream_py.system import voice
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.voice import counted

ENLARGED = re.compile(r"_x\d+(\.\d+)?$")  # the end of what upscale writes
LEAST_SIDE = 16  # patches of the finest level and SSIM's windows are 7 wide


def run_compare(
    folders: tuple[str, ...],
    summary_dir: str,
    say: Callable[[str], None] = voice.say,
    judge: str = "none",
) -> dict[str, dict[str, float]]:
    """Print PSNR, SSIM and the distances of the finest level and, by the feature network `judge`
    unless that is none, of what is seen; write them to summary_dir.

    A picture of MADE is compared with the one of TRUE that has its name but for the ending and,
    in MADE, for `_x4` and the like. UserError where there are not two folders, where a picture
    has no such truth or several, and where the two of a pair differ in size.
    """
    if len(folders) != 2 or not all(Path(f).is_dir() for f in folders):
        raise UserError("--run=evaluate: give two folders, that of the pictures and that of truths")
    pairs = _pairs(*folders)
    made, true = _loaded([p for p, _ in pairs]), _loaded([p for _, p in pairs])
    for (path, truth), a, b in zip(pairs, made, true, strict=True):
        if a.shape != b.shape:
            raise UserError(f"{path}: {_size(a)}, but {truth} has {_size(b)}")
        if min(a.shape[-2:]) < LEAST_SIDE:
            raise UserError(f"{path}: {_size(a)} is too small, {LEAST_SIDE}x{LEAST_SIDE} is needed")
    row = {
        "psnr": float(np.mean([psnr(a, b) for a, b in zip(made, true, strict=True)])),
        "ssim": float(np.mean([ssim(a, b) for a, b in zip(made, true, strict=True)])),
        "detail_swd": sliced_wasserstein(_levels(true), _levels(made)),
    }
    figures = {"made": row}
    eyes = _add_feature_distances(figures, made, true, judge)
    say(f"{counted(len(pairs), 'pair')} of pictures")
    say(table(figures))
    if eyes:
        say(f"Fréchet and kernel distance: {eyes}; the first is lower for more pictures")
    target = Path(summary_dir) / "evaluation_folders.json"
    make_folder(target.parent)
    with atomic_write(target) as file:
        file.write(json.dumps({"pairs": len(pairs), **figures}, indent=1).encode())
    return figures


def _add_feature_distances(
    figures: dict[str, dict[str, float]], made: list[Tensor], true: list[Tensor], judge: str
) -> str:
    """As in `evaluation`; pictures of several sizes are brought to the size they are seen at."""
    sizes = {p.shape for p in true}
    if len(sizes) == 1:
        sets, label = {"made": torch.cat(made)}, torch.cat(true)
    else:
        sets, label = {"made": _seen(made)}, _seen(true)
    return add_feature_distances(figures, sets, label, judge)


def _seen(pictures: list[Tensor]) -> Tensor:
    def resized(picture: Tensor) -> Tensor:
        return F.interpolate(picture, (LARGE, LARGE), mode="bicubic", antialias=True).clamp(0, 1)

    return torch.cat([resized(picture) for picture in pictures])


def _pairs(made: str, true: str) -> list[tuple[Path, Path]]:
    truths: dict[str, str] = {}
    for name in list_pictures(true, "--run=evaluate "):
        if (other := truths.setdefault(_key(name), name)) != name:
            raise UserError(f"{Path(true) / name}: {other} has that name too; remove one of them")
    found = []
    for name in list_pictures(made, "--run=evaluate "):
        plain = _key(name)
        truth = truths.get(plain) or truths.get(ENLARGED.sub("", plain))
        if truth is None:
            raise UserError(f"{Path(made) / name}: {true} holds no picture of that name")
        found.append((Path(made) / name, Path(true) / truth))
    return found


def _key(name: str) -> str:
    return str(Path(name).with_suffix(""))


def _loaded(paths: list[Path]) -> list[Tensor]:
    """Each picture as (1,3,H,W) floats 0..1."""
    pictures = [np.asarray(open_picture(path), np.float32) / 255 for path in paths]
    return [torch.from_numpy(p).permute(2, 0, 1)[None] for p in pictures]


def _levels(pictures: list[Tensor]) -> list[Tensor]:
    """Finest levels; an odd last row or column, which has no 2x2 mean, is left out."""
    return [finest_level(p[..., : p.shape[2] // 2 * 2, : p.shape[3] // 2 * 2]) for p in pictures]


def _size(picture: Tensor) -> str:
    return f"{picture.shape[3]}x{picture.shape[2]}"
