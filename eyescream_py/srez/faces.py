"""Where the faces of a photo are, as the squares that training would have cut around them."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from eyescream_py.data.face_boxes import LEAST, Box, face_boxes
from eyescream_py.srez.photos import Photo, luma_of

Square = tuple[int, int, int]  # left, top, side, in pixels of the photo
# Training's window of 128 pixels lies around LFW's faces; the detector's boxes on the same pictures
# are 117 wide and centred on it (medians of 40 faces).
WINDOW_PER_BOX = 128 / 117
SEARCHED_SIDES = (320, 640)  # the longer side of what the detector looks at, one after the other
MOST_ENLARGED = 8


def find_faces(photo: Photo) -> list[Square]:
    """Frontal faces, largest first; empty where the detector sees none.

    It needs 30 pixels, so small photos are enlarged for it and large ones reduced, less so where it
    finds no face at first: what is as small as in a photo of a group is often no face where there
    are large ones.
    """
    grey = luma_of(photo.colours())[0]
    for longer in SEARCHED_SIDES:
        scale = min(MOST_ENLARGED, longer / max(grey.shape))
        boxes = _boxes(grey, scale)
        if boxes:
            return [_square(box, scale) for box in boxes]
    return []


def _boxes(grey: Tensor, scale: float) -> list[Box]:
    """Boxes of the faces in (H,W) floats 0..1 resized by `scale`."""
    size = [max(1, round(n * scale)) for n in grey.shape]
    if min(size) <= LEAST:  # before a long strip is resized
        return []
    seen = F.interpolate(grey[None, None], size, mode="bicubic", antialias=True)[0, 0]
    return face_boxes(seen.clamp(0, 1).mul(255).round().numpy().astype(np.uint8))


def _square(box: Box, scale: float) -> Square:
    left, top, width = (value / scale for value in box)
    side = max(1, round(width * WINDOW_PER_BOX))
    return round(left + width / 2 - side / 2), round(top + width / 2 - side / 2), side
