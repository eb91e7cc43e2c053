"""Kernels for CUDA, in Triton: what torch does in several passes over memory, in one.

Each function here launches a kernel, the last one cuBLAS's; tensors are on one CUDA device. Sums
are taken in the same order each time, so that runs repeat to the bit. Triton comes with torch
wherever torch has CUDA on Linux; `fusing` finds out whether it works here. Arithmetic is in float32
whatever the tensors are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from eyescream_py.system import triton_convolutions as convolutions
from eyescream_py.system import triton_folds as folds
from eyescream_py.system import triton_kernels as bodies
from eyescream_py.system import triton_slopes as wide_bodies

TILE = 2048  # elements that a program holds at a time
ALIGNED = 64  # elements: `torch7.flat.BORDER`, on which every parameter starts
MOST_PARTS = 1024  # programs where sums are taken: each leaves a part of them
SUMMED = 256  # parts that are added at a time
# weights, pixels of a program of `weight_slopes`, its stages, warps, and how many of it
# run at a time: the quickest of six tiles on an H200, which has 132 processors (28 November 2026);
# of few weights more programs share the pixels
WEIGHT_TILE, FEW_WEIGHTS_TILE = (256, 64, 3, 8, 132), (128, 64, 3, 4, 264)
# pixels, planes, planes of its input of a program of `convolve`, its stages, warps: the quickest of
# four tiles there
VALUE_TILE = (128, 128, 64, 3, 4)


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
    x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int,
    flat: bool, wide: int,
) -> Tensor:  # fmt: skip
    """pool(rectify(x + bias)) * mask * scale, of x [N,P] or [N,P,H,W] in channels_last.

    Of x the first planes count, as many as `bias` [C] has; `slope` [1] is the rectifier's below 0;
    `pool` one of the constants of `kernels_in_torch`, of 2x2 pixels without overlap; `mask` lies as
    the output does in channels_last, or is [N,C] for whole planes. The output has `wide` planes,
    those beyond C of zeros, in channels_last, or with `flat` contiguous, for who reads it as rows.
    """
    rows, pixels, narrow, width = _pixels(x, pool)
    planes = bias.numel()
    shape = (x.shape[0], wide, *((pixels // narrow, narrow) if x.dim() == 4 else ()))
    layout = torch.channels_last if x.dim() == 4 and not flat else torch.contiguous_format
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    high, across = _tiles(rows, wide, 4 if pool else 1)
    bodies.activate[(triton.cdiv(rows, high), triton.cdiv(wide, across))](
        x, bias, slope, x if mask is None else mask, y, rows, planes, x.shape[1], wide, pixels,
        narrow, width, _rows_a_mask(mask, rows, planes), *_steps(y), scale,
        POOL=pool, MASK=mask is not None, ROWS=high, PLANES=across,
        COUNT=bodies.counted_in(x[:, 0].numel()),
    )  # fmt: skip
    return y


def _rows_a_mask(mask: Tensor | None, rows: int, planes: int) -> int:
    return 1 if mask is None else rows * planes // mask.numel()


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    """Strides of samples, pixels and planes."""
    if tensor.dim() == 2:
        return tensor.stride(0), 0, tensor.stride(1)
    # the stride of a side of 1 says nothing
    return tensor.stride(0), tensor.stride(3 if tensor.shape[3] > 1 else 2), tensor.stride(1)


def _in_steps(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy whose pixels lie at equal distances."""
    if tensor.dim() == 2 or 1 in tensor.shape[2:]:
        return tensor
    at_equal = tensor.stride(2) == tensor.shape[3] * tensor.stride(3)
    return tensor if at_equal else tensor.contiguous()


