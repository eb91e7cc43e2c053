"""The law of the augmentation, and its one warp against flip, warp, crop and resize one by one."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, transform

from eyescream_py.data import augmentation, embedded
from eyescream_py.data.augmentation import COPIES, Augmentation, draw, face


def photo(left: int = 100, top: int = 0) -> Image.Image:
    """250x250 around the astronaut's face."""
    return Image.fromarray(data.astronaut()).crop((left, top, left + 250, top + 250))


def step_by_step(picture: Image.Image, law: Augmentation) -> np.ndarray:
    """The obvious way, every step on the whole photo: uint8 (64,64,3)."""
    pixels = np.asarray(picture, np.float64)
    if law.flip:
        pixels = pixels[:, ::-1]
    pixels = np.clip(pixels * law.brightness, 0, 255)
    to_corner = transform.SimilarityTransform(translation=(-124.5, -124.5))
    to_centre = transform.SimilarityTransform(translation=(124.5, 124.5))
    turned = transform.AffineTransform(
        scale=(law.scale, law.scale), rotation=np.deg2rad(law.rotation), translation=law.shift
    )
    whole = to_corner + turned + to_centre
    warped = transform.warp(pixels / 255, whole.inverse, order=1, mode="edge")
    resized = transform.resize(warped[92:176, 83:167], (64, 64), order=1)
    return np.rint(resized * 255).astype(np.uint8)


def test_the_law_and_its_limits():
    laws = [draw(43, picture, copy) for picture in range(200) for copy in range(1, COPIES)]
    brightness, scale = ([getattr(law, name) for law in laws] for name in ("brightness", "scale"))
    assert 0.9 <= min(brightness) < 0.901
    assert 1.099 < max(brightness) <= 1.1
    assert 0.82 <= min(scale) < 0.821
    assert 1.099 < max(scale) <= 1.1
    assert {law.rotation for law in laws} == set(range(-8, 9))
    for axis in (0, 1):
        assert {law.shift[axis] for law in laws} == set(range(-5, 6))
    assert 0.47 < np.mean([law.flip for law in laws]) < 0.53
    assert len(set(laws)) == len(laws)


def test_a_copy_depends_on_seed_picture_and_its_number_only():
    assert draw(43, 7, 3) == draw(43, 7, 3)
    assert len({draw(43, 7, 3), draw(44, 7, 3), draw(43, 8, 3), draw(43, 7, 4)}) == 4
    assert draw(1, 2, 0) == draw(5, 6, 0) == Augmentation()


@pytest.mark.parametrize(
    "law",
    [
        Augmentation(),
        Augmentation(flip=True),
        Augmentation(brightness=1.1),
        Augmentation(scale=0.82),
        Augmentation(rotation=8),
        Augmentation(shift=(5, -3)),
        Augmentation(True, 0.9, 1.1, -8, (-5, 5)),
    ],
)
def test_one_warp_equals_the_steps(law):
    composed = np.asarray(face(photo(), law)).astype(float)
    steps = step_by_step(photo(), law)
    assert composed.shape == (64, 64, 3)
    assert np.abs(composed - steps).mean() < 2
    if law != Augmentation():
        plain = np.asarray(face(photo(), Augmentation())).astype(float)
        assert np.abs(composed - plain).mean() > 4


def test_100_faces_differ_from_the_steps_by_less_than_2_of_255_on_average():
    differences = []
    for i in range(100):
        picture, law = photo(13 * i % 200, 7 * i % 60), draw(43, i, 1 + i % 19)
        composed = np.asarray(face(picture, law)).astype(float)
        differences.append(np.abs(composed - step_by_step(picture, law)).mean())
    assert np.mean(differences) < 2


def test_the_tensor_warp_follows_the_same_law():
    faces = embedded.embedded_faces()[:1].repeat(4, 1, 1, 1)
    laws = [Augmentation(), Augmentation(flip=True), Augmentation(shift=(2, 0))]
    laws.append(Augmentation(rotation=90))
    transforms = torch.from_numpy(np.stack([augmentation.source_transform(law) for law in laws]))
    same, flipped, shifted, turned = embedded.warp(faces, transforms)[:, 0]
    original = faces[0, 0]
    torch.testing.assert_close(same, original)
    torch.testing.assert_close(flipped, original.flip(1))
    torch.testing.assert_close(shifted[:, 2:], original[:, :-2])
    torch.testing.assert_close(turned, torch.rot90(original, -1))  # clockwise on the screen
