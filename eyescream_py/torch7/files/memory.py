"""What a file may ask for when its tensors become memory of their own.

A file's tensors are views of its storages. Strides of 0, overlapping strides, or many views of one
storage show far more elements than the file holds, so that a few bytes could ask for terabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.lib.stride_tricks import as_strided
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


def reach(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor that is not empty begins and ends in its storage, in elements."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    start = int(tensor.storage_offset())
    return start, start + int(sum((size - 1) * step for size, step in pairs)) + 1


def meeting(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places in ``tensors``, none of them empty, of those that lie within one piece of memory;
    between their elements there may be others' too.
    """
    order = sorted(
        (tensor.untyped_storage().data_ptr(), *reach(tensor), number)
        for number, tensor in enumerate(tensors)
    )
    group: list[int] = []
    last = end = 0
    for storage, start, stop, number in order:
        if group and (storage != last or start >= end):
            yield group
            group, end = [], 0
        group.append(number)
        last, end = storage, max(end, stop)
    if group:
        yield group


def used(tensors: Sequence[Tensor]) -> Tensor:
    """Which elements of a piece of memory tensors use, from their first to their last."""
    ends = [reach(tensor) for tensor in tensors]
    first = min(start for start, _ in ends)
    marks = torch.zeros(max(end for _, end in ends) - first, dtype=torch.bool)
    for tensor, (start, _) in zip(tensors, ends, strict=True):
        steps = [step * marks.itemsize for step in tensor.stride()]
        # numpy writes through views that overlap, for which torch has no way
        as_strided(marks.numpy()[start - first :], tensor.shape, steps)[...] = True
    return marks


def count_elements(tensors: Sequence[Tensor]) -> int:
    """How many numbers in memory tensors that are not empty have together, common ones once.

    Where going through them would take far more time than reading the file: all that lie between.
    """
    count = 0
    for numbers in meeting(tensors):
        group = [tensors[number] for number in numbers]
        total = sum(tensor.numel() for tensor in group)
        if len(group) > 1 or not group[0].is_contiguous():
            ends = [reach(tensor) for tensor in group]
            between = max(end for _, end in ends) - min(start for start, _ in ends)
            few = total <= TIMES * between + SPARE
            total = int(used(group).sum()) if few else between
        count += total
    return count
