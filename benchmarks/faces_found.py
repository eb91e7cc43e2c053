"""In which share of pictures a face detector finds a face: real ones, others, generated ones.

    python -m benchmarks.faces_found --real FOLDER [--scale 16] [NETWORK ...]

The detector is scikit-image's cascade of local binary patterns, which comes with a package that
is installed anyway. Its settings were chosen by real faces of 16 px and pictures of none, alone: to
find four in five of the former and few of the latter (docs/evaluate.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import skimage.data
import skimage.feature
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from eyescream_py import load_generator
from eyescream_py.data.dataset import load_dataset
from eyescream_py.networks import checkpoints
from eyescream_py.results import generator
from eyescream_py.results.choice import choose
from eyescream_py.results.sampling import ranking
from eyescream_py.torch7 import image

SIDE, BORDER = 96, 48  # pixels of a face for the detector, and of its edge repeated around it
STEP, HITS = 1.05, 4  # from one size of the window to the next; windows that must agree
SHOWN = 64  # pictures of sample.py's grids
PHOTOS = (
    "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "page.png", "rocket.jpg", "text.png",
)  # fmt: skip


def faces_found(pictures: np.ndarray) -> float:
    """Share of pictures [N,C,H,W] in 0..1 in which the cascade finds a frontal face."""
    detector = skimage.feature.Cascade(skimage.data.lbp_frontal_face_cascade_filename())
    found = 0
    for picture in pictures:
        gray = Image.fromarray((picture.mean(0).clip(0, 1) * 255).astype(np.uint8))
        large = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        framed = np.pad(large, BORDER, mode="edge")
        found += bool(
            detector.detect_multi_scale(
                img=framed, scale_factor=STEP, step_ratio=1, min_neighbor_number=HITS,
                min_size=(SIDE // 2, SIDE // 2), max_size=(SIDE + BORDER, SIDE + BORDER),
            )
        )  # fmt: skip
    return found / len(pictures)


def others(real: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Pictures [N,1,S,S] that show no face, as many of each kind as real ones [N,1,S,S]."""
    n, side = len(real), real.shape[-1]
    yield "uniform noise", rng.random(real.shape)
    blurred = np.stack([_blurred(side, rng) for _ in range(n)])
    yield "blurred noise", (real.mean() + real.std((1, 2, 3)).mean() * blurred).clip(0, 1)
    # the faces' own frequencies, every one of them moved at random
    strength = np.abs(np.fft.fft2(real))
    moved = strength * np.exp(1j * np.angle(np.fft.fft2(rng.random(real.shape))))
    yield "faces with random phases", np.fft.ifft2(moved).real.clip(0, 1)
    yield "patches of photos of no people", np.stack([_patch(side, rng) for _ in range(n)])
    of_lfw = torch.from_numpy(np.asarray(skimage.data.lfw_subset()[100:], np.float32))[:, None]
    yield "patches of LFW beside the faces", image.scale(of_lfw, side).numpy()


def _blurred(side: int, rng: np.random.Generator) -> np.ndarray:
    noise = gaussian_filter(rng.standard_normal((1, side, side)), (0, *[rng.uniform(0.7, 3)] * 2))
    return (noise - noise.mean()) / noise.std()


def _patch(side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of a photo, shrunk; never one that is all alike."""
    while True:
        photo = Image.open(Path(skimage.data.data_dir) / rng.choice(PHOTOS)).convert("L")
        edge = int(rng.uniform(32, 0.9 * min(photo.size)))
        x, y = (int(rng.integers(0, size - edge + 1)) for size in photo.size)
        square = photo.crop((x, y, x + edge, y + edge))
        small = np.asarray(square.resize((side, side), Image.Resampling.BOX), np.float32) / 255
        if small.std() > 0.05:
            return small[None]


def generated(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """A network's first 500 pictures, and of 1024 those that D likes best and those chosen."""
    path = checkpoints.find(name, Path())
    G = load_generator(path)
    pictures = G.sample(1024)
    yield f"{name}: 500 as they come", pictures[:500].numpy()
    content = checkpoints.read(path, "NETWORK")
    if "D" not in content:
        return
    D = generator.D_of(content, path, "NETWORK", G).float()
    orders: dict[str, Callable[..., torch.Tensor]] = {"D's best": ranking, "chosen": choose}
    for words, order in orders.items():
        yield f"{name}: {words} {SHOWN} of 1024", pictures[order(D, pictures)[:SHOWN]].numpy()


@click.command(help=__doc__)
@click.argument("networks", nargs=-1)
@click.option("--real", required=True, help="Folder of faces that no network has seen.")
@click.option("--scale", default=16, show_default=True)
@click.option("--images", default=400, show_default=True, help="Real faces, about so many.")
def main(networks: tuple[str, ...], real: str, scale: int, images: int) -> None:
    torch.set_num_threads(1)
    # copies of one photo lie side by side: some of everybody
    all_faces = load_dataset(real, 1, scale).images
    faces = all_faces[:: max(1, len(all_faces) // images)].float().div(255).numpy()
    print(f"{faces_found(faces):.3f} of {len(faces)} real faces", flush=True)
    for name, pictures in others(faces[::2], np.random.default_rng(1)):
        print(f"{faces_found(pictures):.3f} of {len(pictures)} {name}", flush=True)
    for network in networks:
        for name, pictures in generated(network):
            print(f"{faces_found(pictures):.3f} {name}", flush=True)


if __name__ == "__main__":
    main()
