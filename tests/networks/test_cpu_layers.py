"""Faster forwards against torch's own layers: values and every gradient."""

import copy
import io

import pytest
import torch
from torch import nn

from eyescream_py.networks import cpu_layers, products
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.pixels_first import as_planes, lies_so, pixels_of
from eyescream_py.torch7 import from_module, save
from eyescream_py.torch7.optim import Adam

CASES = {
    "prelu": (lambda: nn.PReLU(), (3, 4, 5, 5)),
    "prelu of rows": (lambda: nn.PReLU(init=-0.5), (3, 4)),
    "one plane": (lambda: nn.Conv2d(64, 1, 5, padding=2), (2, 64, 6, 7)),
    "one plane, no bias": (lambda: nn.Conv2d(64, 1, 3, padding=1, bias=False), (2, 64, 4, 4)),
    "of a picture": (lambda: nn.Conv2d(3, 8, 5, padding=2), (2, 3, 6, 7)),
    "of a gray one, no bias": (lambda: nn.Conv2d(1, 8, 3, padding=1, bias=False), (2, 1, 5, 4)),
    "few pixels": (lambda: nn.Conv2d(256, 512, 3, stride=2, padding=1), (3, 256, 5, 4)),
    "many pixels": (lambda: nn.Conv2d(256, 512, 3, stride=2, padding=1), (5, 256, 12, 10)),
    "maximum": (lambda: nn.MaxPool2d(2), (3, 5, 6, 8)),
    "maximum, odd": (lambda: nn.MaxPool2d(2), (3, 5, 5, 8)),
    "average": (lambda: nn.AvgPool2d(2), (3, 5, 6, 8)),
    "average, odd": (lambda: nn.AvgPool2d((2, 2)), (3, 5, 6, 7)),
}


