"""Triton's kernels against torch's operators (`system.kernels_in_torch`), on a GPU: the checks that
a run makes before it takes them, with shapes of all sorts.
"""

import pytest
import torch

from eyescream_py.data.pairs import _there_and_back, coarse_images
from eyescream_py.system import kernel_checks as checks
from eyescream_py.system import kernels_in_torch as expected
from eyescream_py.system.kernel_checks import Activation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU = torch.device("cuda")
LAYOUTS = [torch.contiguous_format, torch.channels_last]
CASES = [  # each is compiled anew
    Activation((3, 5)), Activation((16, 2048), 0, "elements", True), Activation((700, 128)),
    Activation((2, 3, 4, 6), 1, "planes"), Activation((3, 54, 8, 8), 2, "elements"),
    Activation((3, 54, 8, 8), planes_first=True), Activation((3, 54, 8, 8), 2, "planes", True),
    Activation((5, 130, 2, 2), 0, "planes", True),
    Activation((64, 128, 16, 16), 1, planes_first=True), Activation((64, 128, 16, 16)),
]  # fmt: skip


@pytest.fixture
def kernels():
    from eyescream_py.system import gpu_kernels

    return gpu_kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_activations_and_their_slopes(kernels, dtype):
    for case in CASES:
        checks.activation(kernels, GPU, dtype, case)


def test_sums_are_the_same_each_time(kernels):
    given = checks.operands(Activation((512, 128, 16, 16), 1), torch.bfloat16)
    x, bias, slope = (t.cuda() for t in given[:3])
    g = torch.randn(512, 128, 8, 8, device="cuda").bfloat16()
    found = []
    for _ in range(5):
        _, parts = kernels.activate_backward(g, x, bias, slope, None, 1.0, 1, True)
        found.append(torch.cat(kernels.add_parts(parts, bias, slope)))
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("gate", [None, 1.0, 0.0])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_adam(kernels, gate, betas):
    checks.adam(kernels, GPU, 100_032, gate, betas)
    checks.adam(kernels, GPU, 64, gate, betas, penalty=(0.0, 0.0), bound=0.0, rounds=False)


@pytest.mark.parametrize("n", [1, 7, 64, 3000])
def test_losses_and_counts_of_logits(kernels, n):
    checks.answers(kernels, GPU, n)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_planes_are_filled_up(kernels, layout):
    for shape, samples, planes in (((3, 1, 4, 6), 3, 8), ((54, 30, 5, 5), 56, 32),
                                   ((2, 3, 16, 16), 2, 8)):  # fmt: skip
        checks.filling(kernels, GPU, torch.bfloat16, shape, samples, planes, layout)


@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (2, 3, 1, 4), (2, 1, 4, 4), (1, 3, 1, 1)])
def test_strides_of_sides_of_one_mean_nothing(kernels, shape):
    usual = torch.empty(shape).stride()
    odd = [step if side > 1 else 7 for side, step in zip(shape, usual, strict=True)]
    x = torch.arange(float(torch.Size(shape).numel()), device="cuda").as_strided(shape, odd)
    checks.equal(kernels.widen(x, 2, 8, x.dtype), expected.widen(x.cpu(), 2, 8, x.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "features"), [(16, 1152), (5, 513), (600, 3072)])
def test_the_last_linear(kernels, n, features, dtype):
    checks.last_linear(kernels, GPU, dtype, n, features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_of_rounded_matrices_are_summed_in_full(kernels, dtype):
    checks.products(kernels, GPU, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", [3, 5, 7])
def test_what_taps_find_is_added_up(kernels, side, dtype):
    for shape in ((1, 1, 1, 1), (3, 4, 1, 2), (2, 2, 5, 1), (3, 3, 9, 6), (16, 1, 32, 32)):
        checks.folding(kernels, GPU, dtype, shape, side)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("side", "step"), [(3, 2), (3, 3), (5, 2), (7, 4)])
def test_patches_and_their_slopes(kernels, side, step, dtype):
    for shape in ((1, 1, 1, 1), (3, 40, 1, 2), (2, 136, 5, 1), (3, 64, 9, 6), (16, 512, 4, 4)):
        checks.patching(kernels, GPU, dtype, shape, side, step)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 9, 6), (3, 5, 4, 4), (1, 8, 2, 3), (40, 64, 32, 32)])
def test_pictures_are_placed_with_borders(kernels, shape, layout):
    for dtype in (torch.float32, torch.bfloat16):
        checks.placing(kernels, GPU, dtype, shape, layout)


def test_slopes_of_wide_weights(kernels):
    for shape, planes, side in (((2, 8, 9, 6), 16, 7), ((1, 8, 1, 2), 8, 9), ((3, 24, 5, 7), 40, 5),
                                ((16, 64, 32, 32), 128, 7), ((4, 64, 16, 16), 256, 5)):  # fmt: skip
        checks.of_wide_weights(kernels, GPU, shape, planes, side)


def test_a_wide_convolution_and_the_slopes_of_its_input(kernels):
    for shape, planes, side in (((2, 8, 9, 6), 16, 7), ((1, 8, 1, 2), 8, 9), ((3, 24, 5, 7), 72, 5),
                                ((3, 200, 6, 4), 40, 5), ((1, 64, 5, 5), 130, 3),
                                ((40, 64, 32, 32), 128, 7), ((4, 64, 16, 16), 256, 5)):  # fmt: skip
        checks.convolving(kernels, GPU, shape, planes, side)


def test_many_rows_are_counted_in_64_bits(kernels, monkeypatch):
    monkeypatch.setattr(kernels.bodies, "FEW", 0)
    for pool in range(3):
        checks.activation(kernels, GPU, torch.float32, Activation((3, 8, 4, 6), pool, "planes"))
    checks.filling(kernels, GPU, torch.float32, (5, 3, 4, 6), 8, 8)
    checks.folding(kernels, GPU, torch.float32, (3, 3, 9, 6), 3)
    checks.patching(kernels, GPU, torch.float32, (3, 24, 5, 6), 3, 2)
    checks.placing(kernels, GPU, torch.float32, (3, 8, 4, 6))


def test_more_rows_than_32_bits_count(kernels):
    picture = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    count = (1 << 21) + 3
    y = kernels.widen(picture.to(GPU).expand(count, -1, -1, -1), count, 1, torch.bfloat16)
    for number in (0, count // 2, count - 1):
        checks.equal(y[number : number + 1], picture.bfloat16())


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(("channels", "side", "coarse"), [(1, 32, 16), (3, 24, 8), (3, 64, 32)])
def test_pictures_and_pairs(kernels, channels, side, coarse, table):
    matrix = _there_and_back(side, coarse, torch.device("cpu"))
    checks.stored_pictures(kernels, GPU, (50, channels, side, side), table, True, matrix)


def test_pairs_are_what_the_data_set_makes_without_kernels(kernels):
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    fine, matrix = images.float() / 255, _there_and_back(32, 16, GPU)
    made = [torch.empty(images.shape, device=GPU) for _ in range(2)]
    kernels.pairs(images.cuda(), None, torch.arange(9).cuda(), matrix, *made)
    own = coarse_images(fine, 16)
    for a, b in zip(made, (own, fine - own), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-6)
