"""A GPU that is not there. Tensors say they are on `cuda:0`; the CPU computes them, below autograd.

Refused as a GPU refuses it: tensors of host and device in one operation, a generator of the other,
a value read or copied to or from the host while a graph is recorded, and, where the CUDA build of
torch is here, operations that CUDA lacks. Refused, too: work that does not wait for another
stream's on the same memory. Recorded graphs are replayed operation by operation into the memory of
the recording, so what Python decides or counts while it records stays as it was then. Not shown:
time, memory, a GPU's own arithmetic. Autocast knows the operations that this repository's networks
use.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.cuda._utils import _get_device_index
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from tests.pretended_streams import Stream, Streams
from tests.pretended_tensors import (
    CUDA,
    Generator,
    Graph,
    HostGenerator,
    OnGPU,
    address,
    held,
    is_meta,
    on_cuda,
    version,
)

MEMORY = 80 << 30
# of the random numbers of recordings: set where one begins, and again where its replays do
OFFSET = (-1, 0, 8)
META = (("meta",), (torch.device("meta"),))
ops = torch.ops.aten
HAS_CUDA = torch.version.cuda is not None
COPIES = {ops.copy_.default, ops._to_copy.default, ops._foreach_copy_.default}
INDEXED = {ops.index.Tensor, ops.index_put_.default, ops._index_put_impl_.default}  # host's indices
READ = {ops._local_scalar_dense.default, ops.nonzero.default, ops.masked_select.default,
        ops.equal.default, ops._unique2.default}  # fmt: skip
ROUNDED = {F.linear, F.conv2d, torch.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul,
           Tensor.__matmul__, torch.mm, Tensor.mm, torch.addmm, F.prelu, torch.prelu}  # fmt: skip
IN_FULL = {F.softplus, F.logsigmoid, F.binary_cross_entropy_with_logits, F.softmax, F.mse_loss,
           torch.log, Tensor.log, torch.exp, Tensor.exp, torch.sum, Tensor.sum, torch.pow,
           Tensor.pow, torch.norm, Tensor.norm}  # fmt: skip


# copies for views of which the bit is lost on the way here
INSTEAD = {
    ops._conj.default: ops.conj_physical.default,
    ops._neg_view.default: ops.neg.default,
}


class GPU(TorchDispatchMode):
    """What runs while it is entered: `operations` and `kernels` are counts, `graphs` all that were
    recorded, `reads` how often the host waited for a value. A recording fails at its operation
    number `fault`, if it has so many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.reads = 0, 0
        self.kernels: Counter[str] = Counter()
        self.graphs: list[Graph] = []
        self.recording: Graph | None = None
        self.generator = Generator(CUDA).manual_seed(0)
        self.streams = Streams()
        self.fault: int | None = None
        self._before: dict[int, tuple[Any, Any]] = {}  # memory as it was when a recording began

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.pop("pin_memory", False) or call is ops.is_pinned.default:
            return True if call is ops.is_pinned.default else call(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        ours = any(isinstance(t, OnGPU) for t in leaves)
        if is_meta(kwargs.get("device")) and (
            torch._C._current_autograd_node() is not None or (ours and call is ops._to_copy.default)
        ):
            kwargs["device"] = CUDA  # autograd sees our tensors as such, and asks for more of them
        self._check_generators(call, leaves, ours or on_cuda(kwargs.get("device")))
        if not ours and not on_cuda(kwargs.get("device")):
            return call(*args, **kwargs)
        if HAS_CUDA and not torch._C._dispatch_has_computed_kernel_for_dispatch_key(
            call.name(), "CUDA"
        ):
            raise NotImplementedError(f"{call}: not on CUDA")
        self._check_tensors(call, args, leaves, ours)
        return self._compute(call, args, kwargs, ours)

    def _check_generators(self, call: Any, leaves: list[Any], on_gpu: bool) -> None:
        for leaf in leaves:
            if isinstance(leaf, HostGenerator) and on_gpu != (leaf._cdata in Generator.of_gpu):
                raise RuntimeError(f"{call}: the generator is not of the tensor's device")

    def _check_tensors(self, call: Any, args: Any, leaves: list[Any], ours: bool) -> None:
        host = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, OnGPU)]
        if call in READ or (ours and host and call in COPIES):
            self.wait(call)
        if not ours or not host or call in COPIES:
            return
        if call in INDEXED and isinstance(args[0], OnGPU):
            return
        written = call._schema.is_mutable and not isinstance(tree_leaves(args)[0], OnGPU)
        if written or any(t.dim() for t in host) or "_foreach" in str(call):
            shapes = [tuple(t.shape) for t in host]
            raise RuntimeError(f"{call}: tensors of the host {shapes} among the GPU's")

    def wait(self, what: Any) -> None:
        """The host waits for the device, which a recording forbids."""
        self.reads += 1
        self.streams.host_waits(for_all=what == "synchronize")
        if self.recording is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")

    def _compute(self, call: Any, args: Any, kwargs: dict[str, Any], ours: bool) -> Any:
        stays = ours
        if kwargs.get("device") is not None:
            stays = on_cuda(kwargs["device"])
            if stays != ours and call is ops._to_copy.default:
                self.wait(call)
            kwargs = {**kwargs, "device": torch.device("cpu")}
        names = [argument.name for argument in call._schema.arguments]
        if "generator" in names and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        self.operations += 1
        return self.run(INSTEAD.get(call, call), args, kwargs, stays)

    def run(self, call: Any, args: Any, kwargs: Any, stays: bool = True) -> Any:
        """Compute by the CPU, record; what comes back is on the GPU if it `stays` there."""
        given = {id(t.held): t for t in tree_leaves((args, kwargs)) if isinstance(t, OnGPU)}
        args, kwargs = held(args), held(kwargs)
        self._watch(call, tree_leaves((args, kwargs)))
        made = self._in_order(call, args, kwargs)
        if self.recording is not None:
            self.recording.calls.append((call, args, kwargs, made))

        def wrapped(t: Any) -> Any:
            return given[id(t)] if id(t) in given else OnGPU(t)

        return tree_map(lambda t: wrapped(t) if isinstance(t, Tensor) and stays else t, made)

    def _in_order(self, call: Any, args: Any, kwargs: Any) -> Any:
        """Compute; what is read and written has to be waited for."""
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        before = [version(t) for t in given]
        made = call(*args, **kwargs)
        if getattr(call, "is_view", False):
            return made
        if hasattr(call, "_schema"):  # operators below autograd count no versions
            values = dict(zip((a.name for a in call._schema.arguments), args, strict=False))
            values |= kwargs
            named = [
                a.name for a in call._schema.arguments if a.alias_info and a.alias_info.is_write
            ]
            changed = tree_leaves([values.get(name) for name in named])
        else:
            changed = [t for t, v in zip(given, before, strict=True) if version(t) != v]
        written = {address(t) for t in changed if isinstance(t, Tensor)}
        places = {address(t) for t in given}
        self.streams.work(call, places - written, written)
        for t in tree_leaves(made):
            if isinstance(t, Tensor) and address(t) not in places:
                self.streams.made(address(t))
        return made

    def _watch(self, call: Any, leaves: list[Any]) -> None:
        """Let the fault come, and random numbers be drawn by who may."""
        if self.recording is None:
            for leaf in leaves:
                if isinstance(leaf, HostGenerator) and Generator.of_gpu[leaf._cdata].waits:
                    raise RuntimeError("Offset increment outside graph capture")
        elif self.fault is not None:
            if len(self.recording.calls) >= self.fault:
                raise RuntimeError(f"operation not permitted when stream is capturing: {call}")
            for storage in (t.untyped_storage() for t in leaves if isinstance(t, Tensor)):
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    @contextlib.contextmanager
    def graph(
        self, graph: Graph, memory: Any = None, stream: Any = None, **words: Any
    ) -> Iterator[None]:
        """Where it fails nothing was done, but the stream and the random numbers stay in it."""
        drawn = [(each, each.get_state()) for each in (self.generator, *graph.generators)]
        self.graphs.append(graph)
        self.recording = graph
        self._before.clear()
        for each, _ in drawn:
            each.waits = True
        try:
            with self.streams.recording(stream or Stream()):
                graph.begin = functools.partial(self.streams.work, "the offset", (), [OFFSET])
                graph.begin()
                yield
        except RuntimeError:
            for storage, content in self._before.values():
                storage.copy_(content)
            for each, state in drawn:
                each.set_state(state)
            raise
        finally:
            self.recording = None
        for each, _ in drawn:
            each.waits = False


