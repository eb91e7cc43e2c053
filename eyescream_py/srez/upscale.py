"""`--run upscale IMAGE...`: a person's own pictures, enlarged by a trained generator.

`face` takes the face the way training saw faces, reduces it to the generator's input and enlarges
that. `tile` enlarges the whole picture, of any size, in overlapping tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch
from PIL import Image
from torch import Tensor

from eyescream_py.srez.batches import JITTER
from eyescream_py.srez.checkpoints import checkpoint_path, load_generator
from eyescream_py.srez.data import cut_window, open_picture
from eyescream_py.srez.evaluation import generate
from eyescream_py.srez.networks import Generator, use_batch_statistics
from eyescream_py.srez.options import FULL_SIDE, Options
from eyescream_py.srez.pictures import save_png
from eyescream_py.system.errors import UserError


def run_upscale(
    told: Options,
    images: tuple[str, ...],
    mode: str,
    out_dir: str,
    device: torch.device,
    say: Callable[[str], None] = click.echo,
) -> list[Path]:
    """Write NAME_xK.png into `out_dir` for each picture; UserError before any work where one cannot
    be done.
    """
    if not images:
        raise UserError("--run=upscale: name the pictures, e.g. `--run upscale me.jpg you.png`")
    generator, stored = load_generator(checkpoint_path(told.checkpoint_dir))
    options = stored.options
    if options.input == "noise":
        raise UserError(
            "--run=upscale: this checkpoint makes faces from noise, it cannot enlarge a picture"
        )
    folder = Path(out_dir)
    targets = [folder / f"{Path(name).stem}_x{options.scale}.png" for name in images]
    _demand_free(targets)
    side = options.input_side
    smalls = [_small(open_picture(name), name, told.crop, mode, side).to(device) for name in images]
    use_batch_statistics(generator.to(device), told.bn == "batch")
    folder.mkdir(parents=True, exist_ok=True)
    for small, target in zip(smalls, targets, strict=True):
        large = upscale_tiled(generator, small, side, options.scale)
        save_png(target, large)
        say(f"{target}: {small.shape[2]}x{small.shape[1]} -> {large.shape[2]}x{large.shape[1]}")
    return targets


def _demand_free(targets: list[Path]) -> None:
    for i, target in enumerate(targets):
        if target.exists() or target in targets[:i]:
            raise UserError(f"{target}: would be overwritten; give another --out_dir")


def _small(image: Image.Image, name: str, crop: str, mode: str, side: int) -> Tensor:
    """(3,h,w) floats 0..1: what the generator enlarges; exactly side x side in `face` mode."""
    if min(image.size) < side:
        raise UserError(
            f"{name}: {image.width}x{image.height} is too small, at least {side}x{side} is needed"
        )
    if mode == "face" and image.size != (side, side):
        image = _face(image, name, crop, side)
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def _face(image: Image.Image, name: str, crop: str, side: int) -> Image.Image:
    """The centred square (`none`), or the middle of the window that training cut, reduced by area
    means.
    """
    if crop == "none":
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
    else:
        image = cut_window(image, crop, name)
        edge, left, top = FULL_SIDE, JITTER // 2, JITTER // 2
    box = (left, top, left + edge, top + edge)
    return image.resize((side, side), Image.Resampling.BOX, box)


def upscale_tiled(generator: Generator, picture: Tensor, side: int, scale: int) -> Tensor:
    """(3,h,w) with h, w >= side -> (3,h*scale,w*scale).

    Tiles of side x side, half a tile apart (the last ones at the edge), are blended with weights
    that fall towards each tile's border, so that no seam shows.
    """
    _, height, width = picture.shape
    large = picture.new_zeros(3, height * scale, width * scale)
    weight = picture.new_zeros(1, height * scale, width * scale)
    mask = _mask(side * scale).to(picture.device)
    for y in _starts(height, side):  # row by row: all tiles of a photo do not fit into memory
        starts = _starts(width, side)
        row = picture[:, y : y + side]
        tiles = generate(generator, torch.stack([row[:, :, x : x + side] for x in starts]))
        for x, tile in zip(starts, tiles, strict=True):
            top, left, edge = y * scale, x * scale, side * scale
            large[:, top : top + edge, left : left + edge] += mask * tile
            weight[:, top : top + edge, left : left + edge] += mask
    return large.div_(weight)


def _starts(length: int, side: int) -> list[int]:
    return sorted({*range(0, length - side + 1, side // 2), length - side})


def _mask(side: int) -> Tensor:
    """(side,side) pyramid, largest in the middle, above 0 everywhere."""
    ramp = torch.minimum(torch.arange(side), torch.arange(side).flip(0)) + 1.0
    return ramp[:, None] * ramp[None]
