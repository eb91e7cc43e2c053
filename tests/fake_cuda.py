"""A machine with a GPU, pretended: what is decided for CUDA is decided, and the CPU computes it."""

from typing import Any

import pytest
import torch
from torch import nn

CUDA = torch.device("cuda", 0)  # only a name: nothing can be made on it without a GPU


class OnCuda(nn.Parameter):
    """A parameter in the host's memory that says it is not."""

    is_cuda = True


def on_cuda(network: nn.Module) -> nn.Module:
    """The same network, with parameters that all say they are on a GPU."""
    for layer in network.modules():
        for name, p in layer._parameters.items():
            if p is not None:
                layer._parameters[name] = OnCuda(p.detach())
    return network


def pretend_memory(patch: pytest.MonkeyPatch, free: int, whole: int) -> None:
    """`whole` bytes on every device, of which `free` are."""

    class Properties:
        total_memory = whole

    patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, whole))
    patch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)


def pretend_capability(patch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    patch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
    patch.setattr(torch.cuda, "is_bf16_supported", lambda: major >= 8)


class PreparedError(Exception):
    """CUDA was prepared: the device, whether for speed, whether for whole float32 products."""


def stop_at_preparation(patch: pytest.MonkeyPatch, place: Any) -> None:
    """A GPU is chosen in the module `place`, and what prepares it ends the program."""

    def prepare(device: torch.device, fast: bool, strict: bool) -> None:
        raise PreparedError(device, fast, strict)

    patch.setattr(place, "choose_device", lambda gpu, typed: CUDA)
    patch.setattr(place, "prepare_cuda", prepare)
