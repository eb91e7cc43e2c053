import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eyescream_py.networks.few_planes import FewPlanes, suits
from eyescream_py.networks.fused_layers import Tools, fuse
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import Lanes

CPU = torch.device("cpu")
LANES = Lanes(CPU)
TOOLS = Tools(kernels_in_torch, LANES, multiple=8)


def of_products(x, weight, bias=None):
    return FewPlanes.apply(x, weight, bias, kernels_in_torch, LANES)


def operands(n, planes, side, height, width, dtype=torch.float64):
    """x, weight, bias, slopes of the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = (n, 32, height, width), (planes, 32, side, side), (planes,), (n, planes, height, width)
    x, weight, bias, g = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    last = torch.channels_last
    return x.contiguous(memory_format=last), weight.contiguous(memory_format=last), bias, g


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(
    ("n", "planes", "height", "width"),
    [(2, 1, 8, 8), (3, 3, 9, 6), (1, 4, 1, 2), (2, 2, 5, 1), (1, 1, 1, 1), (16, 1, 8, 8)],
)
def test_products_are_the_convolution_and_its_slopes(n, planes, height, width, side):
    x, weight, bias, g = operands(n, planes, side, height, width)
    found = []
    for convolve in (of_products, lambda *given: F.conv2d(*given, padding=side // 2)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = convolve(*leaves)
        found.append([y, *torch.autograd.grad(y, leaves, g)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    y, of_x, of_weight, _ = found[0]
    for t in (y, of_x, of_weight):
        assert t.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("wanted", "products"), [(0, 1), (1, 2)], ids=["of x", "of the weight"])
def test_any_layout_and_only_the_slopes_that_somebody_wants(wanted, products, layout, monkeypatch):
    x, weight, _, g = operands(2, 3, 5, 6, 7)
    x, weight = given = [t.contiguous(memory_format=layout) for t in (x, weight)]
    g = g.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # columns first
    given[wanted].requires_grad_()
    expected = F.conv2d(x, weight, padding=2)
    multiply, made = kernels_in_torch.multiply, []
    monkeypatch.setattr(
        kernels_in_torch, "multiply", lambda *given: made.append(0) or multiply(*given)
    )
    y = of_products(x, weight)
    torch.testing.assert_close(y, expected)
    found = [torch.autograd.grad(each, given[wanted], g) for each in (y, expected)]
    torch.testing.assert_close(*found)
    assert len(made) == products


def test_rounded_pictures_are_summed_in_full():
    x, weight, bias, g = operands(40, 3, 5, 6, 8, torch.bfloat16)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y, truth = of_products(*leaves), F.conv2d(*exact, padding=2)
    found = torch.autograd.grad(y, leaves, g)
    whole = torch.autograd.grad(truth, exact, g.double())
    for a, b in zip((y, *found), (truth, *whole), strict=True):
        assert a.dtype == torch.bfloat16
        # rounded once, at the end
        torch.testing.assert_close(a.double(), b, rtol=2**-8, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 5e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("n", "planes", "side", "width"), [(32, 1, 5, 32), (4, 3, 7, 16), (3, 2, 3, 9), (1, 1, 3, 1)]
)
def test_a_gpu_finds_the_same_each_time(n, planes, side, width, dtype, close):
    from eyescream_py.system import gpu_kernels

    *given, g = operands(n, planes, side, width, width, dtype)
    exact = [t.double().requires_grad_() for t in given]
    truth = F.conv2d(*exact, padding=side // 2)
    expected = [truth, *torch.autograd.grad(truth, exact, g.double())]
    leaves = [t.cuda().requires_grad_() for t in given]
    runs = []
    for _ in range(3):
        y = FewPlanes.apply(*leaves, gpu_kernels, LANES)
        runs.append([y, *torch.autograd.grad(y, leaves, g.cuda())])
    for found, again, last, whole in zip(*runs, expected, strict=True):
        assert torch.equal(found, again)
        assert torch.equal(found, last)
        far = (found.cpu().double() - whole).abs().max() / whole.abs().max()
        assert float(far.detach()) < close


def test_autocast_changes_nothing():
    given = [t.bfloat16() for t in operands(2, 1, 3, 5, 5)[:3]]
    expected = of_products(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(of_products(*given), expected)


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(128, 1, 5, padding=2), True), (nn.Conv2d(32, 4, 3, padding=1), True),
        (nn.Conv2d(256, 3, 7, padding=3), True), (nn.Conv2d(32, 5, 3, padding=1), False),
        (nn.Conv2d(24, 1, 3, padding=1), False), (nn.Conv2d(36, 1, 3, padding=1), False),
        (nn.Conv2d(32, 1, 1), False), (nn.Conv2d(32, 1, 9, padding=4), False),
        (nn.Conv2d(32, 1, 4, padding=2), False), (nn.Conv2d(32, 1, 5, padding=1), False),
        (nn.Conv2d(32, 1, (3, 5), padding=(1, 2)), False),
        (nn.Conv2d(32, 1, 3, padding=2, dilation=2), False),
        (nn.Conv2d(32, 1, 3, padding=1, stride=2), False),
    ],
)  # fmt: skip
def test_what_is_taken(layer, taken):
    x = torch.zeros(1, layer.in_channels, 9, 9)
    assert suits(layer, x) is taken
    assert not suits(layer, torch.cat([x, x], 1))


@pytest.mark.parametrize(("height", "taken"), [((1 << 31) - 1, True), (1 << 31, False)])
def test_pixels_that_cublas_cannot_count_are_left_to_cudnn(height, taken):
    layer = nn.Conv2d(32, 1, 3, padding=1)
    assert suits(layer, torch.empty(1, 32, height, 1, device="meta")) is taken


NETWORKS = {
    "at the end": lambda: nn.Sequential(nn.Conv2d(2, 32, 3), nn.PReLU(),
                                        nn.Conv2d(32, 1, 5, padding=2), nn.Sigmoid()),
    "before a rectifier": lambda: nn.Sequential(nn.Conv2d(2, 32, 3), nn.PReLU(),
                                                nn.Conv2d(32, 3, 3, padding=1), nn.PReLU(),
                                                nn.Conv2d(3, 2, 3)),
    "without a bias": lambda: nn.Sequential(nn.Conv2d(2, 32, 3), nn.ReLU(),
                                            nn.Conv2d(32, 2, 3, padding=1, bias=False)),
}  # fmt: skip


def results(network, x, learns=True):
    """Output and slopes, by x and, where it learns, by every parameter."""
    x = x.clone().requires_grad_()
    parameters = list(network.parameters()) if learns else []
    y = network(x) + network(x.flip(-1))  # twice
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *parameters])]


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_such_a_layer(name, learns, monkeypatch):
    torch.manual_seed(0)
    network = NETWORKS[name]().double().to(memory_format=torch.channels_last)
    network.requires_grad_(learns)
    folded = []
    fold = kernels_in_torch.fold
    monkeypatch.setattr(kernels_in_torch, "fold", lambda *given: folded.append(0) or fold(*given))
    for x in (torch.rand(3, 2, 8, 8).double(), torch.rand(2, 9, 7).double()):  # and one alone
        expected = results(network, x, learns)
        fuse(network, TOOLS)
        found = results(network, x, learns)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
        assert len(folded) == 2
        folded.clear()
        for layer in network.modules():
            layer.__dict__.pop("forward", None)
