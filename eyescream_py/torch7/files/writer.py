"""Values as the objects of a Torch 7 file, in the order and with the indices of Lua's."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..errors import T7Error
from .ascii_format import AsciiWriter
from .binary_format import BinaryWriter
from .classes import (
    GENERATOR_BYTES,
    HASH_CLASSES,
    STORAGE_CLASSES,
    VECTOR_CLASSES,
    has_header,
    is_class_name,
    lua_class,
    storage_class,
)
from .values import BooleanKey, LuaFunction, Storage, TorchObject, text_bytes

_INT_MAX = 2**31 - 1
# sizes that nn.Reshape and the up-samplings make without filling them: any number stands there
_UNFILLED = ("batchsize", "inputSize", "outputSize")
_END = object()


class _Frame:
    """A value whose parts are being written; `key` is what came before the present part."""

    def __init__(self, address: int, parts: Iterator[Any]):
        self.address = address
        self.key: Any = None
        self.part: Any = None
        self._parts = parts

    def advance(self) -> bool:
        """Go to the next part; False if there is none."""
        following = next(self._parts, _END)
        self.key, self.part = self.part, following
        return following is not _END


class Writer:
    """Writes values. An object gets the next index where it is met first; then only the index.

    With `referenced=False` nothing is shared in the file: an object met twice is written twice,
    and a cycle is an error.
    """

    def __init__(self, items: BinaryWriter | AsciiWriter, referenced: bool):
        self._items = items
        self._referenced = referenced
        self._index = 0
        self._known: dict[Any, int] = {}
        self._alive: list[Any] = []  # what `_known` names by address must not be freed
        self._stack: list[_Frame] = []
        self._open: set[int] = set()  # the identities of the values on the stack
        self._by_type: dict[type, Callable[[Any], None]] = {}
        self._writers: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (str, lambda value: self._string(text_bytes(value))),
            ((bool, BooleanKey, np.bool_), self._boolean),
            ((int, float, np.integer, np.floating), self._number),
            (torch.Tensor, self._tensor),
            (dict, self._table),
            (TorchObject, self._object),
            (type(None), lambda value: self._items.int32(0)),
            (Storage, self._storage),
            ((list, tuple), self._list),
            ((bytes, bytearray), lambda value: self._string(bytes(value))),
            (np.ndarray, self._array),
            (LuaFunction, self._function),
        )

    def write(self, value: Any) -> None:
        """Write `value` and everything in it. Raises T7Error for what Torch 7 has no type for."""
        try:
            self._start(value)
            while self._stack:
                if self._stack[-1].advance():
                    self._start(self._stack[-1].part)
                else:
                    self._open.discard(self._stack.pop().address)
        except T7Error as error:
            where = ".".join(str(frame.key) for frame in self._stack if frame.key is not None)
            raise T7Error(f"{error.message}{where and f' (in {where})'}") from error

    def _start(self, value: Any) -> None:
        write = self._by_type.get(type(value))
        if write is None:
            write = self._by_type[type(value)] = self._find_writer(value)
        write(value)

    def _find_writer(self, value: Any) -> Callable[[Any], None]:
        for types, write in self._writers:
            if isinstance(value, types):
                return write
        raise T7Error(f"a Torch 7 file cannot hold a value of type {type(value).__name__}")

    def _reference(self, tag: int, value: Any, key: Any = None) -> bool:
        """Write tag and index; True if the contents have to follow."""
        self._items.int32(tag)
        key = id(value) if key is None else key
        if key in self._known:
            self._items.int32(self._known[key])
            return False
        self._index += 1
        if self._referenced:
            self._known[key] = self._index
            self._alive.append(value)
        self._items.int32(self._index)
        return True

    def _contents(self, value: Any, parts: Iterator[Any]) -> None:
        if id(value) in self._open:
            raise T7Error("a value that contains itself needs referenced=True")
        self._open.add(id(value))
        self._stack.append(_Frame(id(value), parts))

    def _string(self, data: bytes) -> None:
        self._items.int32(2)
        self._bytes(data)

    def _bytes(self, data: bytes) -> None:
        self._count(len(data), "a string")
        self._items.chars(data)

    def _count(self, count: int, what: str) -> None:
        if count > _INT_MAX:
            raise T7Error(f"{what} of {count} is longer than Torch 7's integers count")
        self._items.int32(count)

    def _boolean(self, value: Any) -> None:
        self._items.int32(5)
        self._items.int32(int(bool(value)))

    def _number(self, value: Any) -> None:
        try:
            double = float(value)
        except OverflowError as error:
            raise T7Error(f"{value} is no double, and all numbers of Lua are") from error
        if isinstance(value, int | np.integer) and int(double) != int(value):
            raise T7Error(f"{value} is no double, and all numbers of Lua are")
        self._items.int32(1)
        self._items.double(double)

    def _table(self, value: dict[Any, Any]) -> None:
        if self._reference(3, value):
            self._count(len(value), "a table")
            self._contents(value, _flat(value.items()))

    def _list(self, value: list[Any] | tuple[Any, ...]) -> None:
        if self._reference(3, value):
            self._count(len(value), "a table")
            self._contents(value, _flat(enumerate(value, start=1)))

    def _object(self, value: TorchObject) -> None:
        if self._reference(4, value):
            self._class(value.typename, value.version)
            self._contents(value, self._parts(value))

    def _parts(self, value: TorchObject) -> Iterator[Any]:
        """The values that an object's contents are; what are no values is written here."""
        if value.typename == "torch.Timer":
            return iter(())
        if value.typename == "torch.Generator":
            self._generator(value.fields)
            return iter(())
        if value.typename in HASH_CLASSES or value.typename in VECTOR_CLASSES:
            table = value.fields if isinstance(value.fields, dict) else {}
            self._items.longs((len(table),))
            return _flat(table.items()) if value.typename in HASH_CLASSES else iter(table.values())
        if has_header(value.typename, value.version):
            return iter((_header(value), value.fields))
        return iter((value.fields,))

    def _generator(self, state: Any) -> None:
        size = GENERATOR_BYTES[self._items.long_size]
        if not isinstance(state, bytes) or len(state) != size:
            raise T7Error(f"a torch.Generator needs its state of {size} bytes")
        self._items.chars(state)

    def _function(self, value: LuaFunction) -> None:
        if value.tag == 6:
            self._items.int32(6)
        elif not self._reference(value.tag, value):
            return
        self._bytes(value.code)
        self._contents(value, iter((value.upvalues,)))

    def _class(self, name: str, version: int) -> None:
        name_bytes = text_bytes(name)
        if not is_class_name(name_bytes):
            raise T7Error(f"{name[:40]!r} is not the name of a class")
        if version:
            self._bytes(b"V %d" % version)
        self._bytes(name_bytes)

    def _array(self, value: np.ndarray) -> None:
        if isinstance(value, np.ma.MaskedArray):
            raise T7Error("a Torch 7 file has no masks: give the array's filled(value)")
        if id(value) not in self._known:
            try:
                tensor = torch.from_numpy(np.require(value, requirements=["C", "W"]))
            except (TypeError, ValueError) as error:
                raise T7Error(f"a Torch 7 file cannot hold an array of {value.dtype}") from error
            self._alive.append(value)
            self._tensor(tensor, id(value))
        else:
            self._reference(4, value)

    def _tensor(self, value: torch.Tensor, key: int | None = None) -> None:
        if not self._reference(4, value, key):
            return
        tensor = _writable(value)
        name, version = lua_class(tensor)
        self._class(name, version)
        shape, strides = (tuple(tensor.shape), tensor.stride()) if tensor.numel() else ((), ())
        if tensor.dim() == 0:
            shape, strides = (1,), (1,)
        self._items.int32(len(shape))
        self._items.longs(shape)
        self._items.longs(strides)
        self._items.longs((int(tensor.storage_offset()) + 1,))
        if tensor.untyped_storage().nbytes():
            self._storage_of(tensor, storage_class(name), version)
        else:
            self._items.int32(0)

    def _storage(self, value: Storage) -> None:
        tensor = _writable(value.tensor)
        name = value.typename or ""
        if STORAGE_CLASSES.get(name) != tensor.dtype:
            name = storage_class(lua_class(tensor)[0])
        unfilled = bool(self._stack) and self._stack[-1].key in _UNFILLED
        self._storage_of(tensor, name, value.version, unfilled)

    def _storage_of(
        self, tensor: torch.Tensor, name: str, version: int, unfilled: bool = False
    ) -> None:
        """Write the whole memory that `tensor` views, once for all its views of this class."""
        memory = tensor.untyped_storage()
        if not self._reference(4, memory, (memory._cdata, name)):
            return
        self._class(name, version)
        count = memory.nbytes() // tensor.element_size()
        self._items.longs((count,))
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        self._items.elements(empty.set_(memory, 0, (count,), (1,)).cpu(), unfilled)


def _header(value: TorchObject) -> Any:
    """What is written before the fields: type and device, or of several devices their list."""
    if value.header is not None:
        return value.header
    fields = value.fields if isinstance(value.fields, dict) else {}
    if value.typename == "nn.DataParallelTable":
        return fields.get("gpuAssignments", [1])
    return [fields.get("_type", "torch.FloatTensor"), fields.get("device", 1)]


def _flat(pairs: Any) -> Iterator[Any]:
    for key, value in pairs:
        if key is None or (isinstance(key, float) and math.isnan(key)):
            raise T7Error(f"{key} cannot be the key of a Lua table")
        yield key
        yield value


def _writable(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in a dtype that Torch 7 has: booleans become bytes, bfloat16 becomes float."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise T7Error(
            "a Torch 7 file cannot hold a tensor that is sparse, quantized or on the meta device"
        )
    substitute = {torch.bool: torch.uint8, torch.bfloat16: torch.float32}.get(tensor.dtype)
    return tensor.resolve_neg() if substitute is None else tensor.detach().to(substitute)
