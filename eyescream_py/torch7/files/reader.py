"""Torch 7's objects out of the items of a file, without recursion and without trust."""

import math
from typing import Any

import torch

from ..errors import T7Error
from .ascii_format import AsciiReader
from .binary_format import BinaryReader
from .classes import (
    GENERATOR_BYTES,
    HASH_CLASSES,
    PLAIN_TORCH_CLASSES,
    STORAGE_CLASSES,
    TENSOR_CLASSES,
    VECTOR_CLASSES,
    VERSION,
    has_header,
    is_class_name,
    remember_class,
    storage_class,
)
from .values import Limits, LuaFunction, Storage, Table, TorchObject, lua_number, table_key, text

_OPEN = object()  # a value whose contents follow in the file
_MISSING = object()


class _TableFrame:
    """A table of which `left` pairs are still to come."""

    def __init__(self, table: Table, left: int):
        self.value = table
        self._left = left
        self._key = _MISSING

    def accept(self, value: Any, offset: int) -> bool:
        """Take the next key or value; True when the table is complete."""
        if self._key is _MISSING:
            if value is None or (isinstance(value, float) and math.isnan(value)):
                raise T7Error(f"a table key that is {'nil' if value is None else 'nan'}", offset)
            self._key = table_key(value)
            return False
        self.put(self._key, value)
        self._key = _MISSING
        self._left -= 1
        return self._left == 0

    def put(self, key: Any, value: Any) -> None:
        dict.__setitem__(self.value, key, value)


class _ObjectFrame:
    """A class instance: one value, its fields; of a few two, a header and then the fields."""

    def __init__(self, value: TorchObject):
        self.value = value
        self._has_header = has_header(value.typename, value.version)

    def accept(self, value: Any, offset: int) -> bool:
        if value is self.value:
            raise T7Error(f"bad reference: {value.typename} is its own content", offset)
        if self._has_header:
            self.value.header, self._has_header = value, False
            return False
        self.value.fields = value
        return True


class _HashFrame(_TableFrame):
    """A tds.Hash, of which `left` pairs are to come."""

    def __init__(self, value: TorchObject, left: int):
        super().__init__(value.fields, left)
        self.table, self.value = self.value, value  # type: ignore[assignment]

    def put(self, key: Any, value: Any) -> None:
        dict.__setitem__(self.table, key, value)


class _VectorFrame:
    """A tds.Vec, of which `left` values are to come: the table 1, 2, ..."""

    def __init__(self, value: TorchObject, left: int):
        self.value = value
        self._left = left

    def accept(self, value: Any, offset: int) -> bool:
        self.value.fields[len(self.value.fields) + 1] = value
        self._left -= 1
        return self._left == 0


class _FunctionFrame:
    def __init__(self, value: LuaFunction):
        self.value = value

    def accept(self, value: Any, offset: int) -> bool:
        self.value.upvalues = value
        return True


_Frame = _TableFrame | _ObjectFrame | _VectorFrame | _FunctionFrame


