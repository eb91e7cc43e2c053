"""The coarse-to-fine pair of `train_c2f.py` as a library object: small faces in, large ones out."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.networks import checkpoints
from eyescream_py.networks.modes import evaluating
from eyescream_py.results.generator import G_of, usable_device
from eyescream_py.results.shown import shown_options
from eyescream_py.system.errors import UserError
from eyescream_py.torch7 import Table, image
from eyescream_py.torch7.random import RandomSource, TorchSource

TRIES = 10
MOST_SIDE = 1024  # pixels, of what a file may claim
SLACK = 1e-3  # of values that ought to be 0..1: what half precision rounds to
LUA_SIZE = 32  # pixels, of files that name no --fineSize


@dataclass(frozen=True)
class Refiner:
    """G draws the detail that pictures lack, D judges it (`sample.lua`).

    Both networks take a tuple of two pictures of side `size`.
    """

    G: nn.Module
    D: nn.Module
    size: int

    def refine(self, pictures: Tensor, seed: int = 1, tries: int = TRIES) -> Tensor:
        """[N,C,s,s] -> [N,C,S,S], both 0..1: of `tries` refinements the one that D likes best.

        Raises TypeError for what is no tensor of floats, ValueError for pictures of other channels,
        not square, not smaller than `size`, or with values beyond 0..1.
        """
        pictures, seed, tries = checked(pictures), operator.index(seed), operator.index(tries)
        if tries < 1:
            raise ValueError(f"the best of {tries} refinements cannot be found")
        shape = pictures.shape
        if pictures.ndim != 4 or shape[2] != shape[3] or not self.takes(shape[1], shape[3]):
            raise ValueError(f"pictures of shape {tuple(pictures.shape)} cannot be refined")
        device = next(self.G.parameters()).device
        with torch.autocast(device.type, enabled=False):  # rounded scores choose others
            return self.choose(pictures.to(device), TorchSource(seed, device), tries)

    def choose(
        self, pictures: Tensor, source: RandomSource, tries: int = TRIES, batch: int = 1024
    ) -> Tensor:
        """`refine` with noise from `source`, on the networks' device; `batch` refinements at a
        time."""
        coarse = image.scale(pictures, self.size)
        many = coarse.repeat_interleave(tries, 0)  # [N*tries,C,S,S]
        noise = source.uniform_(torch.empty_like(many[:, :1]), -1, 1)
        with evaluating(self.G, self.D):
            parts = list(zip(noise.split(batch), many.split(batch), strict=True))
            diffs = torch.cat([self.G(part) for part in parts])
            judged = zip(diffs.split(batch), many.split(batch), strict=True)
            scores = torch.cat([self.D(part).view(-1) for part in judged]).view(-1, tries)
        best = scores.argmax(1) + torch.arange(len(pictures), device=pictures.device) * tries
        return (coarse + diffs[best]).clamp(0, 1)

    def takes(self, channels: int, size: int) -> bool:
        """Whether the networks fit pictures of so many channels and pixels."""
        if size >= self.size:
            return False
        device = next(self.G.parameters()).device
        coarse = torch.zeros(1, channels, self.size, self.size, dtype=torch.float32, device=device)
        try:
            with evaluating(self.G, self.D):
                diff = self.G((coarse[:, :1], coarse))
                self.D((diff, coarse))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            return False
        return diff.shape == coarse.shape


def checked(pictures: Any) -> Tensor:
    """Pictures as float32, rounded to 0..1 where a few roundings led beyond.

    Raises TypeError for what is no plain tensor of floats, ValueError for values beyond 0..1.
    """
    if not isinstance(pictures, Tensor):
        raise TypeError(f"pictures are a torch.Tensor, not {type(pictures).__name__}")
    if not pictures.is_floating_point() or pictures.layout is not torch.strided or pictures.is_meta:
        raise TypeError(f"pictures are a plain tensor of floats in 0..1, not {pictures.dtype}")
    pictures = pictures.detach().float()
    if not bool(((pictures >= -SLACK) & (pictures <= 1 + SLACK)).all()):
        low, high = pictures.min(), pictures.max()
        raise ValueError(f"pictures have values in 0..1, these go from {low:g} to {high:g}")
    return pictures.clamp(0, 1)


def load_refiner(path: str | Path, device: torch.device | str = "cpu", ema: bool = True) -> Refiner:
    """The pair in one file, with `ema` its averaged G where there is one.

    Raises UserError where it holds none, or there is no such device.
    """
    file = checkpoints.given(path, "FILE")
    return read_refiner(file, file, usable_device(device), ema=ema)


def read_refiner(
    G_file: Path,
    D_file: Path,
    device: torch.device,
    options: tuple[str, str] = ("FILE", "FILE"),
    ema: bool = True,
) -> Refiner:
    """G (with `ema` the averaged one, where there is one) and D of two .net files, or of one;
    `options` name them in errors.

    Raises UserError where a file does not open or holds no such network.
    """
    content = checkpoints.read(G_file, options[0])
    other = content if D_file == G_file else checkpoints.read(D_file, options[1])
    G = G_of(content, G_file, options[0], ema)
    D = checkpoints.module(other, "D", D_file, options[1])
    refiner = Refiner(G.to(device), D.to(device), _fine_size(content, G_file, options[0]))
    if not any(refiner.takes(channels, refiner.size - 1) for channels in (1, 3)):
        raise UserError(
            f"{options[0]}={G_file}: its G and D refine no pictures; give a file of train_c2f.py"
        )
    return refiner


def _fine_size(content: Table, path: Path, option: str) -> int:
    opt = content.get("opt")
    size = opt.get("fineSize") if isinstance(opt, Table) else None
    if size is None:  # its D shows it, where the file has one
        size = shown_options(content, path).get("fineSize", LUA_SIZE)
    if not isinstance(size, int | float) or size not in range(2, MOST_SIDE + 1):
        raise UserError(f"{option}={path}: its fineSize is no side of a picture: {size!r:.40}")
    return int(size)
