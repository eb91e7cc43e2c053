"""The bodies of `gpu_kernels`, in Triton's language: what each program of a launch does.

Arithmetic is in float32 whatever the tensors' type. Values of a picture lie in rows of planes. Rows
are counted in `COUNT`, 32 bits where those do, as divisions of 64 take long; only places in memory
always need those.
"""

from typing import Any

import triton
import triton.language as tl

# numbers that say nothing about alignment: one compiled body serves all
SIZES = ["rows", "samples", "pixels", "narrow", "width", "per_mask"]

FEW = 1 << 30  # rows that are counted in 32 bits, with what tiles and borders add to them


def counted_in(rows: int) -> Any:
    """`COUNT` of a kernel of so many rows of its input or output, whichever has more."""
    return tl.int32 if rows <= FEW else tl.int64


@triton.jit
def _one(x, places, ok, bias, slope):
    """(value before the activation, activated) of an element each."""
    before = tl.load(x + places, mask=ok, other=0.0).to(tl.float32) + bias
    return before, tl.where(before > 0, before, slope * before)


@triton.jit
def _greater(a, b):
    """Whether max pooling goes over from a to b; NaN wins, as in torch."""
    return (b > a) | (b != b)


@triton.jit
def _upper_left(row, pixels, narrow, width, POOL: tl.constexpr):
    """The row of the input that an output row begins at."""
    if POOL:
        line = row // narrow  # of all samples' lines
        row = line * 2 * width + (row - line * narrow) * 2
    return row.to(tl.int64)


@triton.jit
def _outside(row, pixels, n, p):
    """Where a row lies in a tensor with these strides of samples and pixels."""
    sample = row // pixels
    return sample.to(tl.int64) * n + (row - sample * pixels).to(tl.int64) * p