class Reader:
    """Reads one value. Objects that the file refers to by index are kept in `_objects`."""

    def __init__(self, items: BinaryReader | AsciiReader, limits: Limits):
        self._items = items
        self._limits = limits
        self._objects: dict[int, Any] = {}
        self._stack: list[_Frame] = []
        self._readers = {
            0: lambda: None,
            1: lambda: lua_number(items.double()),
            2: self._string,
            3: self._table,
            4: self._object,
            5: self._boolean,
            6: lambda: self._function(6),
            7: lambda: self._function(7),
            8: lambda: self._function(8),
        }

    @property
    def objects_read(self) -> int:
        """Objects read so far, each counted once."""
        return len(self._objects)

    def read(self) -> Any:
        """The next value of the file. Raises T7Error."""
        while True:
            start = self._items.position
            value = self._start_value(start)
            while value is not _OPEN and self._stack:
                frame = self._stack[-1]
                if not frame.accept(value, start):
                    break
                value = self._stack.pop().value
            else:
                if value is not _OPEN:
                    return value

    def _start_value(self, start: int) -> Any:
        tag = self._items.int32()
        if tag not in self._readers:
            raise T7Error(f"bad tag {tag}: not 0 to 8, so not the start of a value", start)
        return self._readers[tag]()

    def _open(self, frame: _Frame) -> object:
        if len(self._stack) >= self._limits.depth:
            message = f"nested deeper than the limit of {self._limits.depth}"
            raise T7Error(message, self._items.position)
        self._stack.append(frame)
        return _OPEN

    def _size(self, what: str, size: int, start: int, limit: int) -> int:
        if size < 0:
            raise T7Error(f"negative size {size} of {what}", start)
        if size > limit:
            raise T7Error(f"{what} of size {size} is above the limit of {limit}", start)
        return size

    def _index(self, *expected: type) -> tuple[int, Any]:
        """The next object's index, and the object if it has been read before."""
        start = self._items.position
        index = self._items.int32()
        if index < 1:
            raise T7Error(f"bad reference: index {index} is not positive", start)
        known = self._objects.get(index)
        if known is not None and not isinstance(known, expected):
            raise T7Error(f"bad reference: index {index} is of another kind of value", start)
        if known is None and len(self._objects) >= self._limits.objects:
            raise T7Error(f"more objects than the limit of {self._limits.objects}", start)
        return index, known

    def _boolean(self) -> bool:
        start = self._items.position
        value = self._items.int32()
        if value not in (0, 1):
            raise T7Error(f"bad boolean {value}", start)
        return bool(value)

    def _bytes(self, what: str, limit: int) -> bytes:
        start = self._items.position
        return self._items.chars(self._size(what, self._items.int32(), start, limit))

    def _string(self) -> str:
        return text(self._bytes("a string", self._limits.string_bytes))

    def _table(self) -> Any:
        index, known = self._index(Table)
        if known is not None:
            return known
        start = self._items.position
        size = self._size("a table", self._items.int32(), start, 2**31)
        if size * self._items.entry_bytes > self._items.remaining:
            message = (
                f"truncated: a table of {size} pairs, but {self._items.remaining} bytes remain"
            )
            raise T7Error(message, start)
        table = self._objects[index] = Table()
        return self._open(_TableFrame(table, size)) if size else table

    def _function(self, tag: int) -> Any:
        index, known = self._index(LuaFunction) if tag != 6 else (0, None)
        if known is not None:
            return known
        function = LuaFunction(tag, self._bytes("a function", self._limits.string_bytes))
        if index:
            self._objects[index] = function
        return self._open(_FunctionFrame(function))

    def _object(self) -> Any:
        index, known = self._index(TorchObject, Storage, torch.Tensor)
        if known is not None:
            return known
        start = self._items.position
        name, version = self._class_name()
        if name in TENSOR_CLASSES:
            return self._tensor(index, name, version)
        if name in STORAGE_CLASSES:
            return self._storage(index, name, version)
        value = TorchObject(name, version=version)
        if name in HASH_CLASSES or name in VECTOR_CLASSES:
            self._objects[index] = value
            return self._tds(value)
        if name in ("torch.Timer", "torch.Generator"):
            self._objects[index] = value
            value.fields = self._generator() if name == "torch.Generator" else None
            return value
        if name.startswith(("torch.", "tds.")) and name not in PLAIN_TORCH_CLASSES:
            raise T7Error(f"unknown class {name}: its layout in the file is not known", start)
        self._objects[index] = value
        return self._open(_ObjectFrame(value))

    def _tds(self, value: TorchObject) -> Any:
        start = self._items.position
        size = self._size(f"a {value.typename}", self._items.longs(1)[0], start, 2**31)
        is_hash = value.typename in HASH_CLASSES
        entry = self._items.entry_bytes if is_hash else 2
        if size * entry > self._items.remaining:
            raise T7Error(
                f"truncated: a {value.typename} of {size}, {self._items.remaining} bytes remain",
                start,
            )
        if not size:
            return value
        return self._open((_HashFrame if is_hash else _VectorFrame)(value, size))

    def _generator(self) -> bytes:
        """The C structure of the Mersenne Twister, whose longs are as long as the file's."""
        self._items.longs_read += 1  # a file that fails here may have longs of the other size
        return self._items.chars(GENERATOR_BYTES[self._items.long_size])

    def _class_name(self) -> tuple[str, int]:
        start = self._items.position
        name = self._bytes("a class name", self._limits.string_bytes)
        version = 0
        if match := VERSION.fullmatch(name):
            version = int(match[1])
            name = self._bytes("a class name", self._limits.string_bytes)
        if not is_class_name(name):
            raise T7Error(f"{name[:40]!r} is not the name of a class", start)
        return name.decode("ascii"), version

    def _storage(self, index: int, name: str, version: int) -> Storage:
        start = self._items.position
        size = self._size("a storage", self._items.longs(1)[0], start, self._limits.elements)
        tensor = self._items.elements(size, STORAGE_CLASSES[name])
        storage = self._objects[index] = Storage(tensor, name, version)
        return storage

    def _tensor(self, index: int, name: str, version: int) -> torch.Tensor:
        self._objects[index] = _MISSING  # a storage that claims to be this very object is refused
        start = self._items.position
        limit = self._limits.dimensions
        dimensions = self._size("a tensor's shape", self._items.int32(), start, limit)
        shape, strides = self._items.longs(dimensions), self._items.longs(dimensions)
        offset = self._items.longs(1)[0] - 1
        if any(size < 0 for size in (*shape, *strides)) or 0 in shape:
            raise T7Error(f"negative size or zero in shape {shape}, strides {strides}", start)
        self._size("a tensor", math.prod(shape), start, self._limits.elements)
        storage = self._storage_slot(name)
        dtype = TENSOR_CLASSES[name]
        if shape:
            tensor = _view(dtype, storage, offset, shape, strides, start)
        else:
            tensor = _empty(dtype, storage, offset)
        self._objects[index] = remember_class(tensor, name, version)
        return tensor

    def _storage_slot(self, tensor_class: str) -> Storage | None:
        start = self._items.position
        tag = self._items.int32()
        if tag == 0:
            return None
        if tag != 4:
            raise T7Error(f"bad tag {tag} where a {tensor_class} has its storage", start)
        index, known = self._index(Storage)
        name, version = (known.typename, 1) if known is not None else self._class_name()
        if name != storage_class(tensor_class):
            raise T7Error(f"{name} as the storage of a {tensor_class}", start)
        return known if known is not None else self._storage(index, name, version)


def _view(
    dtype: torch.dtype,
    storage: Storage | None,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    start: int,
) -> torch.Tensor:
    """The tensor that shows a part of `storage`. Raises T7Error if the part is not within it."""
    available = len(storage) if storage is not None else 0
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if storage is None or not 0 <= offset <= last < available:
        raise T7Error(
            f"tensor beyond its storage: shape {shape}, strides {strides}, offset {offset} "
            f"in {available} elements",
            start,
        )
    memory = storage.tensor.untyped_storage()
    return torch.empty(0, dtype=dtype, device="cpu").set_(memory, offset, shape, strides)


def _empty(dtype: torch.dtype, storage: Storage | None, offset: int) -> torch.Tensor:
    """A tensor of shape (0,), as which those without dimensions come; it may have a storage."""
    tensor = torch.empty(0, dtype=dtype, device="cpu")
    if storage is None:
        return tensor
    offset = offset if 0 <= offset <= len(storage) else 0
    return tensor.set_(storage.tensor.untyped_storage(), offset, (0,), (1,))
