"""Lua Torch 7's nn objects as torch modules and back.

`to_module` takes an ``nn.*`` or ``cudnn.*`` object that `load` returned; `from_module` makes one
for `save`. Both keep what is shared: a module, or a parameter's memory, that occurs twice in the
file is one module or one parameter. A module that came from a file, and whose parts and settings
are those that were read, is written as the object that it came from, with its present weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..describe import is_network
from ..describe_layer import key_name
from ..errors import T7Error, out_of_memory
from ..files.classes import TENSOR_CLASSES
from ..files.values import Table, TorchObject
from ..layers.inplace import LUA_CLASSES, InPlace
from ..layers.ties import kind_of
from . import (
    containers,
    convolution,
    dpnn,
    fused,
    graph,
    linear,
    normalization,
    plain,
    pooling,
    recurrent,
    simple,
    spatial,
    temporal,
    volumetric,
    weights,
)
from .batch_last import register_batch_last
from .blocks import register_blocks
from .boxes import register_boxes
from .codec import Codec, Node, Reader, Writer
from .cudnn import register_cudnn
from .facebook import register_facebook
from .nnx import register_nnx
from .opennmt import register_opennmt
from .origin import Origin, Rewriting, origin_of, remember
from .projects import register_projects
from .regions import register_regions
from .registry import REGISTRY
from .rnnlib import register_rnnlib
from .sharing import tie_shared
from .stn import register_stn

MAX_DEPTH = 100  # containers within containers; a module deeper than that could not run either
MAX_LAYERS = 10**6  # with those that are met again, as torch goes through them: 2^40 in a few bytes

_CODECS: list[Codec] = [
    *containers.CODECS,
    *weights.CODECS,
    *plain.CODECS,
    *spatial.CODECS,
    *graph.CODECS,
    *recurrent.CODECS,
    *temporal.CODECS,
    *volumetric.CODECS,
    *pooling.CODECS,
    *normalization.CODECS,
    *convolution.CODECS,
    *linear.CODECS,
    *simple.CODECS,
    *dpnn.CODECS,
    *fused.CODECS,
]
_READERS: dict[str, Codec] = {name: codec for codec in reversed(_CODECS) for name in codec.lua}
_PACKAGES = ("nn", "cudnn", "")
register_projects()
register_opennmt()
register_cudnn()
register_stn()
register_blocks()
register_batch_last()
register_nnx()
register_facebook()
register_rnnlib()
register_boxes()
register_regions()
_CPU = ("torch.FloatTensor", "torch.DoubleTensor")
_TORCH_REFUSES = (ValueError, RuntimeError, TypeError, ArithmeticError, AssertionError)


def to_module(obj: Any, dtype: torch.dtype | None = torch.float32, place: str = "") -> nn.Module:
    """The torch module of a Lua nn object, on the CPU, with copies of its weights.

    Parameters and buffers have ``dtype``, whatever the file's type; None keeps the file's (double
    networks stay double). Each layer's ``training`` is the file's ``train`` (missing: True).
    Weights and statistics that share memory, whole, in another order (a tied decoder's transposed
    weight) or in part, are one parameter or buffer with views of it; moved, copied, trained and
    pickled they stay so. A layer's parameter is named ``weight_memory`` where its weight is a view.
    ``place`` names the object in errors, such as "D" for the network of that key.

    Raises T7Error, which says where in the network: a class that has no counterpart, a field that
    is missing or of a wrong kind, a container that holds itself, more than MAX_DEPTH levels or
    MAX_LAYERS layers; TypeError for a ``dtype`` of another kind.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is a type of real numbers, as torch.float32, or None; not {dtype}")
    with torch.device("cpu"):  # whatever torch.set_default_device says
        return _Reading(dtype).network(obj, f"{place}:" if place else "")


