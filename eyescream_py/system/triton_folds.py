"""The bodies of `fold`, `unfold`, `patches` and `unpatched` of `gpu_kernels`, in Triton's language:
what each program of a launch does. Arithmetic is in float32 whatever the tensors' type, and pixels
are counted in `COUNT`, as in `triton_kernels`.
"""

import triton
import triton.language as tl

# numbers that say nothing about alignment: one compiled body serves all
SIZES = ["height", "width"]


@triton.jit
def _places(pixel, height, width):
    """(line, column) of pixels that are counted through all pictures."""
    above = pixel // width
    return above % height, pixel % width


@triton.jit(do_not_specialize=SIZES)
def fold(
    found, bias, y, pixels, height, width, planes, BIAS: tl.constexpr, SIDE: tl.constexpr,
    TILE: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of pixels of one plane: the sum of what its taps found, in their order."""
    pixel, plane = tl.program_id(0).to(COUNT) * TILE + tl.arange(0, TILE), tl.program_id(1)
    line, column = _places(pixel, height, width)
    total = tl.zeros([TILE], tl.float32)
    if BIAS:
        total += tl.load(bias + plane).to(tl.float32)
    place = found + plane.to(tl.int64) * SIDE * SIDE * pixels
    for dy in tl.static_range(SIDE):
        for dx in tl.static_range(SIDE):
            down, right = dy - SIDE // 2, dx - SIDE // 2
            inside = (line + down >= 0) & (line + down < height) & (pixel < pixels)
            inside = inside & (column + right >= 0) & (column + right < width)
            near = pixel + down * width + right
            total += tl.load(place + near, mask=inside, other=0.0)
            place += pixels
    out = pixel.to(tl.int64) * planes + plane
    tl.store(y + out, total.to(y.dtype.element_ty), mask=pixel < pixels)


@triton.jit(do_not_specialize=SIZES)
def unfold(
    g, slopes, pixels, height, width, g_n, g_p, g_c, SIDE: tl.constexpr, TILE: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of pixels, under one row of the kernel for one plane: the slopes of what they went
    into.
    """
    pixel = tl.program_id(0).to(COUNT) * TILE + tl.arange(0, TILE)
    plane, dy = tl.program_id(1) // SIDE, tl.program_id(1) % SIDE
    line, column = _places(pixel, height, width)
    line -= dy - SIDE // 2
    down = (line >= 0) & (line < height) & (pixel < pixels)
    sample = (pixel // width // height).to(tl.int64)
    from_ = g + sample * g_n + plane * g_c
    place = slopes + (plane * SIDE + dy).to(tl.int64) * SIDE * pixels + pixel
    for dx in tl.static_range(SIDE):
        at = column - (dx - SIDE // 2)
        inside = down & (at >= 0) & (at < width)
        value = tl.load(from_ + (line * width + at) * g_p, mask=inside, other=0.0)
        tl.store(place, value, mask=pixel < pixels)
        place += pixels


@triton.jit(do_not_specialize=["rows", "height", "width", "high", "wide"])
def patches(
    x, y, rows, planes, height, width, high, wide, x_n, x_p, x_c, SIDE: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, PLANES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of output pixels and of planes, of one tap: what is seen of x."""
    row = tl.program_id(0).to(COUNT) * ROWS + tl.arange(0, ROWS)
    plane = tl.program_id(1) * PLANES + tl.arange(0, PLANES)
    tap = tl.program_id(2)
    line, column = _places(row, high, wide)
    line = line * STEP + tap // SIDE - SIDE // 2
    column = column * STEP + tap % SIDE - SIDE // 2
    there = (line >= 0) & (line < height) & (column >= 0) & (column < width) & (row < rows)
    sample, own = (row // wide // high).to(tl.int64), (plane < planes)[None, :]
    come = (sample * x_n + (line * width + column) * x_p)[:, None] + plane[None, :] * x_c
    value = tl.load(x + come, mask=there[:, None] & own, other=0.0)
    out = (row.to(tl.int64) * (SIDE * SIDE) + tap)[:, None] * planes + plane[None, :]
    tl.store(y + out, value, mask=(row < rows)[:, None] & own)


@triton.jit(do_not_specialize=["pixels", "height", "width", "high", "wide"])
def unpatched(
    found, dx, pixels, planes, height, width, high, wide, SIDE: tl.constexpr, STEP: tl.constexpr,
    ROWS: tl.constexpr, PLANES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of pixels of x and of planes: the sum over all taps that see them, in their order."""
    pixel = tl.program_id(0).to(COUNT) * ROWS + tl.arange(0, ROWS)
    plane = tl.program_id(1) * PLANES + tl.arange(0, PLANES)
    line, column = _places(pixel, height, width)
    own = (plane < planes)[None, :]
    # of the output's pixels by those of the lines above, all pictures' included
    above = (pixel // width // height).to(tl.int64) * high
    total = tl.zeros([ROWS, PLANES], tl.float32)
    for tap in tl.static_range(SIDE * SIDE):
        down, right = line + SIDE // 2 - tap // SIDE, column + SIDE // 2 - tap % SIDE
        seen = (down >= 0) & (down % STEP == 0) & (down // STEP < high) & (pixel < pixels)
        seen = seen & (right >= 0) & (right % STEP == 0) & (right // STEP < wide)
        row = (above + down // STEP) * wide + right // STEP
        come = (row * (SIDE * SIDE) + tap)[:, None] * planes + plane[None, :]
        total += tl.load(found + come, mask=seen[:, None] & own, other=0.0).to(tl.float32)
    out = pixel.to(tl.int64)[:, None] * planes + plane[None, :]
    tl.store(dx + out, total.to(dx.dtype.element_ty), mask=(pixel < pixels)[:, None] & own)
