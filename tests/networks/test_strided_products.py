import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eyescream_py.networks.fused_layers import Beside, Tools, fuse
from eyescream_py.networks.strided_products import StridedProducts, suits
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import Lanes

CPU = torch.device("cpu")


def beside(layer, kernels=kernels_in_torch, device=CPU):
    return Beside(layer, Tools(kernels, Lanes(device)), bare=False)


def operands(n, side, height, width, step, dtype=torch.float64, planes=(64, 72)):
    """x, weight, bias, slopes of the output."""
    generator, (inputs, out) = torch.Generator().manual_seed(0), planes
    high, wide = -(-height // step), -(-width // step)
    shapes = (n, inputs, height, width), (out, inputs, side, side), (out,), (n, out, high, wide)
    x, weight, bias, g = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    last = torch.channels_last
    return x.contiguous(memory_format=last), weight.contiguous(memory_format=last), bias, g


@pytest.mark.parametrize(("side", "step"), [(3, 2), (3, 3), (5, 2), (5, 4)])
@pytest.mark.parametrize(
    ("n", "height", "width"), [(2, 8, 8), (3, 9, 6), (1, 1, 2), (2, 5, 1), (1, 1, 1)]
)
def test_products_are_the_convolution_and_its_slopes(n, height, width, side, step):
    x, weight, bias, g = operands(n, side, height, width, step)
    how, found = beside(nn.Conv2d(64, 72, side, step, side // 2)), []
    for convolve in (
        lambda *given: StridedProducts.apply(*given, step, how),
        lambda *given: F.conv2d(*given, step, side // 2),
    ):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = convolve(*leaves)
        found.append([y, *torch.autograd.grad(y, leaves, g)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    y, of_x, of_weight, _ = found[0]
    for t in (y, of_x, of_weight):
        assert t.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("wanted", [0, 1], ids=["of x", "of the weight"])
def test_any_layout_and_only_the_slopes_that_somebody_wants(wanted, layout, monkeypatch):
    x, weight, _, g = operands(2, 3, 6, 7, 2)
    x, weight = given = [t.contiguous(memory_format=layout) for t in (x, weight)]
    g = g.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # columns first
    given[wanted].requires_grad_()
    unpatched, added = kernels_in_torch.unpatched, []
    monkeypatch.setattr(
        kernels_in_torch, "unpatched", lambda *given: added.append(0) or unpatched(*given)
    )
    y = StridedProducts.apply(x, weight, None, 2, beside(nn.Conv2d(64, 72, 3, 2, 1)))
    expected = F.conv2d(x, weight, None, 2, 1)
    torch.testing.assert_close(y, expected)
    found = [torch.autograd.grad(each, given[wanted], g) for each in (y, expected)]
    torch.testing.assert_close(*found)
    assert len(added) == 1 - wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 5e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("n", "side", "width", "planes"), [(16, 3, 4, (512, 1024)), (16, 3, 8, (128, 512)),
                                       (3, 5, 9, (64, 72)), (1, 3, 1, (64, 64))]
)  # fmt: skip
def test_a_gpu_finds_the_same_each_time(n, side, width, planes, dtype, close):
    from eyescream_py.system import gpu_kernels

    *given, g = operands(n, side, width, width, 2, dtype, planes)
    exact = [t.double().requires_grad_() for t in given]
    truth = F.conv2d(*exact, 2, side // 2)
    expected = [truth, *torch.autograd.grad(truth, exact, g.double())]
    leaves, runs = [t.cuda().requires_grad_() for t in given], []
    how = beside(nn.Conv2d(*planes, side, 2, side // 2), gpu_kernels, torch.device("cuda", 0))
    for _ in range(3):
        y = StridedProducts.apply(*leaves, 2, how)
        runs.append([y, *torch.autograd.grad(y, leaves, g.cuda())])
        how.tools.lanes.join()
    for found, again, last, whole in zip(*runs, expected, strict=True):
        assert torch.equal(found, again)
        assert torch.equal(found, last)
        far = (found.cpu().double() - whole).abs().max() / whole.abs().max()
        assert float(far.detach()) < close


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(128, 512, 3, 2, 1), True), (nn.Conv2d(64, 64, 5, 3, 2), True),
        (nn.Conv2d(128, 512, 3, 1, 1), False), (nn.Conv2d(56, 512, 3, 2, 1), False),
        (nn.Conv2d(64, 60, 3, 2, 1), False), (nn.Conv2d(64, 68, 3, 2, 1), False),
        (nn.Conv2d(64, 64, 4, 2, 2), False), (nn.Conv2d(64, 64, 3, 2), False),
        (nn.Conv2d(64, 64, 3, (2, 1), 1), False), (nn.Conv2d(64, 64, 3, 4, 1), False),
        (nn.Conv2d(64, 64, (3, 5), 2, (1, 2)), False),
        (nn.Conv2d(64, 64, 3, 2, 1, dilation=2), False),
    ],
)  # fmt: skip
def test_what_is_taken(layer, taken):
    x = torch.zeros(1, layer.in_channels, 9, 9)
    assert suits(layer, x) is taken
    assert not suits(layer, torch.cat([x, x], 1))


def test_many_pictures_are_left_to_cudnn():
    layer = nn.Conv2d(512, 1024, 3, 2, 1)
    assert suits(layer, torch.empty(64, 512, 4, 4))
    assert not suits(layer, torch.empty(1024, 512, 4, 4))


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_networks_with_such_a_layer(bias, learns, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 64, 3), nn.PReLU(), nn.Conv2d(64, 64, 3, 2, 1, bias=bias),
                            nn.PReLU(), nn.Conv2d(64, 3, 1))  # fmt: skip
    network.double().to(memory_format=torch.channels_last).requires_grad_(learns)
    patched, patches = [], kernels_in_torch.patches
    monkeypatch.setattr(
        kernels_in_torch, "patches", lambda *given: patched.append(0) or patches(*given)
    )
    parameters = list(network.parameters()) if learns else []
    for x in (torch.rand(3, 2, 8, 8).double(), torch.rand(2, 9, 7).double()):  # and one alone
        found = []
        for fused in (False, True):
            if fused:
                fuse(network, Tools(kernels_in_torch, Lanes(CPU)))
            leaf = x.clone().requires_grad_()
            y = network(leaf)
            weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
            found.append([y, *torch.autograd.grad((y * weights).sum(), [leaf, *parameters])])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
        assert len(patched) == 1
        patched.clear()
        for layer in network.modules():
            layer.__dict__.pop("forward", None)