def results(layer, x, weights):
    y = layer(x)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_layer(case):
    torch.manual_seed(0)
    make, shape = CASES[case]
    plain = make().double()
    fast = nn.Sequential(copy.deepcopy(plain))
    speed_up(fast)
    assert "forward" in vars(fast[0])
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(plain(x))
    for a, b in zip(results(plain, x, weights), results(fast, x, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


MORE = {
    **CASES,
    "tiles": (lambda: nn.Conv2d(128, 128, 3, padding=1), (4, 128, 16, 16)),
    "transforms": (lambda: nn.Conv2d(32, 32, 5, padding=2), (2, 32, 8, 8)),
    "many weights": (lambda: nn.Linear(1024, 512), (3, 1024)),
}


ONCE = {"prelu", "prelu of rows", "maximum", "few pixels", "many pixels", "tiles", "transforms"}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", MORE)
def test_slopes_of_slopes_are_those_of_the_layer_or_refused(case, dtype, error):
    torch.manual_seed(0)
    make, shape = MORE[case]
    plain = make().to(dtype)
    fast, x = nn.Sequential(copy.deepcopy(plain)), torch.randn(shape, dtype=dtype)
    speed_up(fast, compiled=False)
    x.requires_grad_()

    def twice(layer):
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        taken = [x.grad, *(p.grad for p in layer.parameters())]
        x.grad = None
        return [None if grad is None else grad.clone() for grad in taken]

    if case in ONCE or (case == "many weights" and "forward" in vars(fast[0]) and error == 1e-4):
        with pytest.raises(RuntimeError, match="once_differentiable"):
            twice(fast)
        return
    for a, b in zip(twice(plain), twice(fast), strict=True):
        torch.testing.assert_close(b, a, rtol=error, atol=error * float(a.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_in_bfloat16_they_are_as_close_to_the_truth_as_torchs_own(case):
    torch.manual_seed(0)
    make, shape = CASES[case]
    plain = make()
    fast, exact = nn.Sequential(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    speed_up(fast, rounded=True)
    x = torch.randn(shape).bfloat16().float().requires_grad_()
    weights = torch.randn_like(plain(x)).bfloat16().float()
    truth = results(exact, x.detach().double().requires_grad_(), weights.double())
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = results(plain, x, weights), results(fast, x, weights)
    for a, b, t in zip(expected, found, truth, strict=True):
        assert a.dtype == b.dtype or case.startswith("prelu")  # which keeps its input's type
        error = (a.double() - t).norm()
        assert (b.double() - t).norm() <= 1.2 * error + 1e-7 * t.norm()


def test_a_kernel_of_even_size_that_steps():
    torch.manual_seed(0)
    plain = nn.Conv2d(256, 512, 4, stride=2, padding=1).double()
    fast = nn.Sequential(copy.deepcopy(plain))
    speed_up(fast)
    assert "forward" in vars(fast[0])
    x = torch.randn(2, 256, 6, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(plain(x))
    for a, b in zip(results(plain, x, weights), results(fast, x, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_weights_laid_otherwise_are_saved_alike_and_learn_on_to_the_bit():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(256, 512, 3, stride=2, padding=1))
    first, x = copy.deepcopy(plain), torch.rand(3, 256, 4, 4)
    speed_up(first)
    assert first[0].weight.stride() != plain[0].weight.stride()
    saved = [io.BytesIO(), io.BytesIO()]
    for file, network in zip(saved, (plain, first), strict=True):
        save(file, from_module(network))
    assert saved[0].getvalue() == saved[1].getvalue()

    def learn(network, optimizer):
        optimizer.differentiate(network(x).square().mean())
        optimizer.step()

    learning = Adam(first.parameters(), 1e-3)
    learn(first, learning)
    plain.load_state_dict({name: p.contiguous() for name, p in first.state_dict().items()})
    speed_up(plain)  # as a resumed run does
    resumed = Adam(plain.parameters(), 1e-3)
    resumed.import_state(learning.export_state())
    learn(first, learning)
    learn(plain, resumed)
    assert torch.equal(plain[0].weight, first[0].weight)


@pytest.mark.parametrize("bias", [False, True])
def test_products_of_both_libraries_are_equal_in_float32(bias, monkeypatch):
    torch.manual_seed(0)
    for module in (cpu_layers, products):
        monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    linear, narrower = nn.Linear(1024, 1024, bias=bias), nn.Linear(2048, 512, bias=bias)
    strided = nn.Conv2d(256, 512, 3, stride=2, padding=1, bias=bias)
    shapes = (linear, (5, 1024)), (narrower, (17, 2048)), (strided, (3, 256, 4, 4))
    for plain, shape in shapes:
        fast = nn.Sequential(copy.deepcopy(plain))
        speed_up(fast)
        assert "forward" in vars(fast[0])
        x = torch.randn(shape, requires_grad=True)
        weights = torch.randn_like(plain(x))
        for a, b in zip(results(plain, x, weights), results(fast, x, weights), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    fast = nn.Sequential(copy.deepcopy(linear))
    speed_up(fast)
    for x in (torch.randn(2, 3, 1024), torch.randn(0, 1024)):  # other shapes are computed as well
        torch.testing.assert_close(fast(x), linear(x))


@pytest.mark.parametrize("pixels_first", [False, True])
def test_of_equal_pixels_one_has_the_slope(pixels_first):
    """The upper one; of rows as large the left one."""
    torch.manual_seed(0)
    fast = nn.Sequential(nn.MaxPool2d(2))
    speed_up(fast)
    x = torch.randint(-1, 2, (4, 3, 8, 12)).float()
    x = (as_planes(pixels_of(x), 4) if pixels_first else x).requires_grad_()
    y, to_x = results(fast, x, weights := torch.rand(4, 3, 4, 6) + 1)
    assert torch.equal(y, nn.MaxPool2d(2)(x))
    blocks = to_x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(blocks.sum(-1), weights)
    assert (blocks != 0).sum(-1).eq(1).all()
    here = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(here[blocks != 0].view_as(y), y)
    left, right, lower_left, lower_right = here.unbind(-1)
    is_right = torch.maximum(right, lower_right) > torch.maximum(left, lower_left)
    is_lower = torch.where(is_right, lower_right > right, lower_left > left)
    assert torch.equal(blocks.argmax(-1), 2 * is_lower + is_right.long())
    assert lies_so(y) == lies_so(to_x) == pixels_first


def test_a_slope_at_zero_and_without_its_gradient():
    slope = nn.Sequential(nn.PReLU())
    speed_up(slope)
    slope.requires_grad_(False)
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    slope(x).sum().backward()
    assert x.grad.tolist() == [0.25, 0.25, 1.0]


def test_other_layers_are_left_alone():
    network = nn.Sequential(
        nn.PReLU(8), nn.Conv2d(8, 1, 3, padding=1), nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 1, 5), nn.Linear(4, 4), nn.MaxPool2d(3), nn.AvgPool2d(2, padding=1),
        nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2, 1),
        nn.Conv2d(64, 1, 3, padding=1, padding_mode="circular"),
    )  # fmt: skip
    speed_up(network)
    assert not any("forward" in vars(layer) for layer in network)
