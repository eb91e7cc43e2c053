"""Small photographs, features and options that the tests of this room share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.features import calibrate
from eyescream_py.features.resnet import ResNet18, random_resnet
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.scenes import write_scenes


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_scenes(folder, count=10, size=80, seed=3)
    return folder


@pytest.fixture
def small_features() -> ResNet18:
    """A calibrated random ResNet-18 of 1/8 width, not yet frozen."""
    network = random_resnet(0.125, seed=1)
    generator = torch.Generator().manual_seed(0)
    calibrate(network, [torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2)])
    return network


@pytest.fixture
def tiny(photos, tmp_path) -> dict:
    """Options of a run of a second or two."""
    return {
        "dataroota": (str(photos),),
        "out": str(tmp_path / "run"),
        "nthread": 0,
        "loadSize": 72,
        "imgSize": 64,
        "batchSize": 2,
        "itersPerEpoch": 7,
        "width": 0.0625,
        "features": "random",
        "features_width": 0.0625,
        "noplot": True,
        "gpu": -1,
        "threads": 1,
    }


@pytest.fixture
def tiny_options(tiny) -> Options:
    return Options(**tiny)


@pytest.fixture
def tiny_flags(tiny) -> list[str]:
    """The same as command line arguments."""
    flags = []
    for name, value in tiny.items():
        name = "--" + name.replace("_", "-")
        if name == "--dataroota":
            flags += [name, value[0]]
        else:
            flags += [name] if value is True else [name, str(value)]
    return flags


def save_jpeg(path: Path, width: int, height: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(path, quality=95)
    return path
