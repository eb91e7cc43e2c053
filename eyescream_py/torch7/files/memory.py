"""What a file may ask for when its tensors become memory of their own.

A file's tensors are views of its storages. Strides of 0, overlapping strides, or many views of one
storage show far more elements than the file holds, so that a few bytes could ask for terabytes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import T7Error

TIMES = 8  # copies may take so many times the bytes of the storages they are of,
SPARE = 2**26  # and so many bytes more: what Lua expands is small


class Copies:
    """How many bytes of a file's tensors were copied, and of how many bytes of storage."""

    def __init__(self) -> None:
        self._held = self._copied = 0
        self._storages: set[int] = set()

    def allow(self, tensor: Tensor, name: str = "") -> Tensor:
        """The tensor, which may be copied now. Raises T7Error where that asks for too much."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self._held += storage.nbytes()
        self._copied += tensor.nbytes
        if self._copied > TIMES * self._held + SPARE:
            shape = "x".join(map(str, tensor.shape))
            raise T7Error(
                f"{f'{name}: ' if name else ''}a tensor of {shape} repeats its memory: copies of "
                f"{self._copied} bytes were asked for, of {self._held} bytes in the file"
            )
        return tensor


def own(tensor: Any) -> Tensor:
    """One tensor of a file as contiguous memory. Raises T7Error where it repeats too much."""
    return Copies().allow(tensor).contiguous()
