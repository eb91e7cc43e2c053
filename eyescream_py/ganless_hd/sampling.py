"""A trained network at work: photographs or drawn contours of any size -> pictures and sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from eyescream_py.data.pictures import ENDINGS, IN_WORDS, PictureError
from eyescream_py.data.walk import walk
from eyescream_py.ganless_hd.checkpoints import read_network
from eyescream_py.ganless_hd.contours import (
    COLOUR_CELLS,
    colour_map,
    contours,
    drawn_lines,
    network_input,
)
from eyescream_py.ganless_hd.data import (
    as_tensor,
    load_photo,
    not_too_long,
    resize_shorter_side,
    to_network,
)
from eyescream_py.ganless_hd.networks import MULTIPLE, UNet
from eyescream_py.ganless_hd.sheets import sheet, to_bytes, write_png
from eyescream_py.system.errors import UserError
from eyescream_py.system.memory import demand_memory
from eyescream_py.system.voice import printable, warn

CONTEXT = 256  # pixels around a tile; no output pixel depends on an input further away
LINE_SHARE = 64  # of 255: a reduced line stays where it covers a quarter of the new pixel
GREY = 128
BYTES = 60  # of a pixel, at the least: input, output and sheet, as bytes and as floats
Resize = Callable[[np.ndarray, int], np.ndarray]
BOXED = Path(__file__).with_name("painter.safetensors")  # small, trained on tinted LFW faces


@dataclass(frozen=True)
class Painter:
    """A network with what it was trained on."""

    network: UNet
    device: torch.device
    size: int  # side of the training crops in pixels; 16 colour cells span it
    colormap: bool
    tile: int = 0  # side of the pieces that large pictures are made in, 0: in one piece

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(3, H, W) uint8 -> (3, H, W) in -1..1 on the CPU; sides multiples of 64."""
        height, width = inputs.shape[1:]
        if not self.tile:
            return self._paint(inputs)
        output = torch.empty(3, height, width)
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                area = (slice(top, top + self.tile), slice(left, left + self.tile))
                output[:, *area] = self._paint_tile(inputs, top, left)
        return output

    def _paint_tile(self, inputs: torch.Tensor, top: int, left: int) -> torch.Tensor:
        """The tile at (top, left), computed with `CONTEXT` pixels around it, which are cut off."""
        above, before = max(0, top - CONTEXT), max(0, left - CONTEXT)
        below, after = top + self.tile + CONTEXT, left + self.tile + CONTEXT
        region = self._paint(inputs[:, above:below, before:after])
        rows = slice(top - above, top - above + self.tile)
        return region[:, rows, left - before : left - before + self.tile]

    def _paint(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(to_network(inputs[None], self.device))[0].cpu()

    def demand_memory(self, height: int, width: int, label: str) -> None:
        """Raise UserError that begins with `label` where a picture of these sides needs more memory
        than there is. Of a GPU's own memory only its use tells.
        """
        size, remedy = BYTES * height * width, "give a smaller --size"
        reach = self.tile + 2 * CONTEXT if self.tile else max(height, width)
        piece = self.network.bytes_of_a_pixel * min(height, reach) * min(width, reach)
        if self.device.type == "cpu" and piece > size:
            size, remedy = piece, f"{remedy} or {'--tile' if self.tile else 'a --tile'}"
        demand_memory(label, "painting it", size, remedy)

    def colours(self, picture: np.ndarray) -> np.ndarray | None:
        """The colour map of a picture in cells of the size seen in training; None if trained
        without.
        """
        if not self.colormap:
            return None
        rows, columns = (
            max(1, round(side * COLOUR_CELLS / self.size)) for side in picture.shape[:2]
        )
        return colour_map(picture, (rows, columns))


def load_painter(path: str | Path, device: torch.device, tile: int) -> Painter:
    """The network in a `saves/autoEncoder-*` file (safetensors of ours or a published .pth).

    Raises UserError where tensors are missing or of another size, naming them.
    """
    if tile % MULTIPLE or tile < 0:
        raise UserError(f"--tile={tile}: give a multiple of {MULTIPLE}, or 0 for one piece")
    saved = read_network(path)
    return Painter(saved.network.to(device).eval(), device, saved.size, saved.colormap, tile)


def named_pictures(names: Sequence[str], out: Path) -> tuple[list[Path], set[Path]]:
    """The pictures that a person named, those of folders included, at any depth; and which of them
    nobody named one by one. What this program wrote to `out` is left out; a line counts the rest.
    """
    paths: list[Path] = []
    inside: set[Path] = set()
    for name in names:
        if not Path(name).is_dir():
            paths.append(Path(name))
            continue
        found = walk(name, ENDINGS, without=(out,))
        if found.line():
            warn(f"{printable(name)}: {found.line()}")
        if not found.files:
            raise UserError(f"{printable(name)}: no {IN_WORDS} files in it or below it")
        paths += found.paths
        inside |= set(found.paths)
    return paths, inside


def paint_each(
    paths: Iterable[Path], inside: Set[Path], paint: Callable[[Path], Path]
) -> Iterator[Path]:
    """What `paint` returns of each path; one of a folder's pictures, those `inside`, never costs
    the others.
    """
    for path in paths:
        try:
            yield paint(path)
        except UserError as error:
            if path not in inside:
                raise
            warn(f"left out: {error.message}")


def check_names(pictures: list[Path], colors: Path | None, out: Path) -> None:
    """UserError where two results would have one name, or a result that of a picture read."""
    read = {path.resolve() for path in (*pictures, *([colors] if colors else []))}
    results = Counter(f"{path.stem}{end}.png" for path in pictures for end in ("", "-sheet"))
    for name in results:
        if (out / name).resolve() in read:
            raise UserError(f"--out={out}: would overwrite {out / name}, give another folder")
    twice = [name for name, count in results.items() if count > 1]
    if twice:
        raise UserError(
            f"{', '.join(sorted(twice))}: several pictures would be written there, run them apart"
        )


def load_picture(path: str | Path) -> np.ndarray:
    """A person's picture file, (H, W, 3) uint8; raises UserError where it cannot be read."""
    try:
        return load_photo(path)
    except PictureError as error:
        raise UserError(f"{printable(path)}: cannot be read as a picture ({error})") from error


def fitted(
    painter: Painter,
    picture: np.ndarray,
    size: int,
    name: str,
    resized: Resize = resize_shorter_side,
) -> np.ndarray:
    """Shorter side `resized` to `size` (0: as it is), then the middle with sides that are multiples
    of 64. Raises UserError, before, where `painter` would not have the memory.
    """
    if size:
        picture = not_too_long(picture)
    scale = size / min(picture.shape[:2]) if size else 1
    height, width = (int(side * scale) for side in picture.shape[:2])
    painter.demand_memory(height, width, f"{name} at --size={size}")
    return middle(resized(picture, size) if size else picture, name)


def middle(picture: np.ndarray, name: str) -> np.ndarray:
    """The largest middle part whose sides are multiples of 64."""
    height, width = (side - side % MULTIPLE for side in picture.shape[:2])
    if not height or not width:
        raise UserError(f"{name}: smaller than {MULTIPLE} pixels, give --size to enlarge it")
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def paint_photo(painter: Painter, path: Path, size: int, out: Path) -> Path:
    """Write OUT/NAME.png and OUT/NAME-sheet.png (input, output, target); the sheet's path."""
    target = fitted(painter, load_picture(path), size, str(path))
    inputs = as_tensor(network_input(contours(target), painter.colours(target)))
    return _write(painter, inputs, out / path.stem, [as_tensor(target)])


def paint_drawing(
    painter: Painter, path: Path, colours: Path | None, dark_lines: bool, size: int, out: Path
) -> Path:
    """The same for drawn contours, over the colours of another picture or over grey; no target."""
    lines = drawn_lines(load_picture(path), dark_lines)
    lines = fitted(painter, lines, size, str(path), _resized_lines)
    height, width = lines.shape[:2]
    ground = np.full_like(lines, GREY) if colours is None else load_picture(colours)
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_AREA)
    inputs = as_tensor(network_input(lines, painter.colours(ground)))
    return _write(painter, inputs, out / path.stem, [])


def _resized_lines(lines: np.ndarray, size: int) -> np.ndarray:
    """Lines at another size, thin ones kept."""
    scale = size / min(lines.shape[:2])
    wanted = [max(size, int(side * scale)) for side in lines.shape[1::-1]]
    share = cv2.resize(lines, wanted, interpolation=cv2.INTER_AREA)
    return np.where(share >= LINE_SHARE, 255, 0).astype(np.uint8)


def _write(painter: Painter, inputs: torch.Tensor, base: Path, more: list[torch.Tensor]) -> Path:
    output = painter(inputs)
    write_png(base.with_name(f"{base.name}.png"), to_bytes(output))
    cpu = torch.device("cpu")
    columns = [to_network(inputs[None], cpu), output[None]]
    page = base.with_name(f"{base.name}-sheet.png")
    write_png(page, sheet(columns + [to_network(picture[None], cpu) for picture in more]))
    return page
