"""Where the faces of a photo are, as the squares that training would have cut around them."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from eyescream_py.srez.photos import Photo, luma_of

Box = tuple[float, float, float]  # left, top, width
Square = tuple[int, int, int]  # left, top, side, in pixels of the photo
# Training's window of 128 pixels lies around LFW's faces; the detector's boxes on the same pictures
# are 117 wide and centred on it (medians of 40 faces).
WINDOW_PER_BOX = 128 / 117
SEARCHED_SIDES = (320, 640)  # the longer side of what the detector looks at, one after the other
MOST_ENLARGED = 8
LEAST_BOX = 30


def find_faces(photo: Photo) -> list[Square]:
    """Frontal faces, largest first; empty where the detector sees none.

    scikit-image's LBP cascade (Liao et al. 2007), whose file comes with the library. It needs 30
    pixels, so small photos are enlarged for it and large ones reduced, less so where it finds no
    face at first: what is as small as in a photo of a group is often no face where there are large
    ones.
    """
    grey = luma_of(photo.colours())[0]
    for longer in SEARCHED_SIDES:
        scale = min(MOST_ENLARGED, longer / max(grey.shape))
        boxes = _boxes(grey, scale)
        if boxes:
            return [_square(box, scale) for box in merged(boxes)]
    return []


def _boxes(grey: Tensor, scale: float) -> list[Box]:
    """(left, top, width) of what looks like a face in (H,W) floats 0..1 resized by `scale`."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    size = [max(1, round(n * scale)) for n in grey.shape]
    if min(size) <= LEAST_BOX:
        return []
    seen = F.interpolate(grey[None, None], size, mode="bicubic", antialias=True)[0, 0]
    found = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        img=seen.clamp(0, 1).mul(255).round().numpy().astype(np.uint8), scale_factor=1.1,
        step_ratio=1, min_size=(LEAST_BOX, LEAST_BOX), max_size=tuple(size), min_neighbor_number=5,
    )  # fmt: skip
    return [(f["c"], f["r"], f["width"]) for f in found]


def _square(box: Box, scale: float) -> Square:
    left, top, width = (value / scale for value in box)
    side = max(1, round(width * WINDOW_PER_BOX))
    return round(left + width / 2 - side / 2), round(top + width / 2 - side / 2), side


def merged(boxes: list[Box]) -> list[Box]:
    """(left, top, width) boxes, one per face, the largest first: the detector often answers one
    face with several, whose centres lie in the largest of them. Their mean is taken.
    """
    rest = sorted(boxes, key=lambda box: -box[2])
    faces = []
    while rest:
        same = [box for box in rest if _holds_centre(rest[0], box)]
        rest = [box for box in rest if box not in same]
        left, top, width = (sum(values) / len(same) for values in zip(*same, strict=True))
        faces.append((left, top, width))
    return faces


def _holds_centre(large: Box, box: Box) -> bool:
    x, y = box[0] + box[2] / 2 - large[0], box[1] + box[2] / 2 - large[1]
    return 0 <= x <= large[2] and 0 <= y <= large[2]
