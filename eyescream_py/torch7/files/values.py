"""The Lua values that Python has no type for: tables, class instances, storages, functions."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ..errors import T7Error

if TYPE_CHECKING:
    import torch


class BooleanKey:
    """A boolean as a table key: equal to True or False, but unlike them not to 1 or 0."""

    __slots__ = ("value",)

    def __init__(self, value: bool):
        self.value = value

    def __bool__(self) -> bool:
        return self.value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BooleanKey):
            return self.value is other.value
        return other is self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


_TRUE, _FALSE = BooleanKey(True), BooleanKey(False)


def table_key(key: Any) -> Any:
    """The form in which a table holds `key`: 2.0 is 2, and True is not 1."""
    if isinstance(key, bool):
        return _TRUE if key else _FALSE
    if isinstance(key, float) and key.is_integer():
        return int(key)
    return key


MAX_SHOWN, _MAX_DEPTH_SHOWN = 1000, 20  # entries and levels in a table's text


class Table(dict[Any, Any]):
    """A Lua table: a dict that keeps its order, and whose keys are told apart as Lua does.

    2.0 and 2 are one key; True and 1 are two. It is hashed by identity, so a table can be a key
    of another one. Iteration yields boolean keys as `BooleanKey`, which equals the boolean.
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        self.update(*args, **kwargs)

    @classmethod
    def from_list(cls, values: Iterable[Any]) -> Self:
        """The table {values[0], values[1], ...}, whose keys are 1, 2, ..."""
        return cls(enumerate(values, start=1))

    def to_list(self) -> list[Any]:
        """The values of the keys 1, 2, ... up to the first that is missing."""
        values: list[Any] = []
        while (position := len(values) + 1) in self:
            values.append(self[position])
        return values

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __repr__(self) -> str:
        """As a dict's, up to MAX_SHOWN entries in all: tables of a graph hold one another, and the
        text of a small file's could have no end."""
        return _shown(self, [MAX_SHOWN], 0)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(table_key(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(table_key(key), value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(table_key(key))

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(table_key(key))

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(table_key(key), default)

    def pop(self, key: Any, *default: Any) -> Any:
        return super().pop(table_key(key), *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return super().setdefault(table_key(key), default)

    def update(self, source: Any = (), /, **kwargs: Any) -> None:
        for key, value in source.items() if isinstance(source, dict) else source:
            self[key] = value
        for name, value in kwargs.items():
            self[name] = value

    def copy(self) -> "Table":
        return Table(self)


def _shown(value: Any, left: list[int], depth: int) -> str:
    """repr(value), with tables as far as entries (in `left`) and levels suffice."""
    if not isinstance(value, Table):
        return repr(value)
    if depth > _MAX_DEPTH_SHOWN:
        return "{...}"
    entries = []
    for key, entry in value.items():
        left[0] -= 1
        if left[0] < 0:
            entries.append("...")
            break
        entries.append(f"{_shown(key, left, depth + 1)}: {_shown(entry, left, depth + 1)}")
    return f"{{{', '.join(entries)}}}"


@dataclass(eq=False)
class TorchObject:
    """An instance of a Lua class, such as nn.Linear.

    `fields` is what the class wrote: for nearly all of them one table; of torch.Generator its state
    as bytes, of torch.Timer None. `version` is the number in its file; 0 means a file from
    before classes had versions. `header` is what nn.GPU and nn.DataParallelTable write before
    their fields.
    """

    typename: str
    fields: Any = field(default_factory=Table)
    version: int = 1
    header: Any = None

    def __repr__(self) -> str:
        return f"TorchObject({self.typename!r}, version={self.version})"


class Storage:
    """A storage (torch.LongStorage, ...) that stands by itself; `tensor` is all of it, 1-D.

    Made from a tensor that views part of its memory, it holds a copy of that part.
    Lua keeps sizes so: nn.View and nn.Reshape hold a LongStorage. It shares memory with the
    tensors that view it. Without a `typename` it is of the class that the dtype implies.
    """

    __slots__ = ("tensor", "typename", "version")

    def __init__(self, tensor: "torch.Tensor", typename: str | None = None, version: int = 1):
        if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
            tensor = tensor.clone()
        self.tensor = tensor.reshape(-1)
        self.typename = typename
        self.version = version

    def tolist(self) -> list[Any]:
        return self.tensor.tolist()

    def __len__(self) -> int:
        return self.tensor.numel()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __getitem__(self, index: int) -> Any:
        return self.tensor[index].item()

    def __repr__(self) -> str:
        return f"Storage({self.typename!r}, {len(self)} elements)"


@dataclass(eq=False)
class LuaFunction:
    """A Lua function as opaque bytes: kept so that a file can be written again, never run.

    `tag` is 6 (no index, not shared), 7 or 8 (indexed).
    """

    tag: int
    code: bytes
    upvalues: Any = None

    def __repr__(self) -> str:
        return f"LuaFunction(tag={self.tag}, {len(self.code)} bytes)"


@dataclass(frozen=True)
class Limits:
    """What a file may ask for, beside sizes, which must always fit in the bytes that remain.

    depth: values within values. objects: tables, tensors, storages, class instances, functions.
    string_bytes: of one string. elements, dimensions: of one tensor, which may show one element
    of its storage many times.
    """

    depth: int = 1_000_000
    objects: int = 10_000_000
    string_bytes: int = 2**30
    elements: int = 2**40
    dimensions: int = 64


def lua_number(value: float) -> int | float:
    """An int for a whole number of at most 2**53 in size, else the float (also for -0.0)."""
    if not value.is_integer() or abs(value) > 2**53:
        return value
    return int(value) if value or math.copysign(1, value) > 0 else value


def text(data: bytes) -> str:
    """Lua's bytes as str; bytes that are no UTF-8 become lone surrogates: nothing is lost."""
    return data.decode("utf-8", "surrogateescape")


def text_bytes(value: str) -> bytes:
    """The bytes of a Lua string. Raises T7Error for surrogates that stand for no byte."""
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise T7Error(f"the text {value[:40]!r} holds a surrogate that is no byte") from error
