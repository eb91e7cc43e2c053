"""A machine with a GPU, pretended: what is decided for CUDA is decided, and the CPU computes it."""

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
