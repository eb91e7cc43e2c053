"""Where the frontal faces of a picture are: scikit-image's LBP cascade (Liao et al. 2007), whose
file comes with the library.
"""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float]  # left, top, side, in pixels
LEAST = 30  # side of the smallest face that is looked for


def face_boxes(grey: np.ndarray) -> list[Box]:
    """Boxes around the faces in uint8 (H,W), one per face, the largest first.

    None in a picture that is not larger than the smallest face.
    """
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    if min(grey.shape) <= LEAST:
        return []
    found = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        img=grey, scale_factor=1.1, step_ratio=1, min_size=(LEAST, LEAST), max_size=grey.shape,
        min_neighbor_number=5,
    )  # fmt: skip
    return merged([(f["c"], f["r"], f["width"]) for f in found])


def merged(boxes: list[Box]) -> list[Box]:
    """One box per face: the detector often answers one face with several, whose centres lie in the
    largest of them. Their mean is taken.
    """
    rest = sorted(boxes, key=lambda box: -box[2])
    faces = []
    while rest:
        same = [box for box in rest if _holds_centre(rest[0], box)]
        rest = [box for box in rest if box not in same]
        left, top, side = (sum(values) / len(same) for values in zip(*same, strict=True))
        faces.append((left, top, side))
    return faces


def _holds_centre(large: Box, box: Box) -> bool:
    x, y = box[0] + box[2] / 2 - large[0], box[1] + box[2] / 2 - large[1]
    return 0 <= x <= large[2] and 0 <= y <= large[2]
