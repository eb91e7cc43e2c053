"""The bodies of `gpu_kernels` for the slopes of a wide convolution's weights, in Triton's language.

As in `triton_kernels` pictures lie in rows of planes, counted in `COUNT`.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "samples", "width", "pixels", "wide", "above"])
def place(
    x, y, rows, samples, planes, width, pixels, wide, bordered, above, x_n, x_p, x_c,
    ROWS: tl.constexpr, PLANES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of output rows and planes of one copy."""
    row = tl.program_id(0).to(COUNT) * ROWS + tl.arange(0, ROWS)
    plane = tl.program_id(1) * PLANES + tl.arange(0, PLANES)
    copy, copies = tl.program_id(2), tl.num_programs(2)
    place = row + copy - above
    sample = place // bordered
    line = (place - sample * bordered) // wide
    column = place - sample * bordered - line * wide
    pixel = line * width + column
    there = (place >= 0) & (sample < samples) & (column < width) & (line * width < pixels)
    come = (sample.to(tl.int64) * x_n + pixel.to(tl.int64) * x_p)[:, None] + plane[None, :] * x_c
    own = (plane < planes)[None, :]
    value = tl.load(x + come, mask=there[:, None] & own, other=0.0)
    out = (row.to(tl.int64) * copies + copy)[:, None] * planes + plane[None, :]
    tl.store(y + out, value, mask=(row < rows)[:, None] & own)


@triton.jit
def _window(
    x, row, ok, start, below, right, stretch, PLANES: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """What weights see from pixels: [pixels,weights], 0 beyond the border.

    A line of the kernel lies on neighbours, whose planes are one stretch of memory, so that only
    its own line below and its place in the stretch say where a weight reads.
    """
    pixel = start + row
    # a pixel that is none is far below every picture
    line = tl.where(ok, (pixel // WIDTH) % HEIGHT, 4 * HEIGHT + SIDE)[:, None] + below[None, :]
    column = (pixel % WIDTH)[:, None] + right[None, :]
    inside = (line >= 0) & (line < HEIGHT) & (column >= 0) & (column < WIDTH)
    come = row[:, None] * PLANES + (below * (WIDTH * PLANES) + stretch)[None, :]
    return tl.load(x + come, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["rows", "share"])
def weight_slopes(
    x, g, parts, rows, share, PLANES: tl.constexpr, OUT: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, SIDE: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):  # fmt: skip
    """A tile [output planes, weights of one] of the sums over a share of the pixels."""
    weight = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    plane = tl.program_id(1) * HIGH + tl.arange(0, HIGH)
    first = tl.program_id(2).to(tl.int64) * share
    count = tl.minimum(share, rows - first).to(tl.int32)
    below = weight // (SIDE * PLANES)
    right = (weight // PLANES) % SIDE - SIDE // 2
    stretch = weight - below * (SIDE * PLANES) - SIDE // 2 * PLANES
    # a weight that is none is above every picture
    below = tl.where(weight < SIDE * SIDE * PLANES, below - SIDE // 2, -2 * HEIGHT)
    x += first * PLANES
    g += first * OUT
    start = (first % (HEIGHT * WIDTH)).to(tl.int32)
    total = tl.zeros([HIGH, WIDE], dtype=tl.float32)
    for done in range(0, count, DEEP):
        row = done + tl.arange(0, DEEP)
        ok = row < count
        slope = tl.load(
            g + row[:, None] * OUT + plane[None, :], mask=ok[:, None] & (plane < OUT)[None, :],
            other=0.0,
        )  # fmt: skip
        seen = _window(x, row, ok, start, below, right, stretch, PLANES, HEIGHT, WIDTH, SIDE)
        total = tl.dot(tl.trans(slope), seen, total)
    out = (tl.program_id(2) * OUT + plane).to(tl.int64)[:, None] * (SIDE * SIDE * PLANES)
    fits = (plane < OUT)[:, None] & (weight < SIDE * SIDE * PLANES)[None, :]
    tl.store(parts + out + weight[None, :], total, mask=fits)


@triton.jit(do_not_specialize=["shares"])
def add_shares(parts, y, shares, n, SHARES: tl.constexpr, TILE: tl.constexpr):
    """A tile of the sum of all shares [shares,n]."""
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    total = tl.zeros([SHARES, TILE], dtype=tl.float32)
    for start in range(0, shares, SHARES):
        share = start + tl.arange(0, SHARES)
        ok = (share < shares)[:, None] & (place < n)[None, :]
        come = share.to(tl.int64)[:, None] * n + place[None, :]
        total += tl.load(parts + come, mask=ok, other=0.0)
    tl.store(y + place, tl.sum(total, 0).to(y.dtype.element_ty), mask=place < n)