def activate_backward(
    g: Tensor, x: Tensor, bias: Tensor, slope: Tensor, mask: Tensor | None, scale: float, pool: int,
    sums: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:  # fmt: skip
    """The slope of `activate`'s x, and with `sums` parts whose sums are those of bias and slope:
    `add_parts` adds them.
    """
    rows, pixels, narrow, width = _pixels(x, pool)
    g, planes, pitch = _in_steps(g), bias.numel(), x.shape[1]
    high, wide = _tiles(rows, pitch, 4 if pool else 1)
    down, across = triton.cdiv(rows, high), triton.cdiv(pitch, wide)
    if sums:
        down = min(down, max(1, MOST_PARTS // across))
    # without sums nothing is written to them
    kept = down if sums else 1
    parts = (
        torch.empty((kept, planes), device=x.device, dtype=torch.float32),
        torch.empty(kept * across, device=x.device, dtype=torch.float32),
    )
    dx = torch.empty_like(x)
    bodies.activate_backward[(down, across)](
        g, x, bias, slope, x if mask is None else mask, dx, *parts, rows, planes, pitch, pixels,
        narrow, width, _rows_a_mask(mask, rows, planes), *_steps(g), scale,
        POOL=pool, MASK=mask is not None, SUMS=sums, ROWS=high, PLANES=wide,
        COUNT=bodies.counted_in(x[:, 0].numel()),
    )  # fmt: skip
    return dx, parts if sums else None


def add_parts(parts: tuple[Tensor, Tensor], bias: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of bias and slope, of their shapes and types."""
    of_bias, of_slope = parts
    made = torch.empty_like(bias), torch.empty_like(slope)
    count, planes = of_bias.shape
    bodies.add_parts[(triton.cdiv(planes, 16),)](
        of_bias, of_slope, *made, count, planes, of_slope.numel(),
        PARTS=min(SUMMED, triton.next_power_of_2(count)), PLANES=16,
    )  # fmt: skip
    return made


def tiles(spans: Sequence[tuple[int, int]], flat: Tensor) -> Tensor:
    """Parts (start, end) of a tensor `flat` as `adam` goes through them: [count,2], beside it. All
    are multiples of `ALIGNED`.
    """
    return torch.tensor(
        [(at, min(at + TILE, end)) for start, end in spans for at in range(start, end, TILE)],
        dtype=torch.int64, device=flat.device,
    ).view(-1, 2)  # fmt: skip


def adam(
    weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rounded: Tensor | None,
    steps: Tensor, rate: Tensor, gate: Tensor | None, penalty: tuple[float, float], bound: float,
    betas: tuple[float, float], eps: float, tiles: Tensor, found: Tensor | None = None,
) -> None:  # fmt: skip
    """One pass of Lua's Adam over the `tiles` of flat float32 tensors of one size, in place: the
    gradient with the penalty l1*sign(w) + l2*w, clamped to +-`bound` (0: not), as step number
    `steps` (float64) at `rate`; with `rounded` the new weights in its type as well. A `gate` of 0
    changes nothing. `found`: slopes of any type, which the gradient is to be, whatever the gate.
    """
    logs = [math.log(beta) if beta else -math.inf for beta in betas]
    bodies.adam[(len(tiles),)](
        weights, gradient, *moments, weights if rounded is None else rounded, steps, rate,
        steps if gate is None else gate, tiles, gradient if found is None else found,
        *penalty, bound, *logs, *betas, *(1 - beta for beta in betas), eps,
        L1=bool(penalty[0]), L2=bool(penalty[1]), CLAMP=bool(bound), GATE=gate is not None,
        ROUND=rounded is not None, FOUND=found is not None, ALIGNED=ALIGNED, TILE=TILE,
    )  # fmt: skip


def judge(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of logits [N] to targets [N], and its slopes [N]; both float32."""
    logits, targets = logits.contiguous(), targets.contiguous()
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
    logits, targets, n = logits.contiguous(), targets.contiguous(), logits.numel()
    bodies.tally[(1,)](
        logits, targets, loss, sums if trained is None else trained, sums, counts, n, certain,
        GATE=trained is not None, SIZE=min(1024, triton.next_power_of_2(n)),
    )  # fmt: skip


def widen(x: Tensor, samples: int, planes: int, dtype: torch.dtype) -> Tensor:
    """x [N,C,H,W] as [samples,planes,H,W] of a type in channels_last, what is new being 0."""
    x = _in_steps(x)
    _, own, height, width = x.shape
    y = torch.empty((samples, planes, height, width), dtype=dtype, device=x.device,
                    memory_format=torch.channels_last)  # fmt: skip
    rows = samples * height * width
    high, wide = _tiles(rows, planes, 1)
    bodies.widen[(triton.cdiv(rows, high), triton.cdiv(planes, wide))](
        x, y, rows, len(x), own, planes, height * width, *_steps(x), ROWS=high, PLANES=wide,
        COUNT=bodies.counted_in(rows),
    )  # fmt: skip
    return y


def fold(
    found: Tensor, bias: Tensor | None, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> Tensor:
    """What the taps of a convolution of stride 1 found in float32, [out*side*side,N*H*W], added up
    where its kernel, as wide as it is high, meets them, and the bias [out]: [N,out,H,W] of a type,
    in channels_last. A tap beyond the border of a picture adds nothing.
    """
    y = torch.empty(shape, dtype=dtype, device=found.device, memory_format=torch.channels_last)
    (_, planes, height, width), (taps, pixels) = shape, found.shape
    folds.fold[(triton.cdiv(pixels, 128), planes)](
        found, y if bias is None else bias, y, pixels, height, width, planes,
        BIAS=bias is not None, SIDE=math.isqrt(taps // planes), TILE=128,
        COUNT=bodies.counted_in(pixels),
    )  # fmt: skip
    return y


def unfold(g: Tensor, side: int) -> Tensor:
    """For each tap of such a convolution and each pixel the slope, of g [N,out,H,W], of what it was
    added to, 0 where that was nothing: [out*side*side,N*H*W] in its type.
    """
    g = _in_steps(g)
    n, planes, height, width = g.shape
    slopes = g.new_empty((planes * side * side, n * height * width))
    pixels = slopes.shape[1]
    folds.unfold[(triton.cdiv(pixels, 512), planes * side)](
        g, slopes, pixels, height, width, *_steps(g), SIDE=side, TILE=512,
        COUNT=bodies.counted_in(pixels),
    )  # fmt: skip
    return slopes


def patches(x: Tensor, side: int, step: int) -> Tensor:
    """What each pixel of the output of a convolution with a kernel of an odd side and strides of
    `step` sees of x [N,C,H,W], 0 beyond its border: [N*h*w,side*side*C] in its type.
    """
    x = _in_steps(x)
    (n, planes, height, width), taps = x.shape, side * side
    high, wide = triton.cdiv(height, step), triton.cdiv(width, step)
    rows = n * high * wide
    y = x.new_empty((rows, taps * planes))
    down, across = _tiles(rows, planes, 1)
    folds.patches[(triton.cdiv(rows, down), triton.cdiv(planes, across), taps)](
        x, y, rows, planes, height, width, high, wide, *_steps(x), SIDE=side, STEP=step,
        ROWS=down, PLANES=across, COUNT=bodies.counted_in(rows),
    )  # fmt: skip
    return y


def unpatched(found: Tensor, shape: Sequence[int], side: int, step: int) -> Tensor:
    """The slopes of the pixels in such patches, `found`, added up: [N,C,H,W] of a `shape`, in its
    type and channels_last. Sums are taken in float32.
    """
    n, planes, height, width = shape
    dx = torch.empty(
        tuple(shape), dtype=found.dtype, device=found.device, memory_format=torch.channels_last
    )
    pixels = n * height * width
    down, across = _tiles(pixels, planes, 4)
    folds.unpatched[(triton.cdiv(pixels, down), triton.cdiv(planes, across))](
        found, dx, pixels, planes, height, width, triton.cdiv(height, step),
        triton.cdiv(width, step), SIDE=side, STEP=step, ROWS=down, PLANES=across,
        COUNT=bodies.counted_in(pixels),
    )  # fmt: skip
    return dx


def head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A Linear to one number in float32: x [N,K] of any type, weight [1,K], bias [1] -> [N,1]."""
    y = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
    bodies.head[(len(x),)](x, weight, bias, y, x.shape[1], SIZE=1024)
    return y


def head_backward(
    g: Tensor, x: Tensor, weight: Tensor, sums: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Slopes of `head`'s x, and with `sums` of weight and bias, from g [N,1]."""
    dx, (n, features) = torch.empty_like(x), x.shape
    dw = torch.empty_like(weight)
    db = torch.empty(1, dtype=torch.float32, device=x.device)
    bodies.head_backward[(triton.cdiv(features, 32),)](
        g, x, weight, dx, dw, db, n, features, SUMS=sums,
        ROWS=min(64, triton.next_power_of_2(n)), SIZE=32,
    )  # fmt: skip
    return (dx, dw, db) if sums else (dx, None, None)


def pictures(images: Tensor, table: Tensor | None, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes [M,C,H,W] -> values in 0..1 [n,C,H,W] of the pictures `rows` [n], or of
    `table[rows]`.
    """
    y, rows = images.new_empty((len(rows), *images.shape[1:]), dtype=dtype), rows.contiguous()
    size = images[0].numel()
    bodies.pictures[(len(rows), triton.cdiv(size, 1024))](
        images, rows if table is None else table, rows, y, size, TABLE=table is not None, TILE=1024
    )
    return y


def pairs(
    images: Tensor, table: Tensor | None, rows: Tensor, matrix: Tensor, coarse: Tensor, diff: Tensor
) -> None:
    """Put (coarse, fine - coarse) of the same pictures into two contiguous tensors [n,C,S,S]:
    coarse is M fine M', for `matrix` M [S,S] in float32. S is at most 64: a program holds a
    picture.
    """
    rows, planes, side = rows.contiguous(), *images.shape[1:3]
    bodies.pairs[(len(rows), planes)](
        images, rows if table is None else table, rows, matrix, coarse, diff, planes, side,
        TABLE=table is not None, SIDE=max(16, triton.next_power_of_2(side)),
    )  # fmt: skip


def multiply(left: Tensor, right: Tensor, made: Tensor) -> None:
    """Put the products of matrices [B,m,k] and [B,k,n], of one type, into `made` [B,m,n], which may
    be float32 where they are bfloat16; sums are taken in float32. cuBLAS's, not Triton's.
    """
    if left.dtype == made.dtype:
        torch.bmm(left, right, out=made)
    else:  # a form that CUDA alone has
        torch.bmm(left, right, out_dtype=made.dtype, out=made)


def place(x: Tensor, rows: int, high: int, wide: int, above: int, copies: int) -> Tensor:
    """Pictures x [N,C,H,W] with zeros around them, as rows of planes: [rows,copies*C].

    Zeros to the right and below make each picture `wide` and `high`; all of them stand in the rows
    from `above` on, in each further copy a row earlier.
    """
    x = _in_steps(x)
    samples, planes, height, width = x.shape
    y = x.new_empty(rows, copies * planes)
    down, across = _tiles(rows, planes, 1)
    wide_bodies.place[(triton.cdiv(rows, down), triton.cdiv(planes, across), copies)](
        x, y, rows, samples, planes, width, height * width, wide, high * wide, above,
        *_steps(x), ROWS=down, PLANES=across, COUNT=bodies.counted_in(rows),
    )  # fmt: skip
    return y


def weight_slopes(x: Tensor, g: Tensor, side: int) -> Tensor:
    """Slopes [out,in,side,side] of the weights of a convolution of stride 1 and an odd side, in
    channels_last: of its input x [N,in,H,W] and the slopes g [N,out,H,W] of its output, as large,
    both of 16 bits a value.
    """
    x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    (n, planes, height, width), out = x.shape, g.shape[1]
    rows, weights = n * height * width, side * side * planes
    high, few = 64 if out <= 64 else 128, weights <= 128
    wide, deep, stages, warps, programs = FEW_WEIGHTS_TILE if few else WEIGHT_TILE
    tiles = triton.cdiv(weights, wide), triton.cdiv(out, high)
    # all at once are as many programs as a device runs; in each, places are counted in 32 bits
    shares = max(programs // (tiles[0] * tiles[1]), 1 + rows * max(planes, out) // 2**30)
    share = triton.cdiv(rows, shares * deep) * deep
    shares = triton.cdiv(rows, share)
    parts = torch.empty((shares, out, weights), dtype=torch.float32, device=x.device)
    wide_bodies.weight_slopes[(*tiles, shares)](
        x, g, parts, rows, share, PLANES=planes, OUT=out, HEIGHT=height, WIDTH=width, SIDE=side,
        HIGH=high, WIDE=wide, DEEP=deep, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    made = torch.empty_like(parts[0], dtype=x.dtype)
    # few weights are cut into many shares, which then fill the device
    at_once, added = (16, 256) if shares <= 16 else (64, 64)
    wide_bodies.add_shares[(triton.cdiv(made.numel(), added),)](
        parts, made, shares, made.numel(), SHARES=at_once, TILE=added
    )
    return made.view(out, side, side, planes).permute(0, 3, 1, 2)


def convolve(x: Tensor, weight: Tensor, back: bool) -> Tensor:
    """x [N,in,H,W] convolved with weight [out,in,side,side], at stride 1 with an odd side and half
    of it as border: [N,out,H,W]; `back`: x [N,out,H,W] are slopes of that, and its input's are
    made, [N,in,H,W]. All of 16 bits a value, in channels_last.
    """
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    (n, inputs, height, width), side = x.shape, weight.shape[2]
    planes = weight.shape[1 if back else 0]
    high, wide, deep, stages, warps = VALUE_TILE
    # two pixels next to each other by a program that few planes would leave half empty
    pair = 2 if width % 2 == 0 and planes <= wide // 2 else 1
    rows, across = n * height * width // pair, pair * planes
    wide, deep = (
        min(a, max(16, triton.next_power_of_2(b))) for a, b in ((wide, across), (deep, inputs))
    )
    y = torch.empty((n, planes, height, width), dtype=x.dtype, device=x.device,
                    memory_format=torch.channels_last)  # fmt: skip
    convolutions.convolve[(triton.cdiv(rows, high), triton.cdiv(across, wide))](
        x, weight, y, rows, IN=inputs, OUT=planes, HEIGHT=height, WIDTH=width, SIDE=side,
        PAIR=pair, BACK=back, HIGH=high, WIDE=wide, DEEP=deep, num_warps=warps,
        num_stages=stages,
    )  # fmt: skip
    return y
