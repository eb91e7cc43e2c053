"""Comparisons of `gpu_kernels` with torch's operators in double precision on the processor: those
of a run that is about to take them (`fusing`), and with many more shapes those of the tests.

Every check takes the kernels and their device, raises `WrongResultError` where they do not agree,
and draws from a generator of its own, so that no other one notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyescream_py.system import kernels_in_torch

expected: Any = kernels_in_torch  # called as the kernels are
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}  # rtol and atol of activations by their type
CERTAIN = 13.8


class WrongResultError(Exception):
    """A kernel's result is not what torch's operators make of the same numbers."""


@dataclass(frozen=True)
class Activation:
    """`activate` on x of `shape` [N,C] or [N,C,H,W], pooled; `mask` is "none", "planes" or
    "elements"; `flat`: rows come out; `planes_first`: of the slopes that come back.
    """

    shape: tuple[int, ...]
    pool: int = expected.NO_POOL
    mask: str = "none"
    flat: bool = False
    planes_first: bool = False


def near(found: Tensor, truth: Tensor, rtol: float, atol: float | Tensor) -> None:
    """Raise WrongResultError unless shapes are equal and all values close; NaN is close to none."""
    found, truth = found.detach().cpu().double(), truth.double()
    if found.shape != truth.shape:
        raise WrongResultError(f"shape {tuple(found.shape)} in place of {tuple(truth.shape)}")
    far = ~((found - truth).abs() <= atol + rtol * truth.abs())
    if far.any():
        raise WrongResultError(f"{int(far.sum())} of {far.numel()} values are wrong")


def equal(found: Tensor, truth: Tensor) -> None:
    """Raise WrongResultError unless both have the same values."""
    near(found, truth.cpu(), 0, 0)


def _laid(tensor: Tensor, layout: torch.memory_format) -> None:
    if not tensor.is_contiguous(memory_format=layout):
        raise WrongResultError(f"strides {tensor.stride()}")


def _spoil(shape: tuple[int, ...], like: Tensor) -> None:
    """Leave memory for such a tensor, which a kernel is to fill, without a number in it."""
    like.new_full(shape, float("nan"))


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def operands(case: Activation, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x, bias, slope, mask of a case, on the processor."""
    generator, shape = _seeded(), case.shape
    x = torch.randn(shape, generator=generator)
    if case.pool == expected.MAXIMUM:
        x = (4 * x).round() / 4  # so that some are equal
    x = x.to(dtype)
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(shape[1], generator=generator).to(dtype)
    slope = torch.tensor([0.3], dtype=dtype)
    halves = [side // (2 if case.pool else 1) for side in shape[2:]]
    sizes = {"none": (), "planes": shape[:2], "elements": (shape[0], *halves, shape[1])}[case.mask]
    mask = torch.empty(sizes, dtype=dtype).bernoulli_(0.5, generator=generator) if sizes else None
    return x, bias, slope, mask


def activation(kernels: Any, device: torch.device, dtype: torch.dtype, case: Activation) -> None:
    """`activate`, `activate_backward` and `add_parts`; of [N,C,H,W] `widen`, too."""
    x, bias, slope, mask = operands(case, dtype)
    exact = [x.double(), bias.double(), slope.double(), None if mask is None else mask.double()]
    x, bias, slope = x.to(device), bias.to(device), slope.to(device)
    mask = None if mask is None else mask.to(device)
    rows, wide = case.flat or x.dim() == 2, case.shape[1]
    if not rows:  # planes that a convolution computes beyond its own
        wide = -(-wide // 8) * 8
        x = kernels.widen(x, len(x), wide, dtype)
        exact[0] = expected.widen(exact[0], len(x), wide, torch.float64)
    close, how = CLOSE[dtype], (1.5, case.pool)
    _spoil((len(x), wide, *(side // (2 if case.pool else 1) for side in x.shape[2:])), x)
    y = kernels.activate(x, bias, slope, mask, *how, case.flat, wide)
    near(y, expected.activate(*exact, *how, case.flat, wide), close, close)
    layout = torch.contiguous_format if rows else torch.channels_last
    _laid(y, layout)
    g = torch.randn(y.shape, generator=_seeded(1)).to(dtype)
    of_y = g.to(device).contiguous(
        memory_format=torch.contiguous_format if case.planes_first else layout
    )
    _spoil(tuple(x.shape), x)
    dx, parts = kernels.activate_backward(of_y, x, bias, slope, mask, *how, True)
    truth, sums = expected.activate_backward(g.double(), *exact, *how, True)
    near(dx, truth, close, close)
    sums = expected.add_parts(sums, *exact[1:3])
    for found, whole in zip(kernels.add_parts(parts, bias, slope), sums, strict=True):
        near(found, whole, 0, 2 * close * (float(whole.abs().max()) + g.numel() ** 0.5))
    equal(kernels.activate_backward(of_y, x, bias, slope, mask, *how, False)[0], dx)


def adam(
    kernels: Any, device: torch.device, size: int, gate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999), penalty: tuple[float, float] = (1e-2, 0.1),
    bound: float = 1.0, rounds: bool = True,
) -> None:  # fmt: skip
    """Five steps on so many weights, a multiple of 64, with rounded copies or without: of a part at
    the beginning by slopes of its own, and of the rest but a part between.
    """
    generator = _seeded()
    weights = torch.randn(size, generator=generator)
    start = [weights, torch.zeros_like(weights), torch.zeros_like(weights)]
    ours, theirs = [t.to(device, copy=True) for t in start], [t.double() for t in start]
    rounded = ours[0].bfloat16() if rounds else None
    rate, steps = torch.tensor(1e-3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    opened = None if gate is None else torch.tensor(gate, dtype=torch.float64)
    early = size // 256 * 64
    parts = [(0, early), (2 * early, size)] if early else [(0, size)]
    for _ in range(5):
        g = 3 * torch.randn(weights.shape, generator=generator)
        steps += 1 if gate is None else gate
        found = g.to(torch.bfloat16 if rounds else torch.float32)
        g[:early] = found[:early]
        rest, slopes = (penalty, bound, betas, 1e-8), g.to(device, copy=True)
        slopes[:early] = 0
        for part in parts:
            given = found.to(device) if part[1] == early else None
            tiles = kernels.tiles([part], slopes)
            kernels.adam(
                ours[0], slopes, (ours[1], ours[2]), rounded, steps.to(device), rate.to(device),
                None if opened is None else opened.to(device), *rest, tiles, given,
            )  # fmt: skip
        equal(slopes, g.to(device))
        exact = theirs[0], g.double(), (theirs[1], theirs[2])
        expected.adam(*exact, None, steps, rate, opened, *rest, expected.tiles(parts, g))
    for a, b in zip(ours, theirs, strict=True):
        near(a, b, 1e-6, 1e-6)
    if rounded is not None:
        equal(rounded, ours[0].bfloat16())
    equal(ours[0][early : 2 * early], weights[early : 2 * early])


def answers(kernels: Any, device: torch.device, n: int) -> None:
    """`judge` and `tally` of n logits, some of them extreme, and of n that are right."""
    generator = _seeded(n)
    logits = 12 * torch.randn(n, generator=generator)
    logits[: min(n, 6)] = torch.tensor([50.0, -50, 20, -20, 7, -7])[: min(n, 6)]
    targets = (torch.rand(n, generator=generator) < 0.5).float() * 0.9
    loss, slopes = kernels.judge(logits.to(device), targets.to(device))
    true_loss, true_slopes = expected.judge(logits.double(), targets.double())
    near(loss, true_loss, 1e-5, 1e-9)
    # of its two terms, of which little may be left
    away = torch.sigmoid(logits.double()).lerp(torch.sigmoid(-logits.double()), targets.double())
    away = 1e-4 * away / n + 1e-12
    near(slopes, true_slopes, 0, away)
    for side in (0.0, 1.0):
        right, sides = (16 + logits.abs()) * (2 * side - 1), torch.full_like(targets, side)
        truth, true = expected.judge(right.double(), sides.double())
        loss_of_right, small = kernels.judge(right.to(device), sides.to(device))
        # softplus(x) - x leaves no digits of the loss of large ones
        near(loss_of_right, truth, 1e-4, 1e-5 * side)
        near(small, true, 1e-4, 0)
    for trained in (None, torch.tensor(0.0, dtype=torch.float64)):
        found = []
        for module, place in ((kernels, device), (expected, torch.device("cpu"))):
            sums = torch.ones(4, dtype=torch.float64, device=place)
            counts = torch.ones(4, dtype=torch.int64, device=place)
            gate = None if trained is None else trained.to(place)
            given = (logits.to(place), targets.to(place), loss.to(place), gate)
            module.tally(*given, sums, counts, CERTAIN)
            found.append((sums, counts))
        near(found[0][0], found[1][0], 1e-5, 1e-8)
        equal(found[0][1], found[1][1])
    strided = [torch.stack([t, t], 1).to(device)[:, 0] for t in (logits, targets)]
    near(kernels.judge(*strided)[1], true_slopes, 0, away)


def filling(
    kernels: Any, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], samples: int,
    planes: int, layout: torch.memory_format = torch.contiguous_format,
) -> None:  # fmt: skip
    """`widen` from float32, and of a part whose pixels lie at no equal distances."""
    x = torch.randn(shape, generator=_seeded()).contiguous(memory_format=layout)
    y = kernels.widen(x.to(device), samples, planes, dtype)
    equal(y, expected.widen(x, samples, planes, dtype))
    _laid(y, torch.channels_last)
    cut = x[:, :, 1:, 1:]
    found = kernels.widen(x.to(device)[:, :, 1:, 1:], samples, planes, x.dtype)
    equal(found, expected.widen(cut, samples, planes, x.dtype))


def last_linear(
    kernels: Any, device: torch.device, dtype: torch.dtype, n: int, features: int
) -> None:
    """`head` and `head_backward` of x [n,features]."""
    generator = _seeded()
    x = torch.randn(n, features, generator=generator).to(dtype)
    weight = torch.randn(1, features, generator=generator)
    bias, g = weight[0, :1].clone(), torch.randn(n, 1, generator=generator)
    exact = [t.double() for t in (x, weight, bias)]
    on_device = [t.to(device) for t in (x, weight, bias)]
    near(kernels.head(*on_device), expected.head(*exact), 1e-4, 1e-3)
    dx, *found = kernels.head_backward(g.to(device), *on_device[:2], True)
    _, *truth = expected.head_backward(g.double(), exact[0], exact[1], True)
    for a, b in zip(found, truth, strict=True):
        near(a, b, 1e-4, 1e-3)
    equal(dx, (g * weight).to(dtype))
    again, *none = kernels.head_backward(g.to(device), *on_device[:2], False)
    equal(again, dx)
    if none != [None, None]:
        raise WrongResultError("slopes that nobody asked for")


def stored_pictures(
    kernels: Any, device: torch.device, shape: tuple[int, ...], table: bool, with_pairs: bool,
    matrix: Tensor | None = None,
) -> None:  # fmt: skip
    """`pictures` of bytes of `shape` [M,C,S,S], and `pairs` by `matrix` [S,S], whose rows add up to
    1; None: one by chance.
    """
    generator, count = _seeded(), shape[0]
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    numbers = torch.randperm(count, generator=generator)[: count // 2] if table else None
    rows = torch.randint(0, count // 2, (33,), generator=generator)
    given = [None if t is None else t.to(device) for t in (images, numbers, rows)]
    equal(
        kernels.pictures(*given, torch.float32),
        expected.pictures(images, numbers, rows, torch.float32),
    )
    if not with_pairs:
        return
    if matrix is None:
        matrix = torch.rand(shape[-1], shape[-1], generator=generator)
        matrix /= matrix.sum(1, keepdim=True)
    shape = (len(rows), *shape[1:])
    made = [torch.full(shape, 9.0, device=device) for _ in range(2)]
    truth = [torch.empty(shape, dtype=torch.float64) for _ in range(2)]
    kernels.pairs(*given, matrix.to(device), *made)
    expected.pairs(images, numbers, rows, matrix, *truth)
    for a, b in zip(made, truth, strict=True):
        near(a, b, 0, 1e-6)


def folding(
    kernels: Any, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int, int],
    side: int,
) -> None:  # fmt: skip
    """`fold` to pictures of `shape` under kernels of a side, and `unfold` of slopes in two layouts,
    of which one is cut out of more planes.
    """
    generator, (n, planes, height, width), close = _seeded(), shape, CLOSE[dtype]
    found = torch.randn(planes * side**2, n * height * width, generator=generator)
    bias = torch.randn(planes, generator=generator).to(dtype)
    for added in (bias, None):
        of_device, exact = (None, None) if added is None else (added.to(device), added.double())
        y = kernels.fold(found.to(device), of_device, shape, dtype)
        near(y, expected.fold(found.double(), exact, shape, torch.float64), close, close)
        _laid(y, torch.channels_last)
    g = torch.randn(n, 8, height, width, generator=generator).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        of_y = g.to(device, memory_format=layout)[:, :planes]
        equal(kernels.unfold(of_y, side), expected.unfold(g[:, :planes], side))


def patching(
    kernels: Any, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int, int],
    side: int, step: int,
) -> None:  # fmt: skip
    """`patches` of x of a `shape` in two layouts, and `unpatched` of their slopes."""
    generator, close = _seeded(), CLOSE[dtype]
    x = torch.randn(shape, generator=generator).to(dtype)
    rows = expected.patches(x, side, step)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.to(device, memory_format=layout)
        equal(kernels.patches(given, side, step), rows)
    found = torch.randn(rows.shape, generator=generator).to(dtype)
    dx = kernels.unpatched(found.to(device), shape, side, step)
    near(dx, expected.unpatched(found.double(), shape, side, step), close, close)
    _laid(dx, torch.channels_last)


def products(kernels: Any, device: torch.device, dtype: torch.dtype) -> None:
    """`multiply` of matrices that lie as those of `networks.wide_slopes` and `few_planes` do."""
    generator, shares, rows, out, width = _seeded(), 32, 40, 16, 56
    slopes = torch.randn(shares * rows, out, generator=generator).to(dtype)
    pictures = torch.randn(shares * rows + 24, width, generator=generator).to(dtype)

    def laid(at: torch.device, full: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        g, x = slopes.to(at, full), pictures.to(at, full)
        inside = x[:-24]
        return [
            (g.view(shares, rows, out).transpose(1, 2), x[24:].view(shares, rows, width)),
            (x[None, :25], inside.t()[None]),
            (g.view(out, shares, rows).transpose(0, 1), inside.view(shares, rows, width)),
        ]

    exact = laid(torch.device("cpu"), torch.float64)
    for given, (left, right) in zip(laid(device, dtype), exact, strict=True):
        truth = left.new_empty(len(left), left.shape[1], right.shape[2])
        found = torch.full((2, *truth.shape), 9.0, device=device)
        kernels.multiply(*given, found[1])
        expected.multiply(left, right, truth)
        # float32's factors may be rounded to 10 bits (TF32), those of bfloat16 are as they are
        near(found[1], truth, 0, 5e-2 if dtype == torch.float32 else 1e-3)
        equal(found[0], torch.full_like(truth, 9.0))


def placing(
    kernels: Any, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...],
    layout: torch.memory_format = torch.channels_last,
) -> None:  # fmt: skip
    """`place` of pictures, and of a part whose pixels lie at no equal distances."""
    x = torch.randn(shape, generator=_seeded()).to(dtype).contiguous(memory_format=layout)
    (n, _, height, width), on_device = shape, x.to(device)
    high, wide = height + 3, width + 3
    for rows, *rest in ((n * high * wide + 50, 3 * wide + 3, 7), (n * high * wide, 0, 1)):
        given = rows, high, wide, *rest
        equal(kernels.place(on_device, *given), expected.place(x, *given))
        found = kernels.place(on_device[:, :, 1:, 1:], *given)
        equal(found, expected.place(x[:, :, 1:, 1:], *given))


def of_wide_weights(
    kernels: Any, device: torch.device, shape: tuple[int, ...], planes: int, side: int
) -> None:
    """`weight_slopes` of x of a shape, in bfloat16, and a convolution to so many planes."""
    generator = _seeded()
    x, g = (
        torch.randn((shape[0], p, *shape[2:]), generator=generator).bfloat16()
        for p in (shape[1], planes)
    )
    truth = expected.weight_slopes(x.double(), g.double(), side)
    found = kernels.weight_slopes(x.to(device), g.to(device), side)
    near(found, truth, 0, 5e-3 * float(truth.abs().max()))  # only the sum is rounded
    _laid(found, torch.channels_last)
    equal(kernels.weight_slopes(x.to(device), g.to(device), side), found)


def convolving(
    kernels: Any, device: torch.device, shape: tuple[int, ...], planes: int, side: int
) -> None:
    """`convolve` of x of a shape, in bfloat16, to so many planes, and of slopes back."""
    generator, (n, inputs, *pixels) = _seeded(), shape
    weight = torch.randn((planes, inputs, side, side), generator=generator).bfloat16() / 8
    for back, count in ((False, inputs), (True, planes)):
        x = torch.randn((n, count, *pixels), generator=generator).bfloat16()
        truth = expected.convolve(x.double(), weight.double(), back)
        given = x.to(device), weight.to(device), back
        found = kernels.convolve(*given)
        near(found, truth, 0, 5e-3 * float(truth.abs().max()))  # only the sum is rounded
        _laid(found, torch.channels_last)
        equal(kernels.convolve(*given), found)
