"""Planes whose pixels come first in memory: tensors [N,C,H,W] that lie there as [H,W,N,C].

Convolutions by minimal filters compute in this layout; what stands beside them takes it over, as
each change of it is a pass through memory.
"""

from __future__ import annotations

from torch import Tensor


def lies_so(x: Tensor) -> bool:
    """Whether [N,C,H,W] has its pixels first, and not its planes as usual."""
    return not x.is_contiguous() and x.permute(2, 3, 0, 1).is_contiguous()


def pixels_of(x: Tensor) -> Tensor:
    """[N,C,H,W] as [H,W,N*C], copied unless it lies so."""
    n, planes, height, width = x.shape
    if lies_so(x):
        return x.permute(2, 3, 0, 1).view(height, width, -1)
    return x.reshape(n * planes, -1).T.contiguous().view(height, width, -1)


def as_planes(pixels: Tensor, n: int) -> Tensor:
    """The inverse without a copy: [H,W,N*C] -> [N,C,H,W], pixels first."""
    return pixels.view(*pixels.shape[:2], n, -1).permute(2, 3, 0, 1)


def planes_first(x: Tensor) -> Tensor:
    """`x` [N,C,H,W] in torch's usual layout."""
    if not lies_so(x):
        return x.contiguous()
    n, planes, height, width = x.shape
    return pixels_of(x).view(height * width, -1).T.contiguous().view(n, planes, height, width)
