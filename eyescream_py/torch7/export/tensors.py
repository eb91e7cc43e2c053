"""The tensors of a Torch 7 value, by name, as a safetensors file."""

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from ..errors import T7Error
from ..files.memory import Copies
from ..files.values import BooleanKey, LuaFunction, Storage, Table, TorchObject

MAX_NAMES = 2**27  # characters of all names
RESERVED = "__metadata__"  # the header's own key


def safetensors_bytes(value: Any) -> bytes:
    """Every tensor that is not empty, named by the keys that lead to it, joined by dots.

    A tensor or table that is met again is left out. Numbers, strings, booleans and the names of
    classes go into the metadata, under names made the same way. Raises T7Error where tensors repeat
    their memory too often, and where values lie so deep that the names alone would fill memory.
    """
    copies = Copies()
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    numbers: dict[str, int] = {}
    more: dict[str, int] = {}
    for name, part in named_parts(value):
        if isinstance(part, torch.Tensor | Storage):
            tensor = part.tensor if isinstance(part, Storage) else part
            if tensor.numel():
                tensor = copies.allow(tensor, name).detach()
                own = tensor.clone(memory_format=torch.contiguous_format)
                tensors[_free(name or "value", tensors, numbers)] = own
        elif isinstance(part, TorchObject):
            metadata[_free(name or "value", metadata, more)] = part.typename
        elif isinstance(part, bool | int | float | str):
            shown = (
                part.encode("utf-8", "backslashreplace").decode() if isinstance(part, str) else part
            )
            metadata[_free(name or "value", metadata, more)] = str(shown)
    return save_safetensors(tensors, metadata or None)  # an empty one beside no tensor: bad JSON


def named_parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Each value within `value`, depth first and in order, with its name; shared ones once."""
    # the name of what holds a value, its key there (None: it has the same name), the value
    stack: list[tuple[str, Any, Any]] = [("", None, value)]
    met: set[int] = set()
    spent = 0
    while stack:
        outer, key, part = stack.pop()
        if isinstance(part, Table | TorchObject | torch.Tensor | Storage | LuaFunction):
            if id(part) in met:
                continue
            met.add(id(part))
        name = outer if key is None else _join(outer, key)
        spent += len(name)
        if spent > MAX_NAMES:
            raise T7Error("its values lie too deep within each other to be named by their keys")
        yield name, part
        if isinstance(part, TorchObject):
            stack.append((name, None, part.fields))
        elif isinstance(part, Table):
            stack += [(name, key, part[key]) for key in reversed(part)]


def _join(name: str, key: Any) -> str:
    known = isinstance(key, str | int | float | BooleanKey)
    last = str(key) if known else type(key).__name__
    last = last.encode("utf-8", "backslashreplace").decode()
    return f"{name}.{last}" if name else last


def _free(name: str, taken: dict[str, Any], numbers: dict[str, int]) -> str:
    """`name`, or where a key 1 and a key "1" give one name (or it is the header's), that with the
    next free number.

    ``numbers``: the last one of each name, as all keys that are tables give one name.
    """
    free = name
    while free in taken or free == RESERVED:
        numbers[name] = numbers.get(name, 1) + 1
        free = f"{name}~{numbers[name]}"
    return free
