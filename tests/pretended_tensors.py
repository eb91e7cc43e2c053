"""What `pretended_gpu.py` works on: its tensors, its generators and the graphs that it records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
HostGenerator = torch.Generator


class OnGPU(Tensor):
    """A tensor whose elements are those of `held`, in the host's memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            if held.is_sparse:
                lying = torch.empty(held.shape, dtype=held.dtype, device="meta")
            else:
                size = held.untyped_storage().nbytes() // held.itemsize
                lying = torch.empty(size, dtype=held.dtype, device="meta")
                lying = lying.as_strided(held.shape, held.stride(), held.storage_offset())
        # autograd takes it for a meta tensor, whose slopes need no device; all else for CUDA's
        made = Tensor._make_subclass(cls, lying, False, device_for_backend_keys=CUDA)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)
    is_sparse = property(lambda self: self.held.is_sparse)
    layout = property(lambda self: self.held.layout)

    @property
    def data(self) -> Tensor:
        return OnGPU(self.held.detach())

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, OnGPU):
            raise RuntimeError("data of a GPU's tensor cannot lie in the host's memory")
        self.held = other.held.detach()
        torch._C.TensorBase.data.__set__(self, other)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            made = self.detach().clone().requires_grad_(self.requires_grad)
            memo[id(self)] = nn.Parameter(made) if isinstance(self, nn.Parameter) else made
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{call}: a tensor of a pretended GPU outside of it")


def held(value: Any) -> Any:
    """Values with the tensors that hold their elements."""
    return tree_map(lambda t: t.held if isinstance(t, OnGPU) else t, value)


class Generator(HostGenerator):
    """torch.Generator, also of the GPU; what it draws are the CPU's numbers."""

    of_gpu: ClassVar[dict[int, Generator]] = {}  # by address, as operations see them

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = HostGenerator.__new__(cls, "cpu")
        made.place, made.waits = torch.device(device), False  # for the end of a recording
        if made.place.type == "cuda":
            Generator.of_gpu[made._cdata] = made
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    device = property(lambda self: self.place)


class Graph:
    """torch.cuda.CUDAGraph: the operations between begin and end. They are computed as they are
    recorded, which the first replay leaves out.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.generators: list[Generator] = []
        self.begin: Callable[[], None]  # what recording and replay begin with

    def register_generator_state(self, generator: HostGenerator) -> None:
        self.generators.append(Generator.of_gpu[generator._cdata])

    def replay(self) -> None:
        self.replays += 1
        self.begin()
        with torch.no_grad(), torch._C.DisableTorchFunction(), _disable_current_modes():
            for call, args, kwargs, made in self.calls if self.replays > 1 else ():
                for place, new in zip(tree_leaves(made), tree_leaves(call(*args, **kwargs)),
                                      strict=True):  # fmt: skip
                    if isinstance(place, Tensor) and place.data_ptr() != new.data_ptr():
                        place.detach().copy_(new)


def address(tensor: Tensor) -> tuple[int, int, int]:
    """Of its memory, and from where to where in it the tensor lies; the first 0: it has none."""
    tensor = tensor._values() if tensor.is_sparse else tensor
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset() * tensor.itemsize
    end = start + (last + 1) * tensor.itemsize if tensor.numel() else start
    return tensor.untyped_storage().data_ptr(), start, end


def version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def on_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"