class Functions(TorchFunctionMode):
    """What torch decides by a tensor's device before any operation runs."""

    def __init__(self, gpu: GPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if call is Tensor.new_tensor and isinstance(args[0], OnGPU):
            return self._made(args[1], kwargs.get("dtype", args[0].dtype))
        if call in (torch.tensor, torch.as_tensor) and on_cuda(kwargs.get("device")):
            if isinstance(args[0], Tensor):
                return args[0].to(CUDA, kwargs.get("dtype", args[0].dtype))
            return self._made(args[0], kwargs.get("dtype"))
        if call is Tensor.to and isinstance(args[0], OnGPU) and args[1:] in META:
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
        if call in (Tensor.to, Tensor.type_as) and any(isinstance(t, OnGPU) for t in args[1:]):
            return args[0].to(CUDA, args[1].dtype)
        if call in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnGPU):
            return self._indexed(call, *args)
        if torch.is_autocast_enabled("cuda") and (call in ROUNDED or call in IN_FULL):
            dtype = torch.get_autocast_dtype("cuda") if call in ROUNDED else torch.float32
            args, kwargs = tree_map(functools.partial(_cast, dtype=dtype), (args, kwargs))
            with torch.autocast("cuda", enabled=False):
                return call(*args, **kwargs)
        return call(*args, **kwargs)

    def _indexed(self, call: Any, tensor: Tensor, index: Any, value: Any = None) -> Any:
        """Parts by slices, or copies by numbers, of which those in a list come from the host."""
        if isinstance(index, list):
            self.gpu.wait("a list of indices")
            index = torch.tensor(index)
        if call is Tensor.__getitem__:
            return call(tensor, index)
        if isinstance(index, Tensor):
            tensor.index_put_((index,), value.to(tensor.dtype))
        elif isinstance(value, Tensor):
            tensor[index].copy_(value)
        else:
            tensor[index].fill_(value)
        return None

    def _made(self, values: Any, dtype: torch.dtype | None) -> Tensor:
        self.gpu.wait("a tensor of Python's numbers")
        with _disable_current_modes():
            made = torch.tensor(tree_map(lambda v: float(held(v)) if isinstance(v, Tensor)
                                         else v, values), dtype=dtype)  # fmt: skip
            self.gpu.streams.made(address(made))
            return OnGPU(made)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    moves = isinstance(value, OnGPU) and value.is_floating_point()
    return value.to(dtype) if moves and value.dtype != torch.float64 else value


