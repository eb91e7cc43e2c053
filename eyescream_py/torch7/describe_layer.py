"""One line of text for people about a value or about one layer of a Torch 7 file."""

from typing import Any

import torch

from .files.classes import lua_class
from .files.values import LuaFunction, Storage, Table, TorchObject

_TEXT_SHOWN = 200
_SIZES_SHOWN = 16


def printable(value: Any) -> str:
    """Text without characters that a terminal would obey."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def key_name(key: Any) -> str:
    """A table's key in a few words; of another table, whose text has no limit, the size."""
    return f"table of {len(key)}" if isinstance(key, Table) else printable(str(key)[:_TEXT_SHOWN])


def summary(value: Any) -> str:
    """One line about anything but a network."""
    if isinstance(value, Table):
        return f"table of {len(value)}"
    if isinstance(value, torch.Tensor):
        size = f" of size {by(value.shape)}" if value.numel() else ", empty"
        return lua_class(value)[0] + size
    if isinstance(value, Storage):
        return f"{value.typename} of {len(value)}"
    if isinstance(value, LuaFunction):
        return f"Lua function, {len(value.code)} bytes of code (not run)"
    if isinstance(value, TorchObject):
        return f"{value.typename} {type(value.fields).__name__}"
    if isinstance(value, str):
        return f'"{printable(value[:_TEXT_SHOWN])}"{"..." * (len(value) > _TEXT_SHOWN)}'
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nil" if value is None else str(value)


def by(shape: torch.Size) -> str:
    """2x3x4."""
    return "x".join(map(str, shape))


def parameters(module: TorchObject) -> dict[str, torch.Tensor]:
    """The layer's own tensors that Lua trains, by the names of their fields.

    A normalised weight is made of ``v`` and ``g``, which are trained in its place.
    """
    fields = module.fields if isinstance(module.fields, Table) else Table()
    normed = "v" in fields and "g" in fields
    names = ("v", "g", "bias", "vO", "gO") if normed else ("weight", "bias", *_MORE)
    found = {name: fields.get(name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


_MORE = ("weightO", "diagCov")  # of nn.SeqLSTMP, nn.WeightedEuclidean


def describe_module(module: TorchObject) -> str:
    """nn.SpatialConvolution(1 -> 128, 3x3, 1,1, 1,1), and the like for other classes."""
    geometry = _geometry(module)
    return printable(module.typename) + (geometry and f"({geometry})")


# how classes name the sizes of their input and output
_IN_AND_OUT = (
    ("inputSize", "outputSize"),
    ("inputsize", "outputsize"),
    ("input_dim", "hidden_dim"),
    ("inputSize", "hiddenSize"),
    ("inputFrameSize", "outputFrameSize"),
    ("nInputPlane", "nOutputPlane"),
)
_OUT_BY_IN = ("Linear", "Cosine", "Kmeans", "NCEModule")  # what a weight's rows and columns are
_IN_BY_OUT = ("LookupTable", "Dictionary", "Euclidean")
_NUMBERS = ("p", "scale_factor", "negval", "dimension")


def _geometry(module: TorchObject) -> str:
    fields = module.fields
    if "kW" in fields:
        return _window(fields)
    if isinstance(fields.get("size"), Storage) and (
        "numElements" in fields or "nelement" in fields
    ):
        size = fields["size"]
        more = ["..."] if len(size) > _SIZES_SHOWN else []
        return ", ".join([*map(str, size.tensor[:_SIZES_SHOWN].tolist()), *more])
    if sizes := _in_and_out(fields) or _matrix(module):
        return sizes
    for name in _NUMBERS:
        if isinstance(fields.get(name), int | float):
            return str(fields[name])
    running = fields.get("running_mean")
    return str(running.numel()) if isinstance(running, torch.Tensor) else ""


def _window(fields: Table) -> str:
    """Planes, kernel, stride, and the padding if there is any, in the order of Lua's print."""
    axes = [axis for axis in ("T", "W", "H") if f"k{axis}" in fields]
    sizes = [_in_and_out(fields), "x".join(_told(fields, f"k{axis}") for axis in axes)]
    sizes.append(",".join(_told(fields, f"d{axis}") for axis in axes))
    padding = [_told(fields, f"pad{axis}") for axis in axes]
    if set(padding) not in ({"0"}, {"nil"}):
        sizes.append(",".join(padding))
    for name, usual in (("dilation", "1"), ("adj", "0")):
        values = [_told(fields, f"{name}{axis}") for axis in axes]
        if set(values) not in ({usual}, {"nil"}):
            sizes.append(f"{name} {','.join(values)}")
    if fields.get("groups", 1) != 1:
        sizes.append(f"groups {_told(fields, 'groups')}")
    return ", ".join(filter(None, sizes))


def _in_and_out(fields: Table) -> str:
    for names in _IN_AND_OUT:
        if all(isinstance(fields.get(name), int | float) for name in names):
            return " -> ".join(_told(fields, name) for name in names)
    return ""


def _matrix(module: TorchObject) -> str:
    """Input and output of a layer whose weight alone has its sizes."""
    weight, name = module.fields.get("weight"), module.typename.rpartition(".")[2]
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        return ""
    rows, columns = weight.shape
    if any(part in name for part in _OUT_BY_IN):
        return f"{columns} -> {rows}"
    return f"{rows} -> {columns}" if any(part in name for part in _IN_BY_OUT) else ""


def _told(fields: Table, name: str) -> str:
    """A number as it is; whatever else a file puts in its place in a word or two."""
    value = fields.get(name)
    return printable(summary(value))
