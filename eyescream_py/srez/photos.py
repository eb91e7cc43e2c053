"""A person's pictures as arrays of 8 or 16 bits, with their transparency, and back into PNG files.

The data set's pictures become 8-bit RGB (`data.open_picture`); what a person wants enlarged keeps
what it has.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyescream_py.data import pictures
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

LUMA = (0.299, 0.587, 0.114)
ORIENTATION = 0x0112  # the EXIF tag
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Photo:
    """`pixels` (H,W,C) uint8 or uint16, C = 3 (RGB) or 4 (RGB and opacity)."""

    pixels: np.ndarray

    @property
    def width(self) -> int:
        """Pixels across."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels down."""
        return int(self.pixels.shape[0])

    @property
    def white(self) -> int:
        """The largest value: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def part(self, box: tuple[int, int, int, int]) -> Tensor:
        """(3,h,w) floats 0..1 of the whole-numbered box, whose outside repeats the edge."""
        left, top, right, bottom = box
        rows = np.clip(np.arange(top, bottom), 0, self.height - 1)
        columns = np.clip(np.arange(left, right), 0, self.width - 1)
        values = self.pixels[rows[:, None], columns[None], :3].astype(np.float32) / self.white
        return torch.from_numpy(values).permute(2, 0, 1)

    def colours(self) -> Tensor:
        """(3,H,W) floats 0..1."""
        return self.part((0, 0, self.width, self.height))


def open_photo(path: str | Path) -> Photo:
    """Any picture that training takes, turned as its camera says; UserError, naming the file, where
    it cannot be decoded. 16 bits stay in PNG files and in grey TIFF files.
    """
    try:
        with pictures.opened(path) as picture:
            deep = _deep(path, picture)
        if deep is not None:
            return Photo(deep)
        image = pictures.open_picture(path, alpha=True)
    except pictures.PictureError as error:
        raise UserError(f"{path}: not a readable picture ({error})") from None
    return Photo(np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB")))


def _deep(path: str | Path, picture: Image.Image) -> np.ndarray | None:
    """The upright values of more than 8 bits as uint16; None for every other picture."""
    values: np.ndarray | None
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = (pictures.deep_values(picture) * 65535).round().astype(np.uint16)
        values = np.repeat(grey[:, :, None], 3, 2)
    else:
        values = _deep_png(path, picture)
    if values is None:
        return None
    return np.ascontiguousarray(_turned(values, picture.getexif().get(ORIENTATION, 1)))


def _deep_png(path: str | Path, picture: Image.Image) -> np.ndarray | None:
    """A PNG file's 16-bit RGB or RGBA values, which Pillow halves; None for every other file."""
    if picture.format != "PNG":
        return None
    data = Path(path).read_bytes()
    depth, colour_type = data[24:26]
    if depth != 16 or colour_type not in (2, 4, 6):
        return None
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != picture.size[::-1]:
        raise pictures.PictureError("damaged, or 16 bits of an unknown kind")
    return values[:, :, [2, 1, 0, 3][: values.shape[2]]]


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF's eight orientations: mirrored or not, then quarter turns."""
    mirrored, quarters = {
        2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3),
        8: (False, 1),
    }.get(orientation, (False, 0))  # fmt: skip
    return np.rot90(values[:, ::-1] if mirrored else values, quarters)


def luma_of(colours: Tensor) -> Tensor:
    """(...,3,H,W) -> (...,1,H,W), brightness after ITU-R BT.601."""
    weights = colours.new_tensor(LUMA)[:, None, None]
    return (colours * weights).sum(-3, keepdim=True)


def to_photo(colours: Tensor, alpha: np.ndarray | None, white: int) -> Photo:
    """(3,H,W) floats, clipped to 0..1, and an opacity (H,W) of the wanted type."""
    kind = np.uint8 if white == 255 else np.uint16
    values = colours.detach().clamp(0, 1).mul(white).round().permute(1, 2, 0).cpu().numpy()
    pixels = values.astype(kind)
    return Photo(pixels if alpha is None else np.dstack([pixels, alpha]))


def resized(pixels: np.ndarray, width: int, height: int, box: Box | None = None) -> np.ndarray:
    """Bicubic in the type of `pixels`; transparent colours do not bleed into what is seen."""
    if pixels.dtype == np.uint8:
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box)
        return np.asarray(image)
    planes = [
        resized_plane(plane, width, height, Image.Resampling.BICUBIC, box)
        for plane in np.moveaxis(pixels.astype(np.float32), 2, 0)
    ]
    return np.stack(planes, 2).round().clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def resized_plane(
    plane: np.ndarray, width: int, height: int, how: Image.Resampling, box: Box | None = None
) -> np.ndarray:
    """One (H,W) float32 plane, or the part of it in `box`, as (height,width)."""
    return np.asarray(Image.fromarray(plane).resize((width, height), how, box))


def resized_colours(colours: Tensor, side: int, how: Image.Resampling) -> Tensor:
    """(3,h,w) floats -> (3,side,side)."""
    planes = [resized_plane(plane.numpy(), side, side, how) for plane in colours.cpu().contiguous()]
    return torch.from_numpy(np.stack(planes))


def save_photo(path: Path, photo: Photo) -> None:
    """A PNG file of as many bits as the photo has."""
    if photo.white == 255:
        data = io.BytesIO()
        Image.fromarray(photo.pixels).save(data, format="PNG")
        encoded = data.getvalue()
    else:
        import cv2

        order = [2, 1, 0, 3][: photo.pixels.shape[2]]
        encoded = cv2.imencode(".png", photo.pixels[:, :, order])[1].tobytes()
    with atomic_write(path) as file:
        file.write(encoded)
