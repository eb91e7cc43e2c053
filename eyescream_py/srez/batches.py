"""Windows on the device -> augmented batches: small picture, label, and every random number of a
step.

Batch k's numbers come from a generator seeded with (seed, k): a resumed run draws what an
uninterrupted one would have, on any device.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from eyescream_py.srez.data import WINDOW_SIDE, Faces
from eyescream_py.srez.objectives import box_reduce
from eyescream_py.srez.options import FULL_SIDE, Options

JITTER = WINDOW_SIDE - FULL_SIDE
NOISE_SEED = 1 << 40  # keeps the fixed noise of test pictures apart from every batch's numbers


@dataclass(frozen=True)
class Batch:
    """What one training step reads: (N,3,S,S) generator input (with training noise), (N,3,s,s)
    small picture it is tied to, (N,3,H,W) label, all 0..1 but the noise; alpha (N,) in 0..1 for the
    gradient penalty.
    """

    inputs: Tensor
    small: Tensor
    label: Tensor
    alpha: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        return self.inputs, self.small, self.label, self.alpha


@dataclass(frozen=True)
class Draws:
    """Random choices per image, all (N,): flip (bool), left and top of the crop (0..16), saturation
    and contrast factors in 0.95..1.05, brightness difference in -0.05..0.05.
    """

    flip: Tensor
    left: Tensor
    top: Tensor
    saturation: Tensor
    brightness: Tensor
    contrast: Tensor


def draw_augmentation(count: int, rng: torch.Generator) -> Draws:
    """Flips, shifts and colours of `count` pictures, all drawn from `rng`."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    return Draws(
        flip=torch.rand(count, generator=rng) < 0.5,
        left=torch.randint(0, JITTER + 1, (count,), generator=rng),
        top=torch.randint(0, JITTER + 1, (count,), generator=rng),
        saturation=uniform(0.95, 1.05),
        brightness=uniform(-0.05, 0.05),
        contrast=uniform(0.95, 1.05),
    )


