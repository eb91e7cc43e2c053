"""A machine with a GPU, pretended: what is decided for CUDA is decided, and the CPU computes it."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from eyescream_py.system.device import prepare_cuda
from eyescream_py.system.recording import Recorded, Recorder

CUDA = torch.device("cuda", 0)  # only a name: nothing can be made on it without a GPU
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
RECORDING = ["cpu", pytest.param("cuda", marks=gpu)]  # devices that `recording_device` readies


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


class FakeGraph:
    """What was recorded is computed at once, for the first replay, and anew for each later one,
    from its inputs into its outputs.
    """

    def __init__(self, recorded: Recorded) -> None:
        self.recorded, self.replays = recorded, 0
        recorded._outputs = tree_map(torch.clone, recorded._function(*recorded._inputs))

    def replay(self) -> None:
        recorded = self.recorded
        self.replays += 1
        if self.replays == 1:
            return
        found = recorded._function(*recorded._inputs)
        for place, value in zip(*(tree_flatten(t)[0] for t in (recorded._outputs, found)),
                                strict=True):  # fmt: skip
            place.copy_(value)


def pretend_recording(patch: pytest.MonkeyPatch) -> list[Recorded]:
    """Steps are recorded on the CPU, too; the recordings made from here on."""
    made: list[Recorded] = []

    def switch_on(self: Recorder, device: Any, wanted: bool = True, remedy: str = "") -> None:
        self.on, self.device, self.remedy, self.stream = wanted, device, remedy, None

    def record(self: Recorded, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = tuple(given.detach().clone() for given in inputs)
        self._graph = FakeGraph(self)  # type: ignore[assignment]
        made.append(self)

    patch.setattr(Recorder, "__init__", switch_on)
    patch.setattr(Recorder, "beside", lambda self: contextlib.nullcontext())
    patch.setattr(Recorded, "_record", record)
    patch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return made


def recording_device(name: str, patch: pytest.MonkeyPatch, strict: bool = False) -> torch.device:
    """The device, ready for recorded steps: real ones on a GPU, pretended ones on the CPU."""
    device = torch.device(name)
    if device.type == "cpu":
        pretend_recording(patch)
    prepare_cuda(device, fast=False, strict=strict)
    return device


def values_read(call: Callable[[], object]) -> list[str]:
    """Where `call` asked a tensor for its value, which ends a real recording with an error. An
    optimizer's kernel does so on a processor alone.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    found = []
    for event in seen.events():
        if "_local_scalar" in event.name:
            names, above = [], event
            while above is not None:
                names.append(above.name)
                above = above.cpu_parent
            if not any(name.startswith("Optimizer.step") for name in names):
                found.append(" < ".join(names))
    return found


class PreparedError(Exception):
    """CUDA was prepared: the device, whether for speed, whether for whole float32 products."""


def stop_at_preparation(patch: pytest.MonkeyPatch, place: Any) -> None:
    """A GPU is chosen in the module `place`, and what prepares it ends the program."""

    def prepare(device: torch.device, fast: bool, strict: bool) -> None:
        raise PreparedError(device, fast, strict)

    patch.setattr(place, "choose_device", lambda gpu, typed: CUDA)
    patch.setattr(place, "prepare_cuda", prepare)
