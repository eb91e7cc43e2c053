"""Faces by hand: where in the noise a face lies, and what is changed by moving from there.

The arithmetic of `sample.py --explore`; nothing here knows of a page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyescream_py.results.generator import Generator
from eyescream_py.results.sampling import generate
from eyescream_py.system.errors import UserError

DIRECTIONS = 10
REACH = 3.0  # standard deviations to either side
NOISE_DEVIATION = 1 / math.sqrt(3)  # of numbers uniform in [-1,1], along any direction
_PARALLEL = 1e-4  # radians; below, an arc cannot be told from its chord


@dataclass(frozen=True)
class Place:
    """A face: the way from seed `a` (t = 0) to seed `b` (t = 1), then `steps` along the directions
    in standard deviations of the noise."""

    a: int
    b: int
    t: float
    steps: tuple[float, ...]


class Explorer:
    """G, and the directions of noise that change most: `directions` [K,Z], orthonormal rows."""

    def __init__(self, G: Generator, count: int = DIRECTIONS) -> None:
        self.G = G
        self.directions = main_directions(G.network, min(count, G.noise_dim))

    def noise(self, place: Place) -> Tensor:
        """[1,Z]; exactly a seed's own noise at an end of the way with all steps 0."""
        noise = between(self.G.noise(1, place.a), self.G.noise(1, place.b), place.t)
        if not any(place.steps):
            return noise
        steps = torch.tensor([place.steps], device=noise.device, dtype=noise.dtype)
        return noise + NOISE_DEVIATION * steps @ self.directions[: len(place.steps)]

    def face(self, place: Place) -> Tensor:
        """[1,C,H,W] in 0..1: with t = 0 and no steps `G.sample(1, a)`."""
        return generate(self.G.network, self.noise(place)).clamp(0, 1)

    def way(self, place: Place, stops: int = 5) -> Tensor:
        """[stops,C,H,W] in 0..1: evenly from a to b, with the same steps everywhere."""
        shares = [stop / (stops - 1) for stop in range(stops)]
        places = [Place(place.a, place.b, t, place.steps) for t in shares]
        noise = torch.cat([self.noise(each) for each in places])
        return generate(self.G.network, noise).clamp(0, 1)

    def seeds(self, first: int, count: int) -> Tensor:
        """[count,C,H,W] in 0..1: the faces of `count` seeds from `first` on."""
        noise = torch.cat([self.G.noise(1, first + i) for i in range(count)])
        return generate(self.G.network, noise).clamp(0, 1)


@torch.no_grad()
def main_directions(network: nn.Module, count: int) -> Tensor:
    """The `count` principal components of the first layer's weights: [count,Z], orthonormal rows.

    They are the right singular vectors of the weights, largest first: noise being equally wide in
    all directions, those along which the layer's output varies most (Härkönen et al. 2020,
    GANSpace; Shen and Zhou 2021). The largest entry of each is positive, so that every machine
    finds the same side. Raises UserError where the first layer with weights is not linear or
    holds nan or inf.
    """
    first = next((layer for layer in network.modules() if layer._parameters), None)
    if not isinstance(first, nn.Linear):
        name = type(first).__name__ if first is not None else "nothing"
        raise UserError(
            f"--explore: G begins with {name}; main directions are those of a first Linear layer"
        )
    # in double: close singular values must not swap between machines
    weights = first.weight.detach().cpu().double()
    if not weights.isfinite().all():
        raise UserError("--explore: weights of G are no finite numbers; take an earlier save of it")
    vectors = torch.linalg.svd(weights, full_matrices=False).Vh[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).to(first.weight)


def between(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The noise at share `t` of the arc from `a` to `b`, both [1,Z]; exactly `a` at 0, `b` at 1.

    Spherical (Shoemake 1985): on the chord the noise would be shorter than any that G was trained
    with, and the face in the middle paler than both.
    """
    angle = functional.cosine_similarity(a.double(), b.double()).clamp(-1, 1).acos().item()
    if t in (0, 1) or angle < _PARALLEL or math.pi - angle < _PARALLEL:
        return (1 - t) * a + t * b
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def enlarged(pictures: Tensor, width: int) -> Tensor:
    """[N,C,H,W] in 0..1 smoothly enlarged to be `width` pixels wide, if they are narrower."""
    H, W = pictures.shape[-2:]
    width = max(W, width)
    size = (round(H * width / W), width)
    return functional.interpolate(pictures.float(), size=size, mode="bicubic").clamp(0, 1)
