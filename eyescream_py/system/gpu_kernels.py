"""Kernels for CUDA, in Triton: what torch does in several passes over memory, in one.

Each function here launches a kernel; tensors are on one CUDA device. Sums are taken in the same
order each time, so that runs repeat to the bit. Triton comes with torch wherever torch has CUDA on
Linux; `available` says whether it is here. Arithmetic is in float32 whatever the tensors' type.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from eyescream_py.system import triton_kernels as bodies

NO_POOL, AVERAGE, MAXIMUM = 0, 1, 2
TILE = 2048  # elements that a program holds at a time
MOST_PARTS = 1024  # programs where sums are taken: each leaves a part of them
SUMMED = 64  # parts that are added at a time


def _tiles(rows: int, planes: int, pixels: int) -> tuple[int, int]:
    """(rows, planes) that a program holds where each output is made of so many pixels."""
    wide = min(128, max(16, triton.next_power_of_2(planes)))
    return min(max(1, TILE // wide // pixels), triton.next_power_of_2(rows)), wide


def _pixels(x: Tensor, pool: int) -> tuple[int, int, int, int]:
    """(output rows, output pixels a sample, their width, width of the input) of [N,C] or
    [N,C,H,W].
    """
    height, width = x.shape[2:] if x.dim() == 4 else (1, 1)
    halves = 2 if pool else 1
    pixels = (height // halves) * (width // halves)
    return x.shape[0] * pixels, pixels, width // halves, width


def activate(
    x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int, flat: bool
) -> Tensor:
    """pool(rectify(x + bias)) * mask * scale, of x [N,C] or [N,C,H,W] in channels_last.

    `slope` [1] is the rectifier's below 0, `bias` [C]; `pool` one of the constants above, of 2x2
    pixels without overlap; `mask` lies as the output does in channels_last, or is [N,C] for whole
    planes. The output is in channels_last, or with `flat` contiguous, for who reads it as rows.
    """
    rows, pixels, narrow, width = _pixels(x, pool)
    planes = x.shape[1]
    shape = (x.shape[0], planes, *((pixels // narrow, narrow) if x.dim() == 4 else ()))
    layout = torch.channels_last if x.dim() == 4 and not flat else torch.contiguous_format
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    high, wide = _tiles(rows, planes, 4 if pool else 1)
    bodies.activate[(triton.cdiv(rows, high), triton.cdiv(planes, wide))](
        x, bias, slope, x if mask is None else mask, y, rows, planes, pixels, narrow, width,
        _rows_a_mask(mask, rows, planes), *_steps(y), scale,
        POOL=pool, MASK=mask is not None, ROWS=high, PLANES=wide,
    )  # fmt: skip
    return y


def _rows_a_mask(mask: Tensor | None, rows: int, planes: int) -> int:
    return 1 if mask is None else rows * planes // mask.numel()


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    """Strides of samples, pixels and planes."""
    return tensor.stride(0), tensor.stride(-1) if tensor.dim() == 4 else 0, tensor.stride(1)


def activate_backward(
    g: Tensor, x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int,
    sums: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:  # fmt: skip
    """The slope of `activate`'s x, and with `sums` parts whose sums are those of bias and slope:
    `add_parts` adds them.
    """
    rows, pixels, narrow, width = _pixels(x, pool)
    planes = x.shape[1]
    if g.dim() == 4 and g.stride(2) != g.shape[3] * g.stride(3):
        g = g.contiguous()
    high, wide = _tiles(rows, planes, 4 if pool else 1)
    down, across = triton.cdiv(rows, high), triton.cdiv(planes, wide)
    if sums:
        down = min(down, max(1, MOST_PARTS // across))
    parts = (
        x.new_empty((down, planes), dtype=torch.float32),
        x.new_empty(down * across, dtype=torch.float32),
    )
    dx = torch.empty_like(x)
    bodies.activate_backward[(down, across)](
        g, x, bias, slope, x if mask is None else mask, dx, *parts, rows, planes, pixels, narrow,
        width, _rows_a_mask(mask, rows, planes), *_steps(g), scale,
        POOL=pool, MASK=mask is not None, SUMS=sums, ROWS=high, PLANES=wide,
    )  # fmt: skip
    return dx, parts if sums else None


def add_parts(parts: tuple[Tensor, Tensor], bias: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of bias and slope, of their shapes and types."""
    of_bias, of_slope = parts
    made = torch.empty_like(bias), torch.empty_like(slope)
    count, planes = of_bias.shape
    bodies.add_parts[(triton.cdiv(planes, 32),)](
        of_bias, of_slope, *made, count, planes, of_slope.numel(), PARTS=SUMMED, PLANES=32
    )
    return made


def adam(
    weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rounded: Tensor | None,
    steps: Tensor, rate: Tensor, gate: Tensor | None, penalty: tuple[float, float], bound: float,
    betas: tuple[float, float], eps: float,
) -> None:  # fmt: skip
    """One pass of Lua's Adam over flat float32 tensors of one size, in place: the gradient with
    the penalty l1*sign(w) + l2*w, clamped to +-`bound` (0: not), as step number `steps` (float64)
    at `rate`; with `rounded` the new weights in its type as well. A `gate` of 0 changes nothing.
    """
    n = weights.numel()
    logs = [math.log(beta) if beta else -math.inf for beta in betas]
    bodies.adam[(triton.cdiv(n, TILE),)](
        weights, gradient, *moments, weights if rounded is None else rounded, steps, rate,
        steps if gate is None else gate, n, *penalty, bound, *logs, *betas,
        *(1 - beta for beta in betas), eps,
        L1=bool(penalty[0]), L2=bool(penalty[1]), CLAMP=bool(bound), GATE=gate is not None,
        ROUND=rounded is not None, TILE=TILE,
    )  # fmt: skip


def judge(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of logits [N] to targets [N], and its slopes [N]; both float32."""
    loss = logits.new_empty((), dtype=torch.float32)
    slopes = torch.empty_like(logits, dtype=torch.float32)
    n = logits.numel()
    bodies.judge[(1,)](logits, targets, loss, slopes, n, SIZE=min(1024, triton.next_power_of_2(n)))
    return loss, slopes


def tally(
    logits: Tensor, targets: Tensor, loss: Tensor, trained: Tensor | None, sums: Tensor,
    counts: Tensor, certain: float,
) -> None:  # fmt: skip
    """Add a step of D to `sums` (float64: its loss, unused, steps learned from, answers beyond
    +-`certain`) and to the confusion `counts` (int64: 2*target + answer).
    """
    n = logits.numel()
    bodies.tally[(1,)](
        logits, targets, loss, sums if trained is None else trained, sums, counts, n, certain,
        GATE=trained is not None, SIZE=min(1024, triton.next_power_of_2(n)),
    )  # fmt: skip
