"""Writing a module that came from a file as the object that it came from.

A module read by `to_module` remembers its object. As long as its parts and settings are those that
were read, `from_module` returns that object: the same fields in the same order, the same shared
memory, with the parameters, statistics, gradients and mode that the module has now.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import T7Error
from ..files.values import Storage, Table, TorchObject
from ..layers.ties import gradient_of

_NAME = "t7_origin"  # the attribute in which a module remembers
_NOT_WRITTEN = ("training", "lua_gradients")
_SETTINGS = (int, float, bool, str, tuple, type(None))


@dataclass
class Origin:
    """``tensors``: the object's tensors, each with the name of the module's that was made of it.

    ``whole``: every tensor that was read has such a name.
    """

    obj: TorchObject
    train: bool
    parts: list[nn.Module]
    settings: dict[str, Any]
    tensors: list[tuple[str, Tensor]]
    whole: bool

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        """A module's copy is of the same object; copying that could be too deep, as of graphs."""
        return replace(self, parts=[copy.deepcopy(part, memo) for part in self.parts])

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled module forgets its object: None stands for it."""
        return type(None), ()


def remember(module: nn.Module, obj: TorchObject, taken: Sequence[tuple[Tensor, Tensor]]) -> None:
    """``taken``: pairs of the object's tensor and the module's parameter or buffer."""
    names: dict[int, str] = {}
    if taken:  # a container's parts are not gone through again
        names = {id(tensor): name for name, tensor in module.named_parameters()}
        names.update({id(tensor): name for name, tensor in module.named_buffers()})
    pairs = [(names.get(id(made)), source) for source, made in taken]
    tensors = [(name, source) for name, source in pairs if name is not None]
    parts, settings = _parts(module), _settings(module)
    origin = Origin(obj, module.training, parts, settings, tensors, len(tensors) == len(pairs))
    module.__dict__[_NAME] = origin


def origin_of(module: nn.Module) -> Origin | None:
    """What the module came from, unless its parts or settings were changed since."""
    origin = module.__dict__.get(_NAME)
    if origin is None or origin.settings != _settings(module):
        return None
    now = _parts(module)
    same = len(now) == len(origin.parts) and all(map(operator.is_, now, origin.parts))
    return origin if same else None


def _parts(module: nn.Module) -> list[nn.Module]:
    return list(module.children())


def _settings(module: nn.Module) -> dict[str, Any]:
    own = module.__dict__.items()
    kept = ((k, v) for k, v in own if isinstance(v, _SETTINGS) and k not in _NOT_WRITTEN)
    return {k: v for k, v in kept if k[0] != "_"}


class Rewriting:
    """One `from_module` call: the memory that changed, and the objects of the modules within."""

    def __init__(self, network: nn.Module) -> None:
        self.modules: dict[int, nn.Module] = {}
        self._memory: dict[int, Tensor] = {}  # a changed storage's address -> its copy, as bytes
        self._made: dict[int, Any] = {}
        self.dtypes: set[torch.dtype] = set()  # of the tensors that became parameters and buffers
        for module in network.modules():
            if (origin := module.__dict__.get(_NAME)) is not None:
                self.modules.setdefault(id(origin.obj), module)
                for source, now, _ in _values(module, origin):
                    self._update(source, now)

    def _update(self, source: Tensor, now: Tensor) -> None:
        self.dtypes.add(source.dtype)
        now = now.detach().cpu().reshape(source.shape)
        if torch.equal(source.to(now.dtype), now):
            return
        storage = source.untyped_storage()
        if storage.data_ptr() not in self._memory:
            self._memory[storage.data_ptr()] = _all_of(source).clone()
        # numpy's, as torch writes into no tensor that repeats its memory
        self._moved(source).numpy()[...] = now.to(source.dtype).numpy()

    def _moved(self, tensor: Tensor) -> Tensor:
        """The tensor, over the changed memory if it views such."""
        copy = self._memory.get(tensor.untyped_storage().data_ptr())
        if copy is None or not tensor.numel():
            return tensor
        view = torch.empty(0, dtype=tensor.dtype).set_(
            copy.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        if hasattr(tensor, "t7_class"):
            view.t7_class = tensor.t7_class  # type: ignore[attr-defined]
        return view

    def value(self, value: Any, writer: Any) -> Any:
        """A field as it is now; ``writer`` makes the objects of modules.

        Without recursion: the nodes of a graph lie within each other thousands deep.
        """
        unfilled: list[tuple[Any, Any]] = []
        made = self._shell(value, writer, unfilled)
        while unfilled:
            source, copy = unfilled.pop()
            if isinstance(source, Table):
                for key, entry in source.items():
                    key = self._shell(key, writer, unfilled)
                    copy[key] = self._shell(entry, writer, unfilled)
            else:
                copy.fields = self._shell(source.fields, writer, unfilled)
        return made

    def _shell(self, value: Any, writer: Any, unfilled: list[tuple[Any, Any]]) -> Any:
        """The copy of a value, of a table or object without what is in it, which is put on a list.

        Each is made once, so that cycles and what is shared stay.
        """
        if not isinstance(value, Tensor | Storage | Table | TorchObject):
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, Tensor):
            made: Any = self._moved(value)
        elif isinstance(value, Storage):
            moved = self._moved(value.tensor)
            same = moved is value.tensor
            made = value if same else Storage(moved, value.typename, value.version)
        elif isinstance(value, TorchObject) and id(value) in self.modules:
            made = writer(self.modules[id(value)])
        else:
            made = Table()
            if isinstance(value, TorchObject):
                made = TorchObject(value.typename, None, value.version, value.header)
            unfilled.append((value, made))
        self._made[id(value)] = made
        return made

    def fields(self, module: nn.Module, origin: Origin, writer: Any) -> Table:
        """Raises T7Error where another module has changed the same memory otherwise."""
        for source, now, name in _values(module, origin) if self._memory else ():
            now = now.detach().cpu().reshape(source.shape).to(source.dtype)
            if name and not torch.allclose(self._moved(source), now, 0, 0, equal_nan=True):
                raise T7Error(
                    f"{type(module).__name__}: {name} is one memory in the file with another "
                    "layer's, and they have come apart since; as_read=False writes each"
                )
        table = Table()
        for key, entry in origin.obj.fields.items():
            table[key] = self.value(entry, writer)
        if module.training != origin.train:
            table["train"] = module.training
        return table


def _all_of(tensor: Tensor) -> Tensor:
    """All the memory that a tensor views, as one row."""
    storage = tensor.untyped_storage()
    count = storage.nbytes() // tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (count,), (1,))


def _values(module: nn.Module, origin: Origin) -> Iterable[tuple[Tensor, Tensor, str]]:
    """The object's tensors with what they are now, and their names; then gradients, without."""
    for name, source in origin.tensors:
        now: Any = module
        for part in name.split("."):
            now = getattr(now, part, None)
        if not isinstance(now, Tensor) or now.numel() != source.numel():
            continue
        yield source, now, name
        gradient = origin.obj.fields.get(f"grad{name[:1].upper()}{name[1:]}")
        slope = gradient_of(now)
        if slope is not None and isinstance(gradient, Tensor) and gradient.numel() == now.numel():
            yield gradient, slope, ""
