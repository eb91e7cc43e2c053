"""The data set that is always there: 100 real LFW faces inside scikit-image, 25x25 gray, augmented.

Every picture gets `COPIES` copies (the first one as it is) under the law of `augmentation.py`, its
shifts scaled to 25 px. What a warp pulls in from beyond the picture's border is mirrored, because
the border is in sight here.
"""

from __future__ import annotations

import numpy as np
import torch

from eyescream_py.data.augmentation import draw, source_transform
from eyescream_py.torch7 import image

PICTURES = 100
COPIES = 50
SIDE = 25
FACE_IN_PHOTO = 84  # the face box of an LFW photo that 25 px stand for


def embedded_faces() -> torch.Tensor:
    """The 100 faces as float32 (100,1,25,25) in 0..1; `skimage.data.lfw_subset` holds 100
    non-faces after them."""
    from skimage.data import lfw_subset

    faces = np.asarray(lfw_subset()[:PICTURES], np.float32)
    return torch.from_numpy(faces)[:, None]


def augmented_faces(channels: int, size: int, seed: int) -> torch.Tensor:
    """uint8 (5000,channels,size,size): the copies of picture i are rows i*COPIES ..
    (i+1)*COPIES-1."""
    faces = embedded_faces().repeat_interleave(COPIES, 0)
    augmentations = [draw(seed, row // COPIES, row % COPIES) for row in range(len(faces))]
    brightness = torch.tensor([a.brightness for a in augmentations]).reshape(-1, 1, 1, 1)
    transforms = np.stack([source_transform(a, SIDE / FACE_IN_PHOTO) for a in augmentations])
    warped = warp((faces * brightness).clamp_(0, 1), torch.from_numpy(transforms))
    as_they_are = torch.arange(0, len(faces), COPIES)
    warped[as_they_are] = faces[as_they_are]
    scaled = image.scale(warped, size).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return scaled.repeat(1, channels, 1, 1)


def warp(images: torch.Tensor, transforms: torch.Tensor) -> torch.Tensor:
    """(N,C,S,S) sampled bilinearly, mirrored at the border; transforms (N,2,3) as
    `source_transform`, in pixels."""
    theta = transforms.to(images.dtype).clone()
    theta[:, :, 2] *= 2 / images.shape[-1]
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        images, grid, padding_mode="reflection", align_corners=False
    )
