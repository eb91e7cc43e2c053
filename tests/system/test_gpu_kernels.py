"""Triton's kernels against torch's operators (`tests/kernels_in_torch.py`), on a GPU."""

import pytest
import torch

from eyescream_py.data.pairs import _there_and_back, coarse_images
from tests import kernels_in_torch as expected

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CASES = [  # each is compiled anew: shape, pooling, what is dropped, whether rows come out
    ((3, 5), 0, "none", False), ((16, 2048), 0, "elements", True), ((700, 128), 0, "none", False),
    ((2, 3, 4, 6), 1, "planes", False), ((3, 54, 8, 8), 2, "elements", False),
    ((3, 54, 8, 8), 0, "none", False), ((3, 54, 8, 8), 2, "planes", True),
    ((5, 130, 2, 2), 0, "planes", True), ((64, 128, 16, 16), 1, "none", False),
    ((64, 128, 16, 16), 0, "none", False),
]  # fmt: skip


@pytest.fixture
def kernels():
    from eyescream_py.system import gpu_kernels

    return gpu_kernels


def operands(shape, pool, mask, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(shape, generator=generator, device="cuda")
    if pool == expected.MAXIMUM:
        x = (4 * x).round() / 4  # so that some are equal
    x = x.to(dtype)
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(shape[1], generator=generator, device="cuda").to(dtype)
    slope = torch.tensor([0.3], device="cuda", dtype=dtype)
    halves = [side // (2 if pool else 1) for side in shape[2:]]
    sizes = {"none": None, "planes": shape[:2], "elements": (shape[0], *halves, shape[1])}[mask]
    kept = None
    if sizes:
        kept = torch.empty(sizes, device="cuda", dtype=dtype).bernoulli_(0.5, generator=generator)
    return x, bias, slope, kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_activations_and_their_slopes(kernels, dtype):
    close = {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    for shape, pool, mask, flat in CASES:
        x, bias, slope, kept = operands(shape, pool, mask, dtype)
        exact = [t if t is None else t.double() for t in (x, bias, slope, kept)]
        wide = shape[1] if flat else -(-shape[1] // 8) * 8
        if not flat and len(shape) == 4:
            x, exact[0] = (kernels.widen(t, len(t), wide, t.dtype) for t in (x, exact[0]))
        y = kernels.activate(x, bias, slope, kept, 1.5, pool, flat, wide)
        truth = expected.activate(*exact, 1.5, pool, flat, wide)
        torch.testing.assert_close(y.double(), truth, **close)
        rows = flat or len(shape) == 2
        layout = torch.contiguous_format if rows else torch.channels_last
        assert y.is_contiguous(memory_format=layout)
        g = torch.randn(y.shape, device="cuda").to(dtype)
        dx, parts = kernels.activate_backward(g, x, bias, slope, kept, 1.5, pool, True)
        again, _ = kernels.activate_backward(g, x, bias, slope, kept, 1.5, pool, False)
        assert torch.equal(dx, again)
        truth, sums = expected.activate_backward(g.double(), *exact, 1.5, pool, True)
        torch.testing.assert_close(dx.double(), truth, **close)
        for found, whole in zip(kernels.add_parts(parts, bias, slope), sums, strict=True):
            assert found.shape == whole.shape
            scale = float(whole.abs().max()) + g.numel() ** 0.5
            assert float((found.double() - whole).abs().max()) < 2 * close["rtol"] * scale


def test_sums_are_the_same_each_time(kernels):
    x, bias, slope, _ = operands((512, 128, 16, 16), 1, "none", torch.bfloat16)
    g = torch.randn(512, 128, 8, 8, device="cuda").bfloat16()
    found = []
    for _ in range(5):
        _, parts = kernels.activate_backward(g, x, bias, slope, None, 1.0, 1, True)
        found.append(torch.cat(kernels.add_parts(parts, bias, slope)))
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("gate", [None, 1.0, 0.0])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_adam(kernels, gate, betas):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(100_001, generator=generator)
    start = [weights, torch.zeros_like(weights), torch.zeros_like(weights)]
    ours, theirs = ([t.cuda() for t in start], [t.double() for t in start])
    rounded = ours[0].bfloat16()
    before = rounded.clone()
    rate, steps = torch.tensor(1e-3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    opened = None if gate is None else torch.tensor(gate, dtype=torch.float64)
    for _ in range(5):
        g = 3 * torch.randn(weights.shape, generator=generator)
        steps += 1 if gate is None else gate
        rest = (1e-2, 0.1), 1.0, betas, 1e-8
        kernels.adam(
            ours[0], g.cuda(), (ours[1], ours[2]), rounded, steps.cuda(), rate.cuda(),
            None if opened is None else opened.cuda(), *rest,
        )  # fmt: skip
        expected.adam(theirs[0], g.double(), (theirs[1], theirs[2]), None, steps, rate, opened,
                      *rest)  # fmt: skip
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-6, atol=1e-6)
    assert torch.equal(rounded, before if gate == 0 else ours[0].bfloat16())


@pytest.mark.parametrize("n", [1, 7, 64, 3000])
def test_losses_and_counts_of_logits(kernels, n):
    generator = torch.Generator().manual_seed(n)
    logits = 12 * torch.randn(n, generator=generator)
    logits[: min(n, 6)] = torch.tensor([50.0, -50, 20, -20, 7, -7])[: min(n, 6)]
    targets = (torch.rand(n, generator=generator) < 0.5).float() * 0.9
    loss, slopes = kernels.judge(logits.cuda(), targets.cuda())
    true_loss, true_slopes = expected.judge(logits.double(), targets.double())
    torch.testing.assert_close(loss.cpu().double(), true_loss, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(slopes.cpu().double(), true_slopes, rtol=1e-4, atol=1e-12)
    for trained in (None, torch.tensor(0.0, dtype=torch.float64)):
        found = []
        for module, device in ((kernels, "cuda"), (expected, "cpu")):
            sums = torch.ones(4, dtype=torch.float64, device=device)
            counts = torch.ones(4, dtype=torch.int64, device=device)
            gate = trained if trained is None else trained.to(device)
            of = (logits.to(device), targets.to(device), loss.to(device), gate)
            module.tally(*of, sums, counts, 13.8155)
            found.append((sums.cpu(), counts.cpu()))
        assert torch.allclose(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
    strided = [torch.stack([t, t], 1).cuda()[:, 0] for t in (logits, targets)]
    assert torch.equal(kernels.judge(*strided)[1].cpu(), slopes.cpu())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_planes_are_filled_up(kernels, layout):
    for shape, samples, planes in (((3, 1, 4, 6), 3, 8), ((54, 30, 5, 5), 56, 32),
                                   ((2, 3, 16, 16), 2, 8)):  # fmt: skip
        x = torch.randn(shape, device="cuda").contiguous(memory_format=layout)
        y = kernels.widen(x, samples, planes, torch.bfloat16)
        truth = expected.widen(x, samples, planes, torch.bfloat16)
        assert torch.equal(y, truth)
        assert y.is_contiguous(memory_format=torch.channels_last)
        cut = x[:, :, 1:, 1:]  # whose pixels lie at no equal distances
        assert torch.equal(
            kernels.widen(cut, samples, planes, x.dtype),
            expected.widen(cut, samples, planes, x.dtype),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "features"), [(16, 1152), (5, 513), (600, 3072)])
def test_the_last_linear(kernels, n, features, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(n, features, generator=generator, device="cuda").to(dtype)
    weight = torch.randn(1, features, generator=generator, device="cuda")
    bias, g = weight[0, :1].clone(), torch.randn(n, 1, generator=generator, device="cuda")
    close = {"rtol": 1e-4, "atol": 1e-3}
    exact = [t.double() for t in (x, weight, bias)]
    torch.testing.assert_close(kernels.head(x, weight, bias).double(), expected.head(*exact),
                               **close)  # fmt: skip
    found = kernels.head_backward(g, x, weight, True)
    truth = expected.head_backward(g.double(), exact[0], exact[1], True)
    for a, b in zip(found[1:], truth[1:], strict=True):
        torch.testing.assert_close(a.double(), b, **close)
    assert torch.equal(found[0], (g * weight).to(dtype))
    dx, *none = kernels.head_backward(g, x, weight, False)
    assert torch.equal(dx, found[0])
    assert none == [None, None]


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(("channels", "side", "coarse"), [(1, 32, 16), (3, 24, 8), (3, 64, 32)])
def test_pictures_and_pairs(kernels, channels, side, coarse, table):
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (50, channels, side, side)
    images = torch.randint(0, 256, shape, generator=generator, device="cuda", dtype=torch.uint8)
    numbers = torch.randperm(50, generator=generator, device="cuda")[:20] if table else None
    rows = torch.randint(0, 20, (33,), generator=generator, device="cuda")
    found = kernels.pictures(images, numbers, rows, torch.float32)
    # on the CPU: torch on CUDA multiplies by the rounded 1/255
    truth = (images[rows if numbers is None else numbers[rows]].cpu().float() / 255).cuda()
    assert torch.equal(found, truth)
    matrix = _there_and_back(side, coarse, images.device)
    made = kernels.pairs(images, numbers, rows, matrix, torch.float32)
    own = coarse_images(truth, coarse)
    for a, b in zip(made, (own, truth - own), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
