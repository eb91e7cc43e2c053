"""A network's parameters in one buffer, as Lua's `getParameters` lays them.

What treats every element alike (penalty, clamp, optimizer, rounding, averaging) then takes one pass
over memory, and on a GPU one kernel, however many parameters there are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# elements: every parameter starts on such a border, in 4 bytes or in 2, as cuDNN falls back to slow
# kernels for weights that do not start on 16 bytes
BORDER = 64


@dataclass(frozen=True)
class _Place:
    """A parameter's part of the buffer, in the order of its elements in memory."""

    start: int
    shape: torch.Size
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + self.shape.numel()

    @property
    def order(self) -> list[int]:
        """Its axes, those of the largest steps in memory first."""
        return sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis])

    def of(self, buffer: Tensor) -> Tensor:
        return buffer.as_strided(self.shape, self.strides, self.start)


class Flat:
    """The parameters of `network` as views of one buffer, `weights` [size], in their order.

    They stay the same objects with the same values and strides (channels_last included); what is
    between them in the buffer is 0, and stays so under every optimizer and penalty.
    """

    def __init__(self, network: nn.Module) -> None:
        self.parameters = list(network.parameters())
        self._places: list[_Place] = []
        self.size = 0
        for p in self.parameters:
            strides = torch.empty_like(p, device="meta").stride()  # without gaps between elements
            self._places.append(_Place(self.size, p.shape, strides))
            self.size += -(-p.numel() // BORDER) * BORDER
        first = self.parameters[0]
        self.weights = torch.zeros(self.size, dtype=first.dtype, device=first.device)
        for p, view in zip(self.parameters, self.views(self.weights), strict=True):
            p.data = view.copy_(p.detach())

    def zeros(self) -> Tensor:
        """Another such buffer: for gradients, or a moment. [size]"""
        return torch.zeros_like(self.weights)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer [size], with the parameters' shapes and strides."""
        return [place.of(buffer) for place in self._places]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each parameter's part of a buffer starts and where the next one's does."""
        starts = [place.start for place in self._places]
        return list(zip(starts, [*starts[1:], self.size], strict=True))

    def gather(
        self, found: Sequence[Tensor], buffer: Tensor, without: Collection[int] = ()
    ) -> None:
        """Copy tensors of the parameters' shapes, of any type and layout, into a buffer [size]; not
        those of the numbers `without`.
        """
        wanted = [number for number in range(len(self._places)) if number not in without]
        places = [self._places[number] for number in wanted]
        parts = [buffer[place.start : place.end] for place in places]
        copy_each_(parts, [self.row(number, found[number]) for number in wanted])

    def row(self, number: int, tensor: Tensor) -> Tensor:
        """A tensor of the shape of a parameter as it would lie in a buffer: where it has that one's
        layout, it is read where it lies.
        """
        return tensor.permute(self._places[number].order).reshape(-1)


@torch.no_grad()
def copy_each_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, all of one type at once: from mixed types a GPU would copy
    each by a kernel of its own.
    """
    for dtype in {source.dtype for source in sources}:
        pairs = [(a, b) for a, b in zip(targets, sources, strict=True) if b.dtype == dtype]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