class Kernels:
    """A module's functions as single operations of the GPU, of which autograd sees nothing."""

    def __init__(self, gpu: GPU, module: Any) -> None:
        self.gpu, self.module = gpu, module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        return functools.partial(self._launch, name, found) if callable(found) else found

    def _launch(self, name: str, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        assert all(isinstance(t, OnGPU) for t in tensors), f"{name}: tensors of the host"
        self.gpu.kernels[name] += 1
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return self.gpu.run(torch.no_grad()(kernel), args, kwargs)


@contextlib.contextmanager
def pretended_gpu(patch: pytest.MonkeyPatch) -> Iterator[GPU]:
    """A block with one GPU. Modules get new parameters when they move to it."""
    gpu = GPU()
    properties = SimpleNamespace(total_memory=MEMORY, name="pretended", major=9, minor=0)
    known = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "_lazy_init": lambda: None, "get_rng_state": lambda device=None: gpu.generator.get_state(),
        "set_rng_state": lambda state, device=None: gpu.generator.set_state(state),
        # which refuses a device without a number
        "set_device": lambda device: _get_device_index(device) and None,
        "device": contextlib.nullcontext, "stream": gpu.streams.entered, "Stream": Stream,
        "current_stream": lambda device=None: gpu.streams.current,
        "set_stream": gpu.streams.set_current,
        "graph": gpu.graph, "CUDAGraph": Graph, "default_generators": (gpu.generator,),
        "synchronize": lambda device=None: gpu.wait("synchronize"),
        "manual_seed": gpu.generator.manual_seed, "manual_seed_all": gpu.generator.manual_seed,
        "graph_pool_handle": lambda: (0, 1), "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0), "is_bf16_supported": lambda: True,
        "is_current_stream_capturing": lambda: gpu.recording is not None,  # torch.optim asks
    }  # fmt: skip
    for name, value in known.items():
        patch.setattr(torch.cuda, name, value)
    # torch.optim asks, and a torch that was built for CUDA would ask the driver
    asked = SimpleNamespace(is_capturing=lambda: gpu.recording is not None)
    patch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: CUDA)
    patch.setattr(torch.accelerator, "current_stream", lambda device=None: asked)
    patch.setattr(torch, "Generator", Generator)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        patch.setattr(torch._C, name, lambda device, memory: None, raising=False)
    for place, name in (  # a run sets these for its device, and nobody sets them back
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        (torch.backends.cudnn, "deterministic"), (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "allow_tf32"),
    ):  # fmt: skip
        patch.setattr(place, name, getattr(place, name))
    mode, rounds = torch.get_deterministic_debug_mode(), torch.backends.cuda.matmul.allow_tf32
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with gpu, Functions(gpu):
            yield gpu
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cuda.matmul.allow_tf32 = rounds
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
        Generator.of_gpu.clear()
