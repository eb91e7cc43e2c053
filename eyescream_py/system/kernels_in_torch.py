"""`gpu_kernels` by torch's operators: what the kernels are to compute, on any device.

`kernel_checks` compares the kernels with these; a GPU trains with one of them only where its own
cannot be made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NO_POOL, AVERAGE, MAXIMUM = 0, 1, 2  # the poolings of `activate`


def _whole(
    x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int
) -> Tensor:
    shape = (1, -1, *(1,) * (x.dim() - 2))
    y = F.prelu(x + bias.to(x.dtype).view(shape), slope.to(x.dtype))
    if pool:
        y = F.avg_pool2d(y, 2) if pool == AVERAGE else F.max_pool2d(y, 2)
    if mask is not None:
        planes_last = mask.dim() == 4
        whole = mask.dim() == 2 and y.dim() == 4
        mask = mask.permute(0, 3, 1, 2) if planes_last else mask
        y = y * (mask[:, :, None, None] if whole else mask)
    return y * scale


def activate(
    x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int,
    flat: bool, wide: int,
) -> Tensor:  # fmt: skip
    """pool(rectify(x + bias)) * mask * scale of [N,P] or [N,P,H,W], as `gpu_kernels.activate`."""
    y = _filled(_whole(x[:, : len(bias)], bias, slope, mask, scale, pool), wide)
    return (
        y.contiguous() if flat or y.dim() == 2 else y.contiguous(memory_format=torch.channels_last)
    )


def _filled(x: Tensor, planes: int) -> Tensor:
    return torch.cat([x, x.new_zeros(len(x), planes - x.shape[1], *x.shape[2:])], 1)


def activate_backward(
    g: Tensor, x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int,
    sums: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:  # fmt: skip
    """Slopes of `activate`'s x, and with `sums` of bias and slope, as a part each, by autograd."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, bias, slope)]
        y = _whole(leaves[0][:, : len(bias)], leaves[1], leaves[2], mask, scale, pool)
    dx, of_bias, of_slope = torch.autograd.grad(y, leaves, g[:, : len(bias)])
    dx = torch.empty_like(x).copy_(dx)  # which lies as x does
    return dx, (of_bias[None], of_slope) if sums else None


