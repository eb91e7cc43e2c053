"""Pictures as matrices whose rows are the planes of a pixel: in channels_last the same memory."""

from __future__ import annotations

from torch import Tensor, nn


def rows_of(x: Tensor) -> Tensor:
    """[N,C,H,W] -> [N*H*W,C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def planes_of(rows: Tensor, n: int, height: int, width: int) -> Tensor:
    """[n*height*width,C] or [n,height*width*C] -> [n,C,height,width] in channels_last."""
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


def keeps_size(layer: nn.Conv2d) -> bool:
    """Whether its kernel is as wide as high, odd, of stride 1, and the output as large as x."""
    side = layer.kernel_size[0]
    return (
        side % 2 == 1
        and layer.kernel_size == (side, side)
        and layer.padding == (side // 2, side // 2)
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
    )
