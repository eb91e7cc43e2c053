"""The body of `gpu_kernels` for the values of a wide convolution, in Triton's language.

As in `triton_kernels` pictures lie in rows of planes.
"""

import triton
import triton.language as tl


@triton.jit
def _seen(
    x, row, line, column, below, right, depth, IN: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, PAIR: tl.constexpr,
):  # fmt: skip
    """The neighbours [rows,depth] of pixels, so many lines below and columns right of each; 0
    beyond the border.
    """
    line, column = line + below, column + right
    inside = (line >= 0) & (line < HEIGHT) & (column >= 0) & (column < WIDTH)
    come = (row * (PAIR * IN))[:, None] + ((below * WIDTH + right) * IN + depth)[None, :]
    return tl.load(x + come, mask=inside[:, None] & (depth < IN)[None, :], other=0.0)


@triton.jit
def _weights(
    weight, dy, dx, across, depth, IN: tl.constexpr, OUT: tl.constexpr, SIDE: tl.constexpr,
    PAIR: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """What the planes of a pixel, or of two next to each other, have for a place: [depth,across].

    The second one's kernel lies a column to the right of the first one's.
    """
    dx = dx - across // OUT
    there = (across < PAIR * OUT) & (dx >= 0) & (dx < SIDE)
    plane = across % OUT
    if BACK:
        tap = SIDE * SIDE - 1 - dy * SIDE - dx
        come = (depth * (SIDE * SIDE * OUT))[:, None] + (tap * OUT + plane)[None, :]
        return tl.load(weight + come, mask=(depth < IN)[:, None] & there[None, :], other=0.0)
    come = (plane * (SIDE * SIDE * IN) + (dy * SIDE + dx) * IN)[:, None] + depth[None, :]
    found = tl.load(weight + come, mask=there[:, None] & (depth < IN)[None, :], other=0.0)
    return tl.trans(found)


@triton.jit(do_not_specialize=["rows"])
def convolve(
    x, weight, y, rows, IN: tl.constexpr, OUT: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, SIDE: tl.constexpr, PAIR: tl.constexpr, BACK: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """A tile [pixels or pairs of them,planes] of the output.

    A pair sees a column more than a pixel, of which each of its two makes nothing; for that a tile
    of few planes is twice as wide, and what is read for it less.
    """
    across = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    first = tl.program_id(0).to(tl.int64) * HIGH
    row = tl.arange(0, HIGH)
    ok = row < rows - first
    pixel = (first * PAIR % (HEIGHT * WIDTH)).to(tl.int32) + row * PAIR
    # a pixel that is none is far below every picture
    line = tl.where(ok, pixel // WIDTH % HEIGHT, 4 * HEIGHT + SIDE)
    column = pixel % WIDTH
    x += first * (PAIR * IN)
    chunks: tl.constexpr = (IN + DEEP - 1) // DEEP
    columns: tl.constexpr = SIDE + PAIR - 1
    total = tl.zeros([HIGH, WIDE], dtype=tl.float32)
    for step in range(SIDE * columns * chunks):
        place = step // chunks
        dy, dx = place // columns, place % columns
        depth = step % chunks * DEEP + tl.arange(0, DEEP)
        seen = _seen(
            x, row, line, column, dy - SIDE // 2, dx - SIDE // 2, depth, IN, HEIGHT, WIDTH, PAIR
        )
        own = _weights(weight, dy, dx, across, depth, IN, OUT, SIDE, PAIR, BACK)
        total = tl.dot(seen, own, total)
    out = (first + row)[:, None] * (PAIR * OUT) + across[None, :]
    fits = ok[:, None] & (across < PAIR * OUT)[None, :]
    tl.store(y + out, total.to(y.dtype.element_ty), mask=fits)
