"""Torch 7's tensor and storage classes and the dtypes of their elements."""

import re

import torch

from ..errors import T7Error

_DTYPES = {
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "Float": torch.float32,
    "Double": torch.float64,
}
_KINDS = {dtype: kind for kind, dtype in _DTYPES.items()}
_ELEMENTS = {
    **_DTYPES,
    "Cuda": torch.float32,
    "Cl": torch.float32,
    **{f"Cuda{kind}": dtype for kind, dtype in _DTYPES.items() if kind != "Float"},
}
TENSOR_CLASSES = {f"torch.{element}Tensor": dtype for element, dtype in _ELEMENTS.items()}
STORAGE_CLASSES = {f"torch.{element}Storage": dtype for element, dtype in _ELEMENTS.items()}

# Classes of which a file holds something else than one value, the table of fields.
# A table, then the fields, from this version on: {type, device}, or cunn's list of devices.
_HEADED_CLASSES = {"nn.GPU": 0, "nn.DataParallelTable": 2}
HASH_CLASSES = frozenset({"tds.Hash", "tds_hash"})  # a long n, then n keys and values
VECTOR_CLASSES = frozenset({"tds.Vec", "tds_vec"})  # a long n, then n values
GENERATOR_BYTES = {8: 5048, 4: 2544}  # of torch.Generator, by the size of a long; Timer has none
PLAIN_TORCH_CLASSES = frozenset({"torch.AliasMultinomial"})  # like nn's classes, despite the name

VERSION = re.compile(rb"V (\d{1,9})")  # what stands before a class name in all but very old files
_CLASS_NAME = re.compile(rb"[A-Za-z_][ -~]{0,254}")


def is_class_name(name: bytes) -> bool:
    """Whether a file's bytes can be the name of a class."""
    return bool(_CLASS_NAME.fullmatch(name)) and not VERSION.fullmatch(name)


def has_header(typename: str, version: int) -> bool:
    """Whether an object of the class writes a table before that of its fields."""
    return typename in _HEADED_CLASSES and version >= _HEADED_CLASSES[typename]


def storage_class(tensor_class: str) -> str:
    """torch.CudaTensor -> torch.CudaStorage."""
    return tensor_class.removesuffix("Tensor") + "Storage"


def tensor_class_of(dtype: torch.dtype) -> str | None:
    """torch.float32 -> torch.FloatTensor; None where Torch 7 has no such class."""
    kind = _KINDS.get(dtype)
    return kind and f"torch.{kind}Tensor"


def remember_class(tensor: torch.Tensor, typename: str, version: int = 1) -> torch.Tensor:
    """Mark `tensor` as an instance of a Lua class that its dtype does not imply.

    `save` writes that class. The mark is the attribute `t7_class`, a pair (typename, version);
    tensors computed from this one do not have it.
    """
    if version != 1 or typename != tensor_class_of(tensor.dtype):
        tensor.t7_class = (typename, version)  # type: ignore[attr-defined]
    return tensor


def lua_class(tensor: torch.Tensor) -> tuple[str, int]:
    """The Lua class and version of `tensor`. Raises T7Error where its dtype has none."""
    typename, version = getattr(tensor, "t7_class", ("", 1))
    if TENSOR_CLASSES.get(typename) == tensor.dtype:
        return typename, version
    implied = tensor_class_of(tensor.dtype)
    if implied is None:
        raise T7Error(f"a Torch 7 file cannot hold a tensor of {tensor.dtype}")
    return implied, version
