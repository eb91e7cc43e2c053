"""Weights and statistics that share memory, as any view of a storage does in Lua.

torch ties whole parameters alone. Here one parameter is the memory, and what lies over it in
another order or in part (a decoder's transposed weight, rows of a table) is a view of it, made anew
each time that a layer looks. So there is one gradient, one step of an optimizer, and one tensor to
copy, move and save.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class MemoryView(NamedTuple):
    """A tensor's place in a memory: sizes, strides and offset in elements, of the memory as a row;
    and the shape in which it is seen.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    shape: tuple[int, ...]

    def of(self, memory: Tensor) -> Tensor:
        row = memory.reshape(-1)
        view = row.as_strided(self.sizes, self.strides, row.storage_offset() + self.offset)
        return view.reshape(self.shape)


class Looked:
    """A layer's attribute that is a view of its parameter or buffer NAME_memory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, kind: Any) -> Any:
        view = None if layer is None else layer.__dict__.get("_views", {}).get(self.name)
        if view is None:
            raise AttributeError(self.name)  # torch then looks for a parameter of the name
        return view.of(getattr(layer, f"{self.name}_memory"))


class Tied:
    """Before a layer's class: what it has of others' memory. ``_views``: by the name it has here;
    ``_common``: the names of buffers that are other layers' too.
    """

    _views: dict[str, MemoryView]
    _common: frozenset[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._views:  # what is given anew is tied no more
            delattr(self, name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._views:
            views = {k: v for k, v in self._views.items() if k != name}
            self.__dict__["_views"], name = views, f"{name}_memory"
        super().__delattr__(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """torch makes a new tensor of each layer's buffer; the old one becomes that."""
        buffers = self.__dict__["_buffers"]
        kept = {name: buffers[name] for name in self._common if buffers.get(name) is not None}
        super()._apply(fn, recurse)  # type: ignore[misc]
        for name, buffer in kept.items():
            if torch._has_compatible_shallow_copy_type(buffer, buffers[name]):
                buffer.data = buffers[name]
                buffers[name] = buffer
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _new, (kind_of(self), (*self._views,)), self.__getstate__()


def kind_of(layer: Any) -> Any:
    """The class of a layer without its ties."""
    kind: Any = type(layer)
    return kind.__mro__[2] if issubclass(kind, Tied) else kind


@cache
def _tied_kind(kind: type, names: tuple[str, ...]) -> type:
    looks: dict[str, Any] = {name: Looked(name) for name in names}
    made = type(kind.__name__, (Tied, kind), looks)
    made.__module__, made.__qualname__ = kind.__module__, kind.__qualname__
    return made


def _new(kind: type, names: tuple[str, ...]) -> Any:
    tied: Any = _tied_kind(kind, names)
    return tied.__new__(tied)


def tie(
    layer: nn.Module,
    views: dict[str, MemoryView],
    memories: dict[str, Tensor],
    common: tuple[str, ...] = (),
) -> nn.Module:
    """The layer, whose parameters and buffers of these names are views of ``memories`` from now on.

    They stand in their old places under the name NAME_memory. Buffers named in ``common`` stay one
    tensor with other layers' when the network is moved.
    """
    kept: Any
    for kept in (layer._parameters, layer._buffers):
        entries = list(kept.items())
        kept.clear()
        for name, tensor in entries:
            kept[f"{name}_memory" if name in views else name] = memories.get(name, tensor)
    layer.__dict__.update(_views=dict(views), _common=frozenset(common))
    layer.__class__ = _tied_kind(kind_of(layer), (*views,))
    return layer


def untied(layer: Any) -> Any:
    """A layer of the plain class, with parameters and buffers of its own in place of views."""
    kind = kind_of(layer)
    twin = kind.__new__(kind)
    twin.__dict__ = {k: v for k, v in layer.__dict__.items() if k not in ("_views", "_common")}
    for kept in ("_parameters", "_buffers"):
        plain = twin.__dict__[kept] = {}
        for key, tensor in layer.__dict__[kept].items():
            name = key.removesuffix("_memory")
            if name not in layer._views:
                plain[key] = tensor
                continue
            own = getattr(layer, name).detach().clone()
            plain[name] = nn.Parameter(own) if isinstance(tensor, nn.Parameter) else own
    return twin


def memory_of(tensor: Tensor) -> nn.Parameter | None:
    """The parameter that a tied layer's tensor is a view of."""
    memory = tensor._base
    return memory if isinstance(memory, nn.Parameter) and memory.is_contiguous() else None


def memory_view(tensor: Tensor, memory: Tensor) -> MemoryView:
    """Where in its memory such a view lies."""
    shape, offset = tuple(tensor.shape), int(tensor.storage_offset() - memory.storage_offset())
    return MemoryView(shape, tensor.stride(), offset, shape)


def gradient_of(tensor: Tensor) -> Tensor | None:
    """The gradient of a parameter or of a view of one."""
    memory = memory_of(tensor)
    if memory is None:
        return tensor.grad if tensor.is_leaf else None
    return None if memory.grad is None else memory_view(tensor, memory).of(memory.grad)
