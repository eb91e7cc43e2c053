"""What the network sees of a photograph: contours per colour channel, laid over a coarse colour
map.

A picture is an array (H, W, 3) of uint8, red, green, blue.
"""

from __future__ import annotations

import cv2
import numpy as np

LOW_GRADIENT = 1
HIGH_GRADIENT = 255
COLOUR_CELLS = 16
DRAWN_FROM = 128


def contours(picture: np.ndarray) -> np.ndarray:
    """Canny edges of each channel by itself: (H, W, 3) uint8, 255 on a contour, 0 elsewhere.

    3x3 Sobel, gradient size |gx| + |gy|, no blur before it. A contour needs one pixel steeper than
    `HIGH_GRADIENT` and is followed while it is steeper than `LOW_GRADIENT`: long and thin lines.
    """
    channels = [np.ascontiguousarray(picture[..., channel]) for channel in range(3)]
    return np.stack([cv2.Canny(channel, LOW_GRADIENT, HIGH_GRADIENT) for channel in channels], -1)


def colour_map(picture: np.ndarray, cells: tuple[int, int] | None = None) -> np.ndarray:
    """`picture` reduced to `cells` (rows, columns; 16 x 16 by default) and enlarged again.

    Both ways plain bilinear, as published: the reduction reads 2x2 pixels of each cell, not all.
    """
    rows, columns = cells or (COLOUR_CELLS, COLOUR_CELLS)
    height, width = picture.shape[:2]
    thumbnail = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_LINEAR)


def network_input(lines: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """`lines` (0 or 255) over `colours`, or over black where there is no colour map: (H, W, 3)
    uint8.
    """
    return lines if colours is None else np.maximum(lines, colours)


def photo_input(picture: np.ndarray, colormap: bool = True) -> np.ndarray:
    """The network's input for a photograph: its contours over its own 16x16 colour map."""
    return network_input(contours(picture), colour_map(picture) if colormap else None)


def drawn_lines(drawing: np.ndarray, dark_lines: bool) -> np.ndarray:
    """Lines of a drawing as a contour map (0 or 255 per channel).

    Light lines on a dark ground; with `dark_lines` dark ones on a light ground (ink on paper).
    """
    ink = 255 - drawing if dark_lines else drawing
    return np.where(ink >= DRAWN_FROM, 255, 0).astype(np.uint8)
