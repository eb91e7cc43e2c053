"""Layers that overwrite: values and gradients are those of Lua's use of memory."""

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import from_module, to_module
from eyescream_py.torch7.layers.inplace import InPlace
from eyescream_py.torch7.layers.inplace_order import ConcatTableInOrder, SequentialInOrder

from ..class_cases import modules, node, random
from ..lua_memory import (
    ConcatTable,
    Elementwise,
    Layer,
    Linear,
    PassOn,
    Plain,
    Sequential,
    Sum,
    random_network,
)


def compare(lua: Layer) -> nn.Module:
    """Output and all gradients of a network, by Lua's rules and as it is read."""
    module = to_module(lua.obj(), dtype=None).eval()
    x = torch.randn(3, 4, dtype=torch.double)
    memory = x.clone()
    expected = lua.forward(memory).clone()
    grad = torch.sin(torch.arange(12.0, dtype=torch.double) + 7).view(3, 4)
    slope = lua.backward(memory, grad.clone())
    given = x.clone().requires_grad_()
    y = module(given)
    scale = max(1.0, float(expected.abs().max()), float(slope.abs().max()))
    torch.testing.assert_close(y.detach(), expected, rtol=1e-9, atol=1e-9 * scale)
    y.backward(grad)
    torch.testing.assert_close(y.detach(), expected, rtol=1e-9, atol=1e-9 * scale)  # put back
    found = torch.zeros_like(x) if given.grad is None else given.grad
    torch.testing.assert_close(found, slope, rtol=1e-8, atol=1e-9 * scale)
    for p, wanted in zip(module.parameters(), lua.parameters(), strict=True):
        got = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9 * scale)
    return module


@pytest.mark.parametrize("start", range(0, 240, 40))
def test_random_networks_overwrite_as_lua_does(start):
    for seed in range(start, start + 40):
        compare(random_network(seed))


def relu(inplace=True):
    return Elementwise("ReLU", inplace)


def test_what_nothing_else_reads_is_made_ordinary():
    layers = compare(Sequential(Linear(), relu(), Linear(), Elementwise("ELU", True)))
    assert not any(isinstance(layer, InPlace) for layer in layers)
    assert type(layers) is nn.Sequential


def test_a_dropped_relu_is_ordinary():
    module = compare(Sequential(Linear(), relu(), Elementwise("Dropout", True), Linear()))
    assert not any(isinstance(layer, InPlace) for layer in module)


def test_a_residual_block_is_ordinary():
    block = Sequential(
        ConcatTable(Sequential(Linear(), relu(), Linear()), PassOn(False)), Sum(True), relu()
    )
    module = compare(Sequential(Linear(), block))
    assert not any(isinstance(m, InPlace | SequentialInOrder | ConcatTableInOrder)
                   for m in module.modules())  # fmt: skip


@pytest.mark.parametrize("name", ["ELU", "LeakyReLU", "Dropout", "AddConstant"])
def test_a_slope_that_is_read_from_an_overwritten_output(name):
    module = compare(Sequential(Plain("Tanh"), Elementwise(name, True)))
    assert isinstance(module[1], InPlace)


def test_one_gradient_for_all_parts_of_a_sum():
    """Lua's ReLU overwrites the gradient that the other branch gets, too."""
    compare(
        Sequential(Linear(), ConcatTable(Sequential(Linear(), relu()), PassOn(True)), Sum(True))
    )


def test_a_network_in_order_is_written_again_and_has_no_second_derivative():
    lua = Sequential(ConcatTable(PassOn(False), relu()), Sum(False))
    module = to_module(lua.obj(), dtype=None)
    assert isinstance(module, SequentialInOrder)
    for as_read in (True, False):
        written = from_module(module, as_read)
        assert written.typename == "nn.Sequential"
        assert written.fields["modules"][1].fields["modules"][2].fields["inplace"] is True
    x = torch.ones(3, 4, dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()


def test_a_chain_that_overwrites_can_be_differentiated_twice():
    chain = node("nn.Sequential", modules=modules(node("nn.ELU", alpha=2, inplace=True)))
    x = random(5).double().requires_grad_()
    (slope,) = torch.autograd.grad(
        to_module(chain, dtype=None)(x.clone()).sum(), x, create_graph=True
    )
    slope.sum().backward()
    expected = torch.where(x > 0, 0, 2 * x.exp())
    torch.testing.assert_close(x.grad, expected.detach())


def test_drawn_masks_are_kept_for_the_backward_pass():
    torch.manual_seed(0)
    drop = node("nn.Dropout", p=0.5, v2=True, inplace=True)
    table = node("nn.ConcatTable", modules=modules(drop, node("nn.Identity")))
    module = to_module(node("nn.Sequential", modules=modules(table, node("nn.CAddTable"))))
    x = torch.ones(40, requires_grad=True)
    y = module.train()(x)
    assert set(y.tolist()) == {0, 4}  # both branches see the dropped values
    y.sum().backward()
    assert x.grad.tolist() == [1 + 0.5 * v for v in y.tolist()]


def test_layers_that_count_or_draw_run_once_in_training():
    norm = node("nn.BatchNormalization", running_mean=torch.zeros(4), running_var=torch.ones(4))
    drops = node("nn.SpatialRegionDropout", p=0.5)
    relu = node("nn.ReLU", inplace=True)
    for layer in (norm, drops):
        table = node("nn.ConcatTable", modules=modules(layer, relu))
        module = to_module(node("nn.Sequential", modules=modules(table, node("nn.CAddTable"))))
        module.train()
        calls = []
        module[0][0].register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        x = random(3, 4).requires_grad_()
        module(x.clone() if layer is norm else x.clone()[None]).sum().backward()
        assert calls == [1]
