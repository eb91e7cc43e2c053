"""Layers of cuda-convnet's order of dimensions: images are (C,H,W,N), as GPUs had them until 2015.

Programs put nn.Transpose before and after them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchLast(nn.Module):
    """A layer for (N,C,H,W), on (C,H,W,N)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        _check(x)
        return self.layer(x.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)


class BatchLastConvolution(nn.Module):
    """A convolution whose ``weight`` is (inputs of a group * kH * kW, outputs), on (C,H,W,N).

    ``padding``: pixels before the first and after the last. ``whole``: windows that reach beyond
    these are counted as well, over zeros.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int = 1,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.groups = inputs, outputs, groups
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.whole = whole
        self.weight = nn.Parameter(torch.zeros(inputs // groups * kernel[0] * kernel[1], outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        _check(x)
        before, after = self.padding
        x = F.pad(x.permute(3, 0, 1, 2), (before, after, before, after))
        if self.whole:
            x = F.pad(x, [pixels for axis in (1, 0) for pixels in (0, self._missing(x, axis))])
        filters = self.weight.t().reshape(self.outputs, -1, *self.kernel)
        y = F.conv2d(x, filters, self.bias, self.stride, groups=self.groups)
        return y.permute(1, 2, 3, 0)

    def _missing(self, x: Tensor, axis: int) -> int:
        """Pixels that the last window lacks."""
        return (self.kernel[axis] - x.shape[axis + 2]) % self.stride[axis]

    def extra_repr(self) -> str:
        options: Any = f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"
        return f"{self.inputs}, {self.outputs}, {options}, groups={self.groups}"


def _check(x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"layers with the batch last take (C,H,W,N), not {tuple(x.shape)}")
