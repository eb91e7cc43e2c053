"""The two ways between a Lua nn object and a torch module, as seen by the code of one class.

A `Codec` holds a class's two directions. Reading gets a `Node`: one object of the file, with
checked access to its fields. Writing gets a `Writer`, which turns parameters and children into Lua
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..describe_layer import printable
from ..errors import T7Error
from ..files.classes import TENSOR_CLASSES, tensor_class_of
from ..files.memory import Copies
from ..files.values import Storage, Table, TorchObject
from ..layers.ties import gradient_of, memory_of, memory_view

REQUIRED: Any = object()  # the default of a field that has none
MAX_ELEMENTS = 2**31 - 1  # of a size or count in a field; larger ones are not layers but attacks


@dataclass
class Node:
    """One nn object on its way to a module. Every access raises T7Error with the object's place."""

    obj: TorchObject
    place: str
    reader: Reader
    taken: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def fail(self, message: str) -> T7Error:
        """One line, whatever a string of the file or a message of torch holds."""
        return T7Error(printable(" ".join(f"{self.place}: {message}".split("\n"))))

    def has(self, name: str) -> bool:
        return self.obj.fields.get(name) is not None

    def _field(self, name: str, default: Any) -> Any:
        value = self.obj.fields.get(name)
        if value is None:
            value = default
        if value is REQUIRED:
            raise self.fail(f"the field {name} is missing")
        return value

    def number(self, name: str, default: Any = REQUIRED) -> Any:
        value = self._field(name, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.fail(f"the field {name} is no number but {type(value).__name__}")
        return value

    def real(self, name: str, default: Any = REQUIRED) -> Any:
        """A number as the network's type has it: beyond its range infinite, as in Lua's C."""
        value = self.number(name, default)
        if isinstance(value, int | float) and abs(value) > torch.finfo(self.value_type()).max:
            return math.copysign(math.inf, value)
        return value

    def integer(self, name: str, default: Any = REQUIRED) -> Any:
        value = self.number(name, default)
        if value is default:
            return value
        if not (-MAX_ELEMENTS <= value <= MAX_ELEMENTS) or value != int(value):
            raise self.fail(f"the field {name} is no usable whole number: {value}")
        return int(value)

    def count(self, name: str, default: Any = REQUIRED) -> Any:
        """A whole number of at least 1, such as a number of planes."""
        value = self.integer(name, default)
        if value is not None and value < 1:
            raise self.fail(f"the field {name} has to be at least 1, not {value}")
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """Lua's truth: everything but false (and nil, which is ``default``) is true."""
        return self._field(name, default) is not False

    def text(self, name: str, default: Any = REQUIRED) -> Any:
        value = self._field(name, default)
        if value is not default and not isinstance(value, str):
            raise self.fail(f"the field {name} is no text but {type(value).__name__}")
        return value

    def sizes(self, name: str) -> tuple[int, ...]:
        """A LongStorage, LongTensor or list of whole numbers."""
        value = self._field(name, REQUIRED)
        if isinstance(value, Table):
            value = value.to_list()
        elif isinstance(value, Storage | Tensor):
            value = self.allowed(value.tensor if isinstance(value, Storage) else value).tolist()
        if not isinstance(value, list) or not all(isinstance(size, int) for size in value):
            raise self.fail(f"the field {name} is no list of sizes")
        return tuple(value)

    def allowed(self, tensor: Tensor) -> Tensor:
        """The tensor, unless copies of it would take far more memory than the file."""
        return self._made(self.reader.copies.allow, tensor)

    def _made(self, make: Callable[..., Any], *given: Any) -> Any:
        try:
            return make(*given)
        except T7Error as error:
            raise self.fail(error.message) from error

    def indices(self, name: str, columns: int | None = None) -> Tensor:
        """A tensor of whole numbers as Long, of its own memory; with ``columns``, rows of those."""
        value = self._field(name, REQUIRED)
        good = isinstance(value, Tensor) and value.numel() > 0
        if not good or (columns is not None and (value.dim() != 2 or value.shape[1] != columns)):
            raise self.fail(f"the field {name} is no tensor of indices, or of another shape")
        return self.allowed(value).detach().long().clone()

    def tensor(self, name: str, shape: Sequence[int] | None = None) -> Tensor:
        """A float tensor field; if ``shape`` is given it has to have that many elements."""
        value = self._field(name, REQUIRED)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise self.fail(f"the field {name} is no tensor of real numbers")
        if shape is not None and value.numel() != torch.Size(shape).numel():
            raise self.fail(f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}")
        return value

    def parameter(self, name: str, shape: Sequence[int] | None = None) -> nn.Parameter:
        """A tensor field as parameter; objects that share its memory share the parameter."""
        source = self.tensor(name, shape)
        made = self._made(self.reader.parameter, source, shape)
        self.taken.append((source, made))
        return made

    def buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        source = self.tensor(name, shape)
        made = self._made(self.reader.buffer, source, shape)
        self.taken.append((source, made))
        return made

    def child(self, name: str) -> nn.Module:
        """The module in a field of its own."""
        return self.reader.module(self._field(name, REQUIRED), f"{self.place} > {name}")

    def value_type(self) -> torch.dtype:
        """The dtype of what the module computes from no tensor of its own."""
        lua = TENSOR_CLASSES.get(self.obj.fields.get("_type"), torch.float32)
        return self.reader.dtype or lua

    def fill(self, module: nn.Module) -> nn.Module:
        """Give a module that was made on the meta device the parameters of the same names."""
        for name, empty in list(module.named_parameters(recurse=False)):
            setattr(module, name, self.parameter(name, empty.shape))
        return module

    def children(self) -> list[nn.Module]:
        """The modules of a container, in order."""
        table = self._field("modules", REQUIRED)
        if not isinstance(table, Table):
            raise self.fail("the field modules is no table")
        return [
            self.reader.module(child, f"{self.place} > ({index})")
            for index, child in enumerate(table.to_list(), start=1)
        ]

    def first_child(self) -> nn.Module:
        """The module that a wrapper holds."""
        children = self.children()
        if not children:
            raise self.fail("it wraps no module")
        return children[0]


@dataclass
class Reader:
    """One `to_module` call: what was made so far, so that what the file shares stays shared."""

    dtype: torch.dtype | None
    module: Callable[[Any, str], nn.Module]
    parameters: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # with what they are of
    buffers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    copies: Copies = field(default_factory=Copies)
    summed: set[int] = field(default_factory=set)  # identities of what goes into CAddTable(true)
    _known: dict[Any, Any] = field(default_factory=dict)

    def copy(self, tensor: Tensor, shape: Sequence[int] | None) -> Tensor:
        own = (
            self.copies.allow(tensor)
            .detach()
            .to(self.dtype or tensor.dtype, copy=True)
            .contiguous()
        )
        return own if shape is None else own.reshape(tuple(shape))

    def parameter(self, tensor: Tensor, shape: Sequence[int] | None) -> nn.Parameter:
        return self._once(tensor, shape, self.parameters, nn.Parameter)

    def buffer(self, tensor: Tensor, shape: Sequence[int] | None) -> Tensor:
        return self._once(tensor, shape, self.buffers, Tensor.contiguous)

    def _once(self, tensor: Tensor, shape: Sequence[int] | None, made: Any, kind: Any) -> Any:
        """One tensor for the same elements in the same order."""
        shape = tuple(tensor.shape if shape is None else shape)
        if tensor.numel() == 0:
            return kind(self.copy(tensor, shape))
        lies = () if tensor.is_contiguous() else (tensor.shape, tensor.stride())
        key = (kind, tensor.data_ptr(), tensor.dtype, shape, lies)
        if key not in self._known:
            self._known[key] = kind(self.copy(tensor, shape))
            made.append((tensor, self._known[key]))
        return self._known[key]


@dataclass
class Writer:
    """One `from_module` call: what was written so far, so that shared parts stay shared."""

    obj: Callable[[nn.Module], TorchObject]
    dtype: torch.dtype
    weights: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def empty(self) -> Tensor:
        return torch.empty(0, dtype=self.dtype)

    def two(self) -> Table:
        """The buffers of a layer of two inputs, whose gradients Lua resizes without asking."""
        return Table.from_list([self.empty(), self.empty()])

    def tensor(self, tensor: Tensor) -> Tensor:
        """On the CPU, with memory of its own: `save` writes all of the memory that a view is of.

        Strides are those of Lua, also along axes of one element, where torch calls any contiguous.
        """
        own = tensor.detach().to("cpu", self.dtype).contiguous().view(-1).view(tensor.shape)
        return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()

    def weight(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """A parameter's values and its gradient (zeros where it has none)."""
        if (memory := memory_of(parameter)) is not None:
            view, (values, gradient) = memory_view(parameter, memory), self.weight(memory)
            return view.of(values), view.of(gradient)
        if id(parameter) not in self.weights:
            values = self.tensor(parameter)
            grad = gradient_of(parameter)
            gradient = torch.zeros_like(values) if grad is None else self.tensor(grad)
            self.weights[id(parameter)] = (values, gradient)
        return self.weights[id(parameter)]

    def weights_of(self, module: nn.Module) -> dict[str, Any]:
        """weight, gradWeight, bias and gradBias: those that the module has."""
        fields: dict[str, Any] = {}
        for name, grad_name in (("weight", "gradWeight"), ("bias", "gradBias")):
            parameter = getattr(module, name, None)
            if parameter is not None:
                fields[name], fields[grad_name] = self.weight(parameter)
        return fields

    def children(self, modules: Sequence[nn.Module]) -> Table:
        return Table.from_list(self._child(i, child) for i, child in enumerate(modules, start=1))

    def _child(self, index: int, module: nn.Module) -> TorchObject:
        try:
            return self.obj(module)
        except T7Error as error:
            raise T7Error(f"({index}) {error.message}") from error

    def tensor_class(self) -> str:
        return tensor_class_of(self.dtype) or "torch.FloatTensor"


def long_storage(sizes: Sequence[int]) -> Storage:
    """Sizes as Lua keeps them."""
    return Storage(torch.tensor(list(sizes), dtype=torch.int64))


@dataclass(frozen=True)
class Codec:
    """Both directions of one class.

    ``lua``: the class names that are read, without their package (nn, cudnn or none).
    ``python``: the module class that is written if ``fits`` says so, under the name ``written``
    (default: nn. + the first name). None: only read.
    """

    lua: tuple[str, ...]
    python: type[nn.Module] | None
    read: Callable[[Node], nn.Module]
    write: Callable[[Any, Writer], dict[str, Any]] = lambda module, writer: {}
    written: str = ""
    version: int = 1
    fits: Callable[[Any], bool] = lambda module: True

    @property
    def typename(self) -> str:
        return self.written or f"nn.{self.lua[0]}"


@dataclass(frozen=True)
class Plain:
    """A field of a layer without weights: Lua's name, the constructor's, and the default."""

    lua: str
    python: str
    kind: type
    default: Any = REQUIRED

    def read(self, node: Node) -> Any:
        reads: dict[type, Callable[[str, Any], Any]] = {
            int: node.integer,
            float: node.real,
            bool: node.boolean,
        }
        return reads[self.kind](self.lua, self.default)


def plain(
    lua: str | tuple[str, ...],
    python: type[nn.Module],
    *fields: Plain,
    constants: dict[str, Any] | None = None,
    buffers: tuple[str, ...] = (),
    tables: tuple[str, ...] = (),
    two_inputs: bool = False,
    version: int = 1,
) -> Codec:
    """The codec of a layer whose constructor arguments are attributes and Lua fields alike.

    ``constants``, empty tensors named ``buffers`` and empty tables named ``tables`` are written
    besides, because Lua expects them. ``two_inputs``: so is a gradInput of two tensors.
    ``version``: the class's in Lua, whose readers mend what older ones lack.
    """

    def read(node: Node) -> nn.Module:
        return python(**{entry.python: entry.read(node) for entry in fields})

    def write(module: nn.Module, writer: Writer) -> dict[str, Any]:
        values = {entry.lua: getattr(module, entry.python) for entry in fields}
        return {
            **{name: value for name, value in values.items() if value is not None},
            **(constants or {}),
            **{name: writer.empty() for name in buffers},
            **{name: Table() for name in tables},
            **({"gradInput": writer.two()} if two_inputs else {}),
        }

    names = (lua,) if isinstance(lua, str) else lua
    return Codec(names, python, read, write, version=version)