class _Reading:
    """The modules made so far, by the identity of their objects."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self._reader = Reader(dtype, self.module)
        self._made: dict[int, nn.Module | None] = {}  # None: its children are being made
        self._counts: dict[int, int] = {}  # an object's layers, itself among them
        self._open = [0]  # layers so far of each object that is being made

    def network(self, obj: Any, place: str) -> nn.Module:
        module = self.module(obj, place)
        tie_shared(module, self._reader)
        return module

    def module(self, obj: Any, place: str) -> nn.Module:
        if not isinstance(obj, TorchObject):
            raise T7Error(f"{place} expected an nn object, found {_kind(obj)}".lstrip())
        place = f"{place} {obj.typename}".lstrip()
        if id(obj) not in self._made:
            self._made[id(obj)] = None
            self._made[id(obj)] = self._make(obj, place)
        module = self._made[id(obj)]
        if module is None:
            raise T7Error(f"{place}: the container holds itself")
        self._open[-1] += self._counts[id(obj)]
        if self._open[-1] > MAX_LAYERS:
            raise T7Error(f"{place}: more than {MAX_LAYERS} layers, shared ones counted each time")
        return module

    def _make(self, obj: TorchObject, place: str) -> nn.Module:
        if len(self._open) > MAX_DEPTH:
            raise T7Error(f"{place}: more than {MAX_DEPTH} containers within each other")
        codec = _reader_of(obj, place)
        node = Node(obj, place, self._reader)
        self._open.append(1)
        try:
            module = codec.read(node)
        except T7Error:
            raise
        except _TORCH_REFUSES as error:
            if out_of_memory(error):
                raise
            raise node.fail(f"torch refuses the layer: {error}") from error
        finally:
            self._counts[id(obj)] = self._open.pop()
        if not isinstance(module, nn.Module):  # a registered function that forgot its return
            raise node.fail(f"what is registered for it makes {_kind(module)}, no torch module")
        trains = node.boolean("train", True)
        layer, name = module, obj.typename.rpartition(".")[2]
        if name in LUA_CLASSES and node.boolean("inplace", False):
            module = InPlace(layer)
        for made in (layer, module):
            made.training = trains
            remember(made, obj, node.taken)
        return module


def _reader_of(obj: TorchObject, place: str) -> Codec:
    package, _, name = obj.typename.rpartition(".")
    codec = REGISTRY.get(obj.typename)
    if codec is None and package in _PACKAGES:
        codec = _READERS.get(name)
    if codec is None:
        raise T7Error(
            f"{place}: no torch module is known for the class {obj.typename}; "
            f'add yours with eyescream_py.torch7.register("{obj.typename}", build)'
            f"{_parts(obj)}"
        )
    if not isinstance(obj.fields, Table):
        raise T7Error(f"{place}: the object has no table of fields")
    return codec


def _parts(obj: TorchObject) -> str:
    """What can be opened of an object whose class is not known: the networks in its fields."""
    fields = obj.fields if isinstance(obj.fields, Table) else Table()
    names = [key_name(key) for key, value in fields.items() if is_network(value)]
    for key in ("nets", "modules"):
        inner = fields.get(key)
        for name, value in inner.items() if isinstance(inner, Table) else ():
            names += [f"{key}.{key_name(name)}"] if is_network(value) else []
    return f"; what it holds may open alone: {', '.join(names[:8])}" if names else ""


def _kind(value: Any) -> str:
    if isinstance(value, Table):
        return f"a table with the keys {', '.join(map(key_name, list(value)[:10]))}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def from_module(module: nn.Module, as_read: bool = True) -> TorchObject:
    """The Lua nn object of a torch module, with the fields that Lua needs to run and train it.

    Weights share memory with the module where it is contiguous, on the CPU and of the written type:
    double for a double network, else float. Gradients are the module's, or zeros. cudnn classes
    become their nn counterparts, except those that exist only there (grouped convolutions,
    SpatialConvolutionUpsample).

    ``as_read``: what `to_module` made, and nobody changed since, is written as the object that it
    came from, to the last bit but for weights, statistics, gradients that it has and the mode;
    not if that is of cudnn or of another type. False writes everything anew.

    Raises T7Error, which says where in the module, for a class or an option that Lua nn lacks, or a
    tie of the file that came apart, and TypeError for what is no module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"from_module takes a torch module, not {module!r:.60}")
    return _Writing(module, as_read).obj(module)


def _dtype(module: nn.Module) -> torch.dtype:
    """Double if the network computes in double: by its weights, else by the file it is from."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    if first is not None:
        return torch.float64 if first.dtype == torch.float64 else torch.float32
    origin = origin_of(module)
    kind = TENSOR_CLASSES.get(origin.obj.fields.get("_type")) if origin else None
    return torch.float64 if kind == torch.float64 else torch.float32


class _Writing:
    """The objects made so far, by their modules (which are equal only to themselves)."""

    def __init__(self, network: nn.Module, as_read: bool) -> None:
        self._writer = Writer(self.obj, _dtype(network))
        self._as_read = as_read
        self._made: dict[nn.Module, TorchObject] = {}
        self._again = Rewriting(network)

    def obj(self, module: nn.Module) -> TorchObject:
        if module not in self._made:
            self._made[module] = self._make(module)
        return self._made[module]

    def _make(self, module: nn.Module) -> TorchObject:
        codec, origin = _writer_of(module), origin_of(module)
        as_read = origin is not None and self._writes_as_read(origin)
        if isinstance(module, InPlace) and not as_read:
            obj = self._make(module.layer)
            obj.fields["inplace"] = True
            return obj
        if origin is not None and (as_read or codec is None):
            obj = self._made[module] = TorchObject(origin.obj.typename, None, origin.obj.version)
            obj.header = origin.obj.header
            obj.fields = self._again.fields(module, origin, self.obj)
            return obj
        if codec is None:
            name = type(module).__name__
            raise T7Error(f"{name}: no Lua nn class is known for this torch module")
        fields = Table(
            output=self._writer.empty(),
            gradInput=self._writer.empty(),
            _type=self._writer.tensor_class(),
            train=module.training,
        )
        try:
            fields.update(codec.write(module, self._writer))
        except T7Error:
            raise
        except _TORCH_REFUSES as error:
            if out_of_memory(error):
                raise
            name, reason = type(module).__name__, " ".join(str(error).split())
            raise T7Error(f"{name}: torch refuses to write the layer: {reason}") from error
        return TorchObject(codec.typename, fields, codec.version)

    def _writes_as_read(self, origin: Origin) -> bool:
        """Whether Lua on a CPU can use the object as it was read, and in the network's dtype."""
        if not self._as_read:
            return False
        kind = origin.obj.fields.get("_type")
        on_cpu = not origin.obj.typename.startswith("cudnn.")
        if kind != self._writer.tensor_class():  # a graph's says nothing about its layers
            on_cpu = on_cpu and kind in _CPU and self._again.dtypes == {self._writer.dtype}
        return origin.whole and on_cpu


def _writer_of(module: nn.Module) -> Codec | None:
    kinds = [kind_of(module)]
    if kinds[0].__module__.startswith("eyescream_py.torch7."):
        kinds = [*kinds[0].__mro__]  # ours: a torch layer that also takes other inputs
    elif isinstance(module, nn.Sequential):
        kinds.append(nn.Sequential)  # one that only changes how it is called
    for kind in kinds:
        for codec in (*REGISTRY, *_CODECS):
            if codec.python is kind and codec.fits(module):
                return codec
        if vars(kind).get("of_its_own"):  # another layer than the class that it is derived from
            break
    return None
