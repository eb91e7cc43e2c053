"""Writing a module that came from a file as the object that it came from.

A module read by `to_module` remembers its object. As long as its parts and settings are those that
were read, `from_module` gives that object back: the same fields in the same order, the same shared
memory, with the parameters, statistics, gradients and mode that the module has now.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import T7Error
from .values import Storage, Table, TorchObject

_NAME = "t7_origin"  # the attribute in which a module remembers
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


def remember(module: nn.Module, obj: TorchObject, taken: Iterable[tuple[Tensor, Tensor]]) -> None:
    """``taken``: pairs of the object's tensor and the module's parameter or buffer."""
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
    return {k: v for k, v in own if isinstance(v, _SETTINGS) and k not in ("training", _NAME)}


class Rewriting:
    """One `from_module` call: the memory that changed, and the objects of the modules within."""

    def __init__(self, network: nn.Module) -> None:
        self.modules: dict[int, nn.Module] = {}
        self._memory: dict[int, Tensor] = {}  # a changed storage's address -> its copy, as bytes
        self._made: dict[int, Any] = {}
        for module in network.modules():
            if (origin := module.__dict__.get(_NAME)) is not None:
                self.modules.setdefault(id(origin.obj), module)
                for source, now in _values(module, origin):
                    self._update(source, now)

    def _update(self, source: Tensor, now: Tensor) -> None:
        now = now.detach().cpu().reshape(source.shape)
        if torch.equal(source.to(now.dtype), now):
            return
        storage = source.untyped_storage()
        if storage.data_ptr() not in self._memory:
            self._memory[storage.data_ptr()] = _all_of(source).clone()
        self._moved(source).copy_(now)

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
        """A field as it is now; ``writer`` makes the objects of modules."""
        if not isinstance(value, Tensor | Storage | Table | TorchObject):
            return value
        if id(value) not in self._made:
            try:
                self._made[id(value)] = self._make(value, writer)
            except RecursionError as error:
                raise T7Error("tables within tables, too deep to be written again") from error
        return self._made[id(value)]

    def _make(self, value: Any, writer: Any) -> Any:
        if isinstance(value, Tensor):
            return self._moved(value)
        if isinstance(value, Storage):
            moved = self._moved(value.tensor)
            same = moved is value.tensor
            return value if same else Storage(moved, value.typename, value.version)
        if isinstance(value, Table):
            table = self._made[id(value)] = Table()  # known before its entries, for cycles
            for key, entry in value.items():
                table[key] = self.value(entry, writer)
            return table
        if id(value) in self.modules:
            return writer(self.modules[id(value)])
        copy = self._made[id(value)] = TorchObject(value.typename, None, value.version)
        copy.header = value.header
        copy.fields = self.value(value.fields, writer)
        return copy

    def fields(self, module: nn.Module, origin: Origin, writer: Any) -> Table:
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


def _values(module: nn.Module, origin: Origin) -> Iterable[tuple[Tensor, Tensor]]:
    """The object's tensors with what they are now; gradients where the module has them."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for name, source in origin.tensors:
        now = parameters.get(name, buffers.get(name))
        if now is None or now.numel() != source.numel():
            continue
        yield source, now
        gradient = origin.obj.fields.get(f"grad{name[:1].upper()}{name[1:]}")
        if now.grad is None or not isinstance(gradient, Tensor):
            continue
        if gradient.numel() == now.numel():
            yield gradient, now.grad