@triton.jit
def _kept(mask, row, per_mask, planes, plane, ok):
    place = (row // per_mask).to(tl.int64)[:, None] * planes + plane[None, :]
    return tl.load(mask + place, mask=ok, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def activate(
    x, bias, slope, mask, y, rows, planes, pitch, wide, pixels, narrow, width, per_mask,
    y_n, y_p, y_c, scale, POOL: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr,
    PLANES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of output rows and planes."""
    row = tl.program_id(0).to(COUNT) * ROWS + tl.arange(0, ROWS)
    plane = tl.program_id(1) * PLANES + tl.arange(0, PLANES)
    ok = (row < rows)[:, None] & (plane < planes)[None, :]
    b = tl.load(bias + plane, mask=plane < planes, other=0.0).to(tl.float32)[None, :]
    a = tl.load(slope).to(tl.float32)
    place = _upper_left(row, pixels, narrow, width, POOL)[:, None] * pitch + plane[None, :]
    _, value = _one(x, place, ok, b, a)
    if POOL:
        _, right = _one(x, place + pitch, ok, b, a)
        _, below = _one(x, place + width * pitch, ok, b, a)
        _, last = _one(x, place + (width + 1) * pitch, ok, b, a)
        if POOL == 1:
            value = (value + right + below + last) * 0.25
        else:
            value = tl.where(_greater(value, right), right, value)
            value = tl.where(_greater(value, below), below, value)
            value = tl.where(_greater(value, last), last, value)
    if MASK:
        value *= _kept(mask, row, per_mask, planes, plane, ok)
    out = _outside(row, pixels, y_n, y_p)[:, None] + plane[None, :] * y_c
    fits = (row < rows)[:, None] & (plane < wide)[None, :]  # 0 where there are no planes
    tl.store(y + out, (value * scale).to(y.dtype.element_ty), mask=fits)


@triton.jit
def _shares(g, v0, v1, v2, v3, POOL: tl.constexpr):
    """The slopes of four pixels that became one: a quarter each, or all to the largest, the first
    of equal ones.
    """
    if POOL == 1:
        g = g * 0.25
        return g, g, g, g
    over1 = _greater(v0, v1)
    best = tl.where(over1, v1, v0)
    over2 = _greater(best, v2)
    over3 = _greater(tl.where(over2, v2, best), v3)
    g2 = tl.where(over3, 0.0, g)
    g1 = tl.where(over2, 0.0, g2)
    return (
        tl.where(over1, 0.0, g1), tl.where(over1, g1, 0.0),
        tl.where(over2, g2, 0.0), tl.where(over3, g, 0.0),
    )  # fmt: skip


@triton.jit
def _slope_of(g, before, slope, dx, place, ok, fits):
    """Store an element's slope; (it, what it adds to the rectifier's slope)."""
    d = tl.where(before > 0, g, slope * g)
    tl.store(dx + place, d.to(dx.dtype.element_ty), mask=fits)
    return tl.where(ok, d, 0.0), tl.where(ok & (before <= 0), g * before, 0.0)


@triton.jit
def _slopes_of(d, x, dx, place, pitch, line, ok, fits, b, a, POOL: tl.constexpr):
    """The same of the pixel at `place`, or of the four that became one, added up."""
    before, value = _one(x, place, ok, b, a)
    if POOL:
        before1, v1 = _one(x, place + pitch, ok, b, a)
        before2, v2 = _one(x, place + line, ok, b, a)
        before3, v3 = _one(x, place + line + pitch, ok, b, a)
        d, d1, d2, d3 = _shares(d, value, v1, v2, v3, POOL)
        s1, t1 = _slope_of(d1, before1, a, dx, place + pitch, ok, fits)
        s2, t2 = _slope_of(d2, before2, a, dx, place + line, ok, fits)
        s3, t3 = _slope_of(d3, before3, a, dx, place + line + pitch, ok, fits)
    s, t = _slope_of(d, before, a, dx, place, ok, fits)
    if POOL:
        s, t = s + s1 + s2 + s3, t + t1 + t2 + t3
    return s, t


@triton.jit(do_not_specialize=SIZES)
def activate_backward(
    g, x, bias, slope, mask, dx, bias_parts, slope_parts, rows, planes, pitch, pixels, narrow,
    width, per_mask, g_n, g_p, g_c, scale,
    POOL: tl.constexpr, MASK: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, PLANES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Tiles of output rows, one after the other; with SUMS their sums as a part."""
    plane = tl.program_id(1) * PLANES + tl.arange(0, PLANES)
    inside = plane < planes
    b = tl.load(bias + plane, mask=inside, other=0.0).to(tl.float32)[None, :]
    a = tl.load(slope).to(tl.float32)
    bias_sum, slope_sum = tl.zeros([ROWS, PLANES], tl.float32), tl.zeros([ROWS, PLANES], tl.float32)
    first = tl.program_id(0).to(COUNT) * ROWS
    for start in range(first, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        ok = (row < rows)[:, None] & inside[None, :]
        fits = (row < rows)[:, None] & (plane < pitch)[None, :]
        come = _outside(row, pixels, g_n, g_p)[:, None] + plane[None, :] * g_c
        d = tl.load(g + come, mask=ok, other=0.0).to(tl.float32) * scale
        if MASK:
            d *= _kept(mask, row, per_mask, planes, plane, ok)
        place = _upper_left(row, pixels, narrow, width, POOL)[:, None] * pitch + plane[None, :]
        s, t = _slopes_of(d, x, dx, place, pitch, width * pitch, ok, fits, b, a, POOL)
        if SUMS:
            bias_sum += s
            slope_sum += t
    if SUMS:
        part = tl.program_id(0)
        tl.store(bias_parts + part * planes + plane, tl.sum(bias_sum, 0), mask=inside)
        whole = tl.sum(tl.sum(slope_sum, 0), 0)
        tl.store(slope_parts + part * tl.num_programs(1) + tl.program_id(1), whole)


@triton.jit
def add_parts(
    bias_parts, slope_parts, dbias, dslope, parts, planes, slopes,
    PARTS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """The slopes of some biases; the first program also that of the rectifier."""
    plane = tl.program_id(0) * PLANES + tl.arange(0, PLANES)
    inside = plane < planes
    total = tl.zeros([PARTS, PLANES], dtype=tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        ok = (part < parts)[:, None] & inside[None, :]
        total += tl.load(bias_parts + part[:, None] * planes + plane[None, :], mask=ok, other=0.0)
    tl.store(dbias + plane, tl.sum(total, 0).to(dbias.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        whole = tl.zeros([PARTS], dtype=tl.float32)
        for start in range(0, slopes, PARTS):
            one = start + tl.arange(0, PARTS)
            whole += tl.load(slope_parts + one, mask=one < slopes, other=0.0)
        tl.store(dslope, tl.sum(whole, 0).to(dslope.dtype.element_ty))


@triton.jit
def adam(
    w, g, m, v, rounded, steps, rate, gate, tiles, found, l1, l2, bound, log1, log2, keep1, keep2,
    take1, take2, eps, L1: tl.constexpr, L2: tl.constexpr, CLAMP: tl.constexpr,
    GATE: tl.constexpr, ROUND: tl.constexpr, FOUND: tl.constexpr, ALIGNED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """A tile of the flat weights."""
    own = tiles + 2 * tl.program_id(0)
    # without the promise memory would be read element by element
    place = tl.multiple_of(tl.load(own), ALIGNED) + tl.arange(0, TILE)
    end = tl.multiple_of(tl.load(own + 1), ALIGNED)
    ok = place < end
    if FOUND:
        d = tl.load(found + place, mask=ok, other=0.0).to(tl.float32)
        tl.store(g + place, d, mask=ok)
    else:
        d = tl.load(g + place, mask=ok, other=0.0)
    if GATE:
        ok = place < tl.where(tl.load(gate) > 0, end, 0)
    t = tl.load(steps)
    size = tl.load(rate) * tl.sqrt(1 - tl.exp(t * log2)) / (1 - tl.exp(t * log1))
    weight = tl.load(w + place, mask=ok, other=0.0)
    if L1:
        d += l1 * ((weight > 0).to(tl.float32) - (weight < 0).to(tl.float32))
    if L2:
        d += l2 * weight
    if CLAMP:
        # comparisons leave NaN as it is
        d = tl.where(d > bound, bound, tl.where(d < -bound, -bound, d))
    first = keep1 * tl.load(m + place, mask=ok, other=0.0) + take1 * d
    second = keep2 * tl.load(v + place, mask=ok, other=0.0) + take2 * d * d
    weight -= size.to(tl.float32) * (first / (tl.sqrt(second) + eps))
    tl.store(w + place, weight, mask=ok)
    tl.store(m + place, first, mask=ok)
    tl.store(v + place, second, mask=ok)
    if ROUND:
        tl.store(rounded + place, weight.to(rounded.dtype.element_ty), mask=ok)


@triton.jit
def judge(x, targets, loss, slopes, n, SIZE: tl.constexpr):
    """All logits, by one program."""
    total = tl.zeros([SIZE], dtype=tl.float32)
    for start in range(0, n, SIZE):
        place = start + tl.arange(0, SIZE)
        ok = place < n
        logit = tl.load(x + place, mask=ok, other=0.0).to(tl.float32)
        t = tl.load(targets + place, mask=ok, other=0.0).to(tl.float32)
        e = tl.exp(-tl.abs(logit))
        # log(1+e) of a small e would be 0
        soft = tl.maximum(logit, 0.0) + tl.where(e < 1e-3, e * (1 - e / 2), tl.log(1 + e))
        total += tl.where(ok, soft - t * logit, 0.0)
        large, small = 1 / (1 + e), e / (1 + e)
        wrong = tl.where(logit > 0, large, small)  # sigmoid(x), which a 0 would have wanted lower
        missing = tl.where(logit > 0, small, large)  # sigmoid(-x)
        tl.store(slopes + place, ((1 - t) * wrong - t * missing) / n, mask=ok)
    tl.store(loss, tl.sum(total, 0) / n)


@triton.jit
def tally(x, targets, loss, trained, sums, counts, n, certain, GATE: tl.constexpr,
           SIZE: tl.constexpr):  # fmt: skip
    """All answers of a step, by one program."""
    cell = tl.arange(0, 4)
    found = tl.zeros([4], dtype=tl.int64)
    sure = tl.zeros([SIZE], dtype=tl.int64)
    for start in range(0, n, SIZE):
        place = start + tl.arange(0, SIZE)
        ok = place < n
        logit = tl.load(x + place, mask=ok, other=0.0).to(tl.float32)
        real = tl.load(targets + place, mask=ok, other=0.0) > 0.5
        sure += (ok & (tl.abs(logit) > certain)).to(tl.int64)
        mine = 2 * real.to(tl.int32) + (logit > 0).to(tl.int32)
        hits = (mine[:, None] == cell[None, :]) & ok[:, None]
        found += tl.sum(hits.to(tl.int64), 0)
    tl.store(counts + cell, tl.load(counts + cell) + found)
    learned = tl.load(trained) if GATE else 1.0
    tl.store(sums, tl.load(sums) + tl.load(loss))
    tl.store(sums + 2, tl.load(sums + 2) + learned)
    tl.store(sums + 3, tl.load(sums + 3) + tl.sum(sure, 0))


@triton.jit(do_not_specialize=SIZES)
def widen(
    x, y, rows, samples, planes, wide, pixels, x_n, x_p, x_c, ROWS: tl.constexpr,
    PLANES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A tile of output rows and planes."""
    row = tl.program_id(0).to(COUNT) * ROWS + tl.arange(0, ROWS)
    plane = tl.program_id(1) * PLANES + tl.arange(0, PLANES)
    there = (row < samples * pixels)[:, None] & (plane < planes)[None, :]
    place = _outside(row, pixels, x_n, x_p)[:, None] + plane[None, :] * x_c
    value = tl.load(x + place, mask=there, other=0.0)
    fits = (row < rows)[:, None] & (plane < wide)[None, :]
    out = row.to(tl.int64)[:, None] * wide + plane[None, :]
    tl.store(y + out, value.to(y.dtype.element_ty), mask=fits)


@triton.jit
def head(x, w, b, y, features, SIZE: tl.constexpr):
    """One sample."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([SIZE], dtype=tl.float32)
    for start in range(0, features, SIZE):
        k = start + tl.arange(0, SIZE)
        value = tl.load(x + row * features + k, mask=k < features, other=0.0).to(tl.float32)
        total += value * tl.load(w + k, mask=k < features, other=0.0)
    tl.store(y + row, tl.sum(total, 0) + tl.load(b))


@triton.jit
def head_backward(
    g, x, w, dx, dw, db, n, features, SUMS: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr
):
    """Some features of all samples."""
    k = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = k < features
    weight = tl.load(w + k, mask=inside, other=0.0)[None, :]
    of_weight = tl.zeros([ROWS, SIZE], dtype=tl.float32)
    of_bias = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        ok = (row < n)[:, None] & inside[None, :]
        slope = tl.load(g + row, mask=row < n, other=0.0)
        place = row.to(tl.int64)[:, None] * features + k[None, :]
        tl.store(dx + place, (slope[:, None] * weight).to(dx.dtype.element_ty), mask=ok)
        if SUMS:
            value = tl.load(x + place, mask=ok, other=0.0).to(tl.float32)
            of_weight += slope[:, None] * value
            of_bias += slope
    if SUMS:
        tl.store(dw + k, tl.sum(of_weight, 0), mask=inside)
        if tl.program_id(0) == 0:
            tl.store(db, tl.sum(of_bias, 0))


@triton.jit
def pictures(images, table, indices, y, size, TABLE: tl.constexpr, TILE: tl.constexpr):
    """A part of one picture."""
    number = tl.load(indices + tl.program_id(0))
    if TABLE:
        number = tl.load(table + number)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    value = tl.load(images + number * size + place, mask=place < size, other=0).to(tl.float32)
    out = tl.program_id(0).to(tl.int64) * size + place
    tl.store(y + out, tl.div_rn(value, 255.0).to(y.dtype.element_ty), mask=place < size)


@triton.jit
def pairs(
    images, table, indices, matrix, coarse, diff, planes, side, TABLE: tl.constexpr,
    SIDE: tl.constexpr,
):  # fmt: skip
    """One plane of one picture."""
    number = tl.load(indices + tl.program_id(0))
    if TABLE:
        number = tl.load(table + number)
    row, column = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    ok = (row < side) & (column < side)
    place = tl.program_id(1) * side * side + row * side + column
    fine = tl.load(images + number * planes * side * side + place, mask=ok, other=0)
    fine = tl.div_rn(fine.to(tl.float32), 255.0)
    scaled = tl.load(matrix + row * side + column, mask=ok, other=0.0)
    turned = tl.load(matrix + column * side + row, mask=ok, other=0.0)
    blurred = tl.dot(fine, turned, input_precision="ieee")
    blurred = tl.dot(scaled, blurred, input_precision="ieee")
    out = tl.program_id(0).to(tl.int64) * planes * side * side + place
    tl.store(coarse + out, blurred.to(coarse.dtype.element_ty), mask=ok)
    tl.store(diff + out, (fine - blurred).to(diff.dtype.element_ty), mask=ok)
