"""Face generators: a PyTorch port of the Lua Torch program of 2015, and four sibling systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from eyescream_py.results.generator import Generator
    from eyescream_py.results.refiner import Refiner


def load_generator(
    path: str | Path = "pretrained:faces32", device: str = "cpu", ema: bool = True
) -> Generator:
    """A trained G: `load_generator("logs/adversarial.net").sample(64, seed=1)` is (64,C,H,W) 0..1.

    `path` is a trainer's .net, what `sample.py --export` wrote (.safetensors), or a network that
    comes with the package (`pretrained:faces16`, `pretrained:faces32`); of a file with an averaged
    G that one is opened, unless `ema` is False. The result's `noise_dim` and `dims` say what it
    takes and makes. Raises UserError where the file holds no G that makes pictures of noise, or
    there is no such device. torch is imported by the call.
    """
    from eyescream_py.results.generator import load_generator as load

    return load(path, device, ema)


def load_refiner(path: str | Path, device: str = "cpu", ema: bool = True) -> Refiner:
    """The pair that `train_c2f.py` saved: `load_refiner(path).refine(faces)` enlarges faces.

    faces (N,C,s,s) in 0..1 become (N,C,S,S), with S the run's --fineSize; of a file with an
    averaged G that one is taken, unless `ema` is False. Raises UserError where the file holds no
    such pair, or there is no such device. torch is imported by the call.
    """
    from eyescream_py.results.refiner import load_refiner as load

    return load(path, device, ema)
