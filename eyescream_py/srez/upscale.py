"""`--run upscale PICTURE...`: a person's own pictures, enlarged by a trained generator.

`photo` enlarges the whole picture bicubically and paints the faces that are found in it, `face`
takes one face the way training saw faces, `tile` lets the generator enlarge everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyescream_py.srez.batches import JITTER
from eyescream_py.srez.checkpoints import Stored, checkpoint_path, load_generator
from eyescream_py.srez.data import FIXED_WINDOWS, demand_window, list_pictures
from eyescream_py.srez.evaluation import enlarge
from eyescream_py.srez.faces import Square, find_faces
from eyescream_py.srez.networks import Generator
from eyescream_py.srez.options import FULL_SIDE, Options
from eyescream_py.srez.photos import (
    Photo,
    luma_of,
    open_photo,
    resized,
    resized_colours,
    save_photo,
    to_photo,
)
from eyescream_py.srez.pictures import back_project
from eyescream_py.system import voice
from eyescream_py.system.errors import UserError
from eyescream_py.system.folders import make_folder
from eyescream_py.system.places import as_module
from eyescream_py.system.voice import counted

SHIPPED = Path(__file__).with_name("model") / "lfw_grey.safetensors"
SMALLEST_FACE = 0.7  # times the input's side: below it the detector mostly finds no face at all
LARGEST_FACE = 2  # times the input's side: a larger face has more detail than the generator invents
MOST_PIXELS = 1 << 28  # of one enlarged picture, 0.8 GB in 8 bit
BLENDED = 0.15  # share of a face's square over which it fades into the photo


@dataclass(frozen=True)
class Painter:
    """A generator and how to use it: (N,3,S,S) floats 0..1 -> (N,3,K*S,K*S)."""

    generator: Generator
    side: int
    scale: int
    grey: bool
    told: Options
    device: torch.device

    def __call__(self, small: Tensor) -> Tensor:
        small = small.to(self.device)
        if not self.grey:
            return enlarge(self.generator, small, self.told).cpu()
        # Trained on grey pictures: it paints the brightness, the colours are enlarged smoothly.
        luma = luma_of(small)
        painted = enlarge(self.generator, luma.expand_as(small), self.told).mean(1, keepdim=True)
        size = [n * self.scale for n in small.shape[2:]]
        colour = torch.nn.functional.interpolate(small - luma, size, mode="bicubic", antialias=True)
        return (painted + colour).clamp(0, 1).cpu()


def run_upscale(
    told: Options,
    images: tuple[str, ...],
    mode: str,
    out_dir: str,
    device: torch.device,
    say: Callable[[str], None] = voice.say,
    outscale: float | None = None,
) -> list[Path]:
    """Write NAME_xK.png into `out_dir` for each picture, and for each picture of each folder named;
    UserError before any work where a named picture cannot be done.
    """
    if not images:
        command = f"{as_module('srez')} --run=upscale"
        raise UserError(f"name the pictures, e.g. `{command} me.jpg you.png`")
    painter = _painter(told, device, say)
    times = float(painter.scale if outscale is None else outscale)
    if not (math.isfinite(times) and 1 <= times <= 64):
        raise UserError(f"--outscale={times:g}: give a number from 1 to 64")
    jobs = [(p, t) for name in images for p, t in _jobs(name, Path(out_dir), times)]
    _demand_free([target for _, target in jobs])
    for name in images:  # a folder's pictures are tried one by one, later
        if not Path(name).is_dir():
            _demand_possible(open_photo(name), name, told.crop, mode, painter.side, times)
    done = []
    for path, target in jobs:
        try:
            photo = open_photo(path)
            _demand_possible(photo, str(path), told.crop, mode, painter.side, times)
        except UserError as error:
            say(f"left out: {error}")
            continue
        large, words = _enlarged(painter, photo, told.crop, mode, times)
        make_folder(target.parent)
        save_photo(target, large)
        say(f"{target}: {photo.width}x{photo.height} -> {large.width}x{large.height}{words}")
        done.append(target)
    return done


def _painter(told: Options, device: torch.device, say: Callable[[str], None]) -> Painter:
    """The checkpoint of --checkpoint_dir, or the shipped one where that folder holds none and is
    the default.
    """
    path = checkpoint_path(told.checkpoint_dir)
    if not path.is_file() and told.checkpoint_dir == Options.checkpoint_dir:
        path = SHIPPED
        say(f"{checkpoint_path(told.checkpoint_dir)} is not there: the network that comes with "
            "this package enlarges (trained on grey faces; docs/srez.md)")  # fmt: skip
    generator, stored = load_generator(path)
    _demand_enlarger(stored)
    options = stored.options
    generator.to(device)
    return Painter(generator, options.input_side, options.scale, stored.grey, told, device)


def _demand_enlarger(stored: Stored) -> None:
    if stored.options.input == "noise":
        raise UserError(
            "--run=upscale: this checkpoint makes faces from noise, it cannot enlarge a picture"
        )


def _jobs(name: str, folder: Path, times: float) -> list[tuple[Path, Path]]:
    """(picture, its target) for a picture, or for each of a folder, whose sub-folders are kept."""
    path = Path(name)
    own = (folder,)  # of an earlier run: nobody wants its pictures enlarged again
    names = list_pictures(path, "--run=upscale ", own) if path.is_dir() else [path.name]
    root = path if path.is_dir() else path.parent

    def target(relative: str) -> Path:
        inner = Path(relative)
        return folder / inner.parent / f"{inner.stem}_x{times:g}.png"

    return [(root / relative, target(relative)) for relative in names]


def _demand_free(targets: list[Path]) -> None:
    taken: set[Path] = set()
    for target in targets:
        if target.exists():
            raise UserError(f"{target}: would be overwritten; give another --out_dir")
        if target in taken:
            raise UserError(
                f"{target}: two pictures would be written there; rename one of them, or enlarge "
                "them apart"
            )
        taken.add(target)


def _demand_possible(
    photo: Photo, name: str, crop: str, mode: str, side: int, times: float
) -> None:
    if mode != "photo" and min(photo.width, photo.height) < side:
        raise UserError(
            f"{name}: {photo.width}x{photo.height} is too small, at least {side}x{side} is needed"
        )
    if mode == "face" and (photo.width, photo.height) != (side, side) and crop != "none":
        demand_window(photo.width, photo.height, crop, name)
    pixels = photo.width * photo.height * times**2
    if mode != "face" and pixels > MOST_PIXELS:
        most = math.sqrt(MOST_PIXELS / photo.width / photo.height)
        remedy = f"give --outscale={most:.1f} or less, or a smaller picture" if most >= 1 else \
            "give a smaller picture"  # fmt: skip
        raise UserError(f"{name}: enlarged it would have {pixels / 1e6:.0f} megapixels; {remedy}")


def _enlarged(
    painter: Painter, photo: Photo, crop: str, mode: str, times: float
) -> tuple[Photo, str]:
    """The enlarged picture and what to say about it."""
    if mode == "photo":
        return _photo_with_faces(painter, photo, times)
    box = _face_box(photo, crop, painter.side) if mode == "face" else (
        0, 0, photo.width, photo.height)  # fmt: skip
    small = photo.part(box)
    if mode == "face":
        small = resized_colours(small, painter.side, Image.Resampling.BOX)
    large = upscale_tiled(painter, small, painter.side, painter.scale)
    width, height = (round(n * times) for n in (small.shape[2], small.shape[1]))
    alpha = None
    if photo.pixels.shape[2] == 4:
        alpha = resized(photo.pixels, width, height, box)[:, :, 3]
    colours = _to_size(large, width, height)
    return to_photo(colours, alpha, photo.white), ""


def _to_size(colours: Tensor, width: int, height: int) -> Tensor:
    """(3,h,w) -> (3,height,width), bicubic."""
    if tuple(colours.shape[1:]) == (height, width):
        return colours
    return torch.nn.functional.interpolate(
        colours[None], (height, width), mode="bicubic", antialias=True
    )[0]


def _face_box(photo: Photo, crop: str, side: int) -> tuple[int, int, int, int]:
    """The centred square (`none`), or the middle of the window that training cut; a picture that
    has the input's side already is taken whole.
    """
    if crop == "none" or (photo.width, photo.height) == (side, side):
        edge = min(photo.width, photo.height)
        left, top = (photo.width - edge) // 2, (photo.height - edge) // 2
    else:
        left, top = (place + JITTER // 2 for place in FIXED_WINDOWS[crop][:2])
        edge = FULL_SIDE
    return left, top, left + edge, top + edge


def _photo_with_faces(painter: Painter, photo: Photo, times: float) -> tuple[Photo, str]:
    """The photo enlarged bicubically, its faces painted over."""
    width, height = (max(1, round(n * times)) for n in (photo.width, photo.height))
    canvas = np.array(resized(photo.pixels, width, height))
    painted = large = 0
    for square in find_faces(photo):
        if square[2] < SMALLEST_FACE * painter.side:
            continue
        if square[2] > LARGEST_FACE * painter.side:
            large += 1
            continue
        _paint(painter, photo, canvas, square, times)
        painted += 1
    words = f", {counted(painted, 'face')} painted"
    if large:
        most = LARGEST_FACE * painter.side
        words += f", {large} left as is (wider than {most} pixels, with detail of its own)"
    return Photo(canvas), words


def _paint(
    painter: Painter, photo: Photo, canvas: np.ndarray, square: Square, times: float
) -> None:
    """One face: reduced (or enlarged) to the generator's input, painted, held to what the photo
    shows, and faded into the canvas.
    """
    left, top, side = square
    known = photo.part((left, top, left + side, top + side))
    how = Image.Resampling.BOX if side >= painter.side else Image.Resampling.BICUBIC
    face = painter(resized_colours(known, painter.side, how)[None])[0]
    x, y = round(left * times), round(top * times)
    edge = round((left + side) * times) - x
    face = back_project(_to_size(face, edge, edge)[None], known[None])[0]
    columns = slice(max(0, x), min(canvas.shape[1], x + edge))
    rows = slice(max(0, y), min(canvas.shape[0], y + edge))
    inside = (slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x))
    share = _fading(edge)[inside][..., None].numpy()
    new = face.permute(1, 2, 0)[inside].numpy() * photo.white
    old = canvas[rows, columns, :3]
    canvas[rows, columns, :3] = (share * new + (1 - share) * old).round()


def _fading(edge: int) -> Tensor:
    """(edge,edge) shares: 1 inside, falling to 0 along the border as half a cosine does."""
    distance = (torch.arange(edge) + 0.5).minimum(edge - torch.arange(edge) - 0.5)
    ramp = (distance / (BLENDED * edge)).clamp(0, 1)
    smooth = (1 - (math.pi * ramp).cos()) / 2
    return smooth[:, None] * smooth[None]


def upscale_tiled(
    paint: Callable[[Tensor], Tensor], picture: Tensor, side: int, scale: int
) -> Tensor:
    """(3,h,w) with h, w >= side -> (3,h*scale,w*scale).

    Tiles of side x side, half a tile apart (the last ones at the edge), are blended with weights
    that fall towards each tile's border, so that no seam shows.
    """
    _, height, width = picture.shape
    large = picture.new_zeros(3, height * scale, width * scale)
    weight = picture.new_zeros(1, height * scale, width * scale)
    mask = _mask(side * scale)
    for y in _starts(height, side):  # row by row: all tiles of a photo do not fit into memory
        starts = _starts(width, side)
        row = picture[:, y : y + side]
        tiles = paint(torch.stack([row[:, :, x : x + side] for x in starts]))
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