def no_augmentation(count: int) -> Draws:
    """The centred crop with its colours as they are."""
    middle = torch.full((count,), JITTER // 2)
    one = torch.ones(count)
    return Draws(torch.zeros(count, dtype=torch.bool), middle, middle, one, 0 * one, one)


def augment(windows: Tensor, means: Tensor, draws: Draws) -> Tensor:
    """(N,3,144,144) uint8 and (N,4) frame means -> (N,3,128,128) float 0..1: flip, crop, then the
    colours.

    Saturation scales the distance to max(R,G,B) as it does in HSV, no further than pure colours;
    brightness adds and clips; contrast turns around the frame's mean. That mean is exact up to
    values that clip. The original truncates to 8 bit after each colour step, which makes
    its labels darker by about one step of 255; here nothing is cut off between the steps.
    """
    x = _crop(windows, draws).float() / 255
    saturation, brightness, contrast = (
        values.to(windows.device, non_blocking=True)[:, None, None, None]
        for values in (draws.saturation, draws.brightness, draws.contrast)
    )
    value = x.amax(1, keepdim=True)
    purest = value / (value - x.amin(1, keepdim=True)).clamp_min(1e-8)
    x = value - torch.minimum(saturation, purest) * (value - x)
    mean, mean_value = means[:, :3, None, None], means[:, 3:, None, None]
    centre = (mean_value - saturation * (mean_value - mean) + brightness).clamp(0, 1)
    x = (x + brightness).clamp(0, 1)
    return (centre + contrast * (x - centre)).clamp(0, 1)


def _crop(windows: Tensor, draws: Draws) -> Tensor:
    """(N,3,128,128) at each picture's own place, mirrored where its draw says so."""
    return (_gathered if windows.is_cuda else _cut_out)(windows, draws)


def _gathered(windows: Tensor, draws: Draws) -> Tensor:
    """All of them in one kernel."""
    place, back = torch.arange(FULL_SIDE), draws.flip[:, None]
    rows = draws.top[:, None] + place  # [N,128]
    columns = draws.left[:, None] + place
    columns = torch.where(back, windows.shape[-1] - 1 - columns, columns)
    picture = torch.arange(len(windows))[:, None, None, None]
    colour = torch.arange(windows.shape[1])[:, None, None]
    index = (picture, colour, rows[:, None, :, None], columns[:, None, None, :])
    return windows[tuple(t.to(windows.device, non_blocking=True) for t in index)]  # [N,3,128,128]


def _cut_out(windows: Tensor, draws: Draws) -> Tensor:
    crops = []
    places = zip(windows, draws.flip.tolist(), draws.left.tolist(), draws.top.tolist(), strict=True)
    for window, flip, left, top in places:
        turned = window.flip(2) if flip else window
        crops.append(turned[:, top : top + FULL_SIDE, left : left + FULL_SIDE])
    return torch.stack(crops)


@functools.cache
def _area_weights(side: int) -> Tensor:
    """(side,128) rows that average 128 values over `side` equal stretches, parts of values counted
    in part.
    """
    edges = torch.linspace(0, FULL_SIDE, side + 1, dtype=torch.float64)
    pixel = torch.arange(FULL_SIDE, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return (covered.clamp_min(0) * side / FULL_SIDE).float()


def area_reduce(pictures: Tensor, side: int) -> Tensor:
    """(N,C,128,128) -> (N,C,side,side) by area means; for 64 the exact mean of 2x2."""
    if side == FULL_SIDE:
        return pictures
    if FULL_SIDE % side == 0:
        return torch.nn.functional.avg_pool2d(pictures, FULL_SIDE // side)
    weights = _area_weights(side).to(pictures.device, non_blocking=True)
    return weights @ pictures @ weights.T


class Batches:
    """Batch k of an endless stream over shuffled rounds of the faces; every image comes once per
    round.
    """

    def __init__(self, faces: Faces, options: Options, device: torch.device) -> None:
        self.options = options
        self.device = device
        self.faces = faces.to(device)

    def batch(self, number: int) -> Batch:
        options = self.options
        rng = torch.Generator().manual_seed(_mix(options.random_seed, number))
        windows, means = self.faces.pick(self._positions(number))
        draws = draw_augmentation(len(windows), rng)
        windows, means = (t.to(self.device, non_blocking=True) for t in (windows, means))
        full = augment(windows, means, draws)
        label = area_reduce(full, options.sample_size)
        return with_inputs(label, options, rng)

    def _positions(self, number: int) -> Tensor:
        count, size = len(self.faces), self.options.batch_size
        positions = range(number * size, (number + 1) * size)
        return torch.tensor([int(self._round(p // count)[p % count]) for p in positions])

    @functools.lru_cache(maxsize=4)  # noqa: B019  one stream lives as long as its run
    def _round(self, number: int) -> Tensor:
        rng = torch.Generator().manual_seed(_mix(~self.options.random_seed, number))
        return torch.randperm(len(self.faces), generator=rng)


def _mix(seed: int, number: int) -> int:
    return (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 1) % (1 << 63)


def with_inputs(label: Tensor, options: Options, rng: torch.Generator) -> Batch:
    """A batch for training: the small picture with N(0, train_noise) added, or uniform noise in
    -1..1.
    """
    count, device = len(label), label.device
    if options.input == "noise":
        inputs = uniform_noise(count, options, rng).to(device, non_blocking=True)
        small = label.new_zeros(count, 3, 1, 1)
    else:
        small = box_reduce(label, options.input_side)
        noise = torch.randn(small.shape, generator=rng)
        inputs = small + options.train_noise * noise.to(device, non_blocking=True)
    alpha = torch.rand(count, generator=rng).to(device, non_blocking=True)
    return Batch(*(t.contiguous(memory_format=_format(t)) for t in (inputs, small, label, alpha)))


def _format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format


def uniform_noise(count: int, options: Options, rng: torch.Generator) -> Tensor:
    """What `--input noise` shows the generator: [count,3,side,side], uniform in -1..1."""
    side = options.noise_dimension
    return 2 * torch.rand(count, 3, side, side, generator=rng) - 1


def held_out_pictures(
    faces: Faces, options: Options, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(inputs, labels) of held-out faces: centred crop, no augmentation, no training noise, the
    same in every run.
    """
    windows, means = (t.to(device) for t in faces.pick(torch.arange(len(faces))))
    label = area_reduce(augment(windows, means, no_augmentation(len(faces))), options.sample_size)
    if options.input == "noise":
        rng = torch.Generator().manual_seed(_mix(options.random_seed, NOISE_SEED))
        return uniform_noise(len(faces), options, rng).to(device), label
    return box_reduce(label, options.input_side), label