def add_parts(parts: tuple[Tensor, Tensor], bias: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of bias and slope, of their shapes and types."""
    of_bias, of_slope = parts
    return of_bias.sum(0).to(bias.dtype), of_slope.sum().to(slope.dtype).view(slope.shape)


def tiles(spans: Sequence[tuple[int, int]], flat: Tensor) -> Tensor:
    """Parts (start, end) of a flat tensor: [count,2]."""
    return torch.tensor(list(spans), dtype=torch.int64, device=flat.device).view(-1, 2)


def adam(
    weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rounded: Tensor | None,
    steps: Tensor, rate: Tensor, gate: Tensor | None, penalty: tuple[float, float], bound: float,
    betas: tuple[float, float], eps: float, tiles: Tensor, found: Tensor | None = None,
) -> None:  # fmt: skip
    """Lua's Adam (optim/adam.lua) over `tiles` of flat tensors of one size, in place."""
    (l1, l2), (m, v), (b1, b2) = penalty, moments, betas
    changes = _inside(tiles, len(weights))
    if found is not None:
        torch.where(changes, found.to(gradient.dtype), gradient, out=gradient)
    g = gradient + l1 * weights.sign() + l2 * weights
    if bound:
        g = g.clamp(-bound, bound)
    first = (b1 * m).add_(g, alpha=1 - b1)
    second = (b2 * v).addcmul_(g, g, value=1 - b2)
    size = rate * (1 - b2**steps).sqrt() / (1 - b1**steps)
    new = weights - size.to(weights.dtype) * first / (second.sqrt() + eps)
    if gate is not None:
        changes &= gate > 0
    for old, value in ((weights, new), (m, first), (v, second)):
        torch.where(changes, value, old, out=old)
    if rounded is not None:
        rounded.copy_(torch.where(changes, weights, rounded))


def _inside(tiles: Tensor, size: int) -> Tensor:
    """Which of so many places are in one of the tiles. [size] of bool"""
    # the host must not read where they begin: it would have to wait in the middle of an iteration
    steps = torch.zeros(size + 1, dtype=torch.int64, device=tiles.device)
    ones = torch.ones_like(tiles[:, 0])
    steps.index_add_(0, tiles[:, 0], ones).index_add_(0, tiles[:, 1], ones, alpha=-1)
    return steps[:size].cumsum(0) > 0


def judge(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of logits [N] to targets [N], and its slopes [N]."""
    x, t = logits.to(torch.promote_types(logits.dtype, torch.float32)), targets
    slopes = (1 - t) * torch.sigmoid(x) - t * torch.sigmoid(-x)
    return (F.softplus(x) - t * x).mean(), slopes / x.numel()


def tally(
    logits: Tensor, targets: Tensor, loss: Tensor, trained: Tensor | None, sums: Tensor,
    counts: Tensor, certain: float,
) -> None:  # fmt: skip
    """Add a step of D to `sums` and `counts`, as `gpu_kernels.tally`."""
    sums[0] += loss
    sums[2] += 1 if trained is None else trained
    sums[3] += (logits.abs() > certain).sum()
    counts += torch.bincount(2 * (targets > 0.5).long() + (logits > 0).long(), minlength=4)


def widen(x: Tensor, samples: int, planes: int, dtype: torch.dtype) -> Tensor:
    """x [N,C,H,W] as [samples,planes,H,W], what is new being 0."""
    y = x.new_zeros(samples, planes, *x.shape[2:], dtype=dtype)
    y[: len(x), : x.shape[1]] = x
    return y.contiguous(memory_format=torch.channels_last)


def fold(
    found: Tensor, bias: Tensor | None, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> Tensor:
    """[out*side*side,N*H*W] added up as [N,out,H,W], as `gpu_kernels.fold`."""
    n, planes, height, width = shape
    # torch's adds a pixel to its neighbours, which is the kernel upside down
    taps = found.view(planes, -1, n, height * width).flip(1).permute(2, 0, 1, 3)
    side = math.isqrt(taps.shape[2])
    y = F.fold(taps.flatten(1, 2), (height, width), side, padding=side // 2)
    y = y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)
    return y.to(dtype, memory_format=torch.channels_last)


def unfold(g: Tensor, side: int) -> Tensor:
    """g [N,out,H,W] -> [out*side*side,N*H*W], as `gpu_kernels.unfold`."""
    n, planes, height, width = g.shape
    slopes = F.unfold(g, side, padding=side // 2).view(n, planes, -1, height * width)
    return slopes.flip(2).permute(1, 2, 0, 3).reshape(-1, n * height * width)


def patches(x: Tensor, side: int, step: int) -> Tensor:
    """x [N,C,H,W] -> [N*h*w,side*side*C], as `gpu_kernels.patches`."""
    seen = F.unfold(x, side, padding=side // 2, stride=step)  # [N,C*taps,h*w]
    n, planes = x.shape[:2]
    return seen.view(n, planes, side * side, -1).permute(0, 3, 2, 1).reshape(-1, side**2 * planes)


def unpatched(found: Tensor, shape: Sequence[int], side: int, step: int) -> Tensor:
    """[N*h*w,side*side*C] added up as [N,C,H,W], as `gpu_kernels.unpatched`."""
    n, planes, height, width = shape
    full = torch.promote_types(found.dtype, torch.float32)
    taps = found.to(full).view(n, -1, side * side, planes).permute(0, 3, 2, 1).flatten(1, 2)
    dx = F.fold(taps, (height, width), side, padding=side // 2, stride=step)
    return dx.to(found.dtype, memory_format=torch.channels_last)


def head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A Linear to one number: x [N,K], weight [1,K], bias [1] -> [N,1]."""
    return F.linear(x.to(weight.dtype), weight, bias)


def head_backward(
    g: Tensor, x: Tensor, weight: Tensor, sums: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Slopes of `head`'s x, and with `sums` of weight and bias, from g [N,1]."""
    dx = (g * weight).to(x.dtype)
    if not sums:
        return dx, None, None
    return dx, (g * x).sum(0, keepdim=True).to(weight.dtype), g.sum(0)


def pictures(images: Tensor, table: Tensor | None, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes [M,C,H,W] -> values in 0..1 [n,C,H,W] of the pictures `rows` or `table[rows]`."""
    rows = rows if table is None else table[rows]
    return images[rows].to(dtype) / 255


def pairs(
    images: Tensor, table: Tensor | None, rows: Tensor, matrix: Tensor, coarse: Tensor, diff: Tensor
) -> None:
    """Put (coarse, fine - coarse) of the same pictures into two tensors [n,C,S,S]: coarse is
    M fine M'.
    """
    fine = pictures(images, table, rows, torch.float64)
    blurred = matrix.double() @ fine @ matrix.double().T
    coarse.copy_(blurred)
    diff.copy_(fine - blurred)


def multiply(left: Tensor, right: Tensor, made: Tensor) -> None:
    """Put the products of [B,m,k] and [B,k,n] into `made` [B,m,n], in its type."""
    # a form that autocast does not know, as the kernels know none
    torch.bmm(left.to(made.dtype), right.to(made.dtype), out=made)


def place(x: Tensor, rows: int, high: int, wide: int, above: int, copies: int) -> Tensor:
    """Pictures x [N,C,H,W] with zeros around them, as rows of planes, as `gpu_kernels.place`."""
    bordered = F.pad(x, (0, wide - x.shape[3], 0, high - x.shape[2])).permute(0, 2, 3, 1)
    flat = bordered.flatten(0, 2)
    starts = [above - copy for copy in range(copies)]
    return torch.cat([F.pad(flat, (0, 0, at, rows - len(flat) - at)) for at in starts], 1)


def weight_slopes(x: Tensor, g: Tensor, side: int) -> Tensor:
    """Slopes [out,in,side,side] of the weights of a convolution, of x [N,in,H,W], g [N,out,H,W]."""
    full = torch.promote_types(x.dtype, torch.float32)
    weight = x.new_empty((g.shape[1], x.shape[1], side, side), dtype=full)
    settings = (1, 1), (side // 2, side // 2), (1, 1), False, (0, 0), 1, (False, True, False)
    found = torch.ops.aten.convolution_backward(g.to(full), x.to(full), weight, None, *settings)
    slopes: Tensor = found[1].to(x.dtype)
    return slopes.contiguous(memory_format=torch.channels_last)


def convolve(x: Tensor, weight: Tensor, back: bool) -> Tensor:
    """x convolved with weight [out,in,side,side] of an odd side, or as slopes back through it, as
    `gpu_kernels.convolve`.
    """
    full = torch.promote_types(x.dtype, torch.float32)
    product = F.conv_transpose2d if back else F.conv2d
    y = product(x.to(full), weight.to(full), padding=weight.shape[2] // 2)
    return y.to(x.dtype, memory_format=torch.channels_last)
