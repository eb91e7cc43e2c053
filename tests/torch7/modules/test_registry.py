"""Classes of other programs: registered in three lines, and those that are known already."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import (
    T7Error,
    Table,
    TorchObject,
    from_module,
    register,
    to_module,
    unregister,
)
from eyescream_py.torch7.layers.projects import ShaveImage, TotalVariation
from eyescream_py.torch7.modules.registry import REGISTRY


class Doubling(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.fixture
def doubling():
    register("my.Doubling", lambda layer: Doubling(layer.number("factor", 2)))
    yield
    unregister("my.Doubling")


def test_three_lines_open_an_unknown_class(doubling):
    net = TorchObject("my.Doubling", Table(factor=3))
    assert to_module(net)(torch.ones(2)).tolist() == [3, 3]
    inside = TorchObject("nn.Sequential", Table(modules=Table.from_list([net, net])))
    assert to_module(inside)(torch.ones(1)).tolist() == [9]


def test_a_copy_is_written_as_its_file_too(doubling):
    """The class has no way back of its own: only the file's object can be written."""
    net = TorchObject("my.Doubling", Table(factor=3, _type="torch.FloatTensor"))
    outer = TorchObject("nn.Sequential", Table(modules=Table.from_list([net])))
    written = from_module(copy.deepcopy(to_module(outer)))
    assert written.fields["modules"][1].fields["factor"] == 3


def test_what_a_layer_asks_for_is_checked(doubling):
    with pytest.raises(T7Error, match=r"my\.Doubling: the field factor is no number but str"):
        to_module(TorchObject("my.Doubling", Table(factor="x")))


@pytest.mark.parametrize(("made", "words"), [(None, "makes nothing"), (3, "makes a int")])
def test_a_function_that_forgets_its_return_is_told(made, words):
    register("my.Doubling", lambda layer: made)
    try:
        with pytest.raises(T7Error, match=rf"my\.Doubling: what is registered for it {words}"):
            to_module(TorchObject("my.Doubling", Table()))
    finally:
        unregister("my.Doubling")


def test_what_cannot_be_called_is_not_registered():
    for functions in ([None], [lambda layer: nn.Tanh(), nn.Tanh, {}]):
        with pytest.raises(TypeError, match="build and fields are functions"):
            register("my.Doubling", *functions)
    assert REGISTRY.get("my.Doubling") is None


def test_the_way_back():
    register("my.Doubling", lambda layer: Doubling(layer.number("factor")), Doubling, lambda m, w: {
        "factor": m.factor
    })  # fmt: skip
    try:
        obj = from_module(nn.Sequential(Doubling(5.0)))
        assert obj.fields["modules"][1].typename == "my.Doubling"
        assert to_module(obj)(torch.ones(1)).item() == 5
    finally:
        unregister("my.Doubling")
    with pytest.raises(T7Error, match="Doubling: no Lua nn class"):
        from_module(Doubling(1.0))


@pytest.mark.parametrize("name", ["nn.Unknown", "w2nn.Unknown", "Unknown"])
def test_an_unknown_class_says_how_to_add_it(name):
    with pytest.raises(T7Error) as caught:
        to_module(TorchObject(name, Table()))
    assert f'eyescream_py.torch7.register("{name}", build)' in str(caught.value)


@pytest.mark.parametrize("name", ["", "nn.", "nn.Shave Image", "1.2"])
def test_names_that_no_class_can_have(name):
    with pytest.raises(ValueError, match="no name of a Lua class"):
        register(name, lambda layer: nn.Identity())


def test_a_registered_class_goes_before_ours():
    register("nn.Tanh", lambda layer: nn.Sigmoid())
    try:
        assert isinstance(to_module(TorchObject("nn.Tanh", Table())), nn.Sigmoid)
    finally:
        unregister("nn.Tanh")
    assert isinstance(to_module(TorchObject("nn.Tanh", Table())), nn.Tanh)


def test_shave_image():
    layer = to_module(TorchObject("nn.ShaveImage", Table(size=2)))
    x = torch.arange(2 * 6 * 7).reshape(1, 2, 6, 7)
    assert torch.equal(layer(x), x[:, :, 2:4, 2:5])
    assert from_module(ShaveImage(2)).fields["size"] == 2
    with pytest.raises(ValueError, match="nothing left"):
        layer(x[..., :4])


def test_total_variation_adds_the_slope_of_squares_of_differences():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    y = to_module(TorchObject("nn.TotalVariation", Table(strength=0.5)))(x)
    assert torch.equal(y, x)
    y.sum().backward()
    inner = x[..., :-1, :-1]
    squares = (inner - x[..., :-1, 1:]) ** 2 + (inner - x[..., 1:, :-1]) ** 2
    (expected,) = torch.autograd.grad(squares.sum() / 2 * 0.5, x)
    torch.testing.assert_close(x.grad, 1 + expected)
    assert from_module(TotalVariation(0.5)).typename == "nn.TotalVariation"


def test_waifu2x_clips_but_lets_gradients_pass():
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    y = to_module(TorchObject("w2nn.InplaceClip01", Table()))(x)
    assert y.tolist() == [0, 0.5, 1]
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_depth_expand_follows_the_reshapes_of_waifu2x():
    """Lua's own steps on (N,W,H,C), in numpy: rows, then columns, of half of the planes each."""
    x = torch.randn(2, 12, 3, 5)
    y = x.numpy().transpose(0, 3, 2, 1)  # [N,W,H,C]
    y = y.reshape(2, 5, 6, 6).transpose(0, 2, 1, 3)  # [N,2H,W,C/2]
    y = y.reshape(2, 6, 10, 3).transpose(0, 3, 1, 2)
    assert (to_module(TorchObject("w2nn.DepthExpand2x", Table()))(x).numpy() == y).all()


def test_gram_matrix_and_feat_expander():
    x = torch.arange(16.0).reshape(1, 8, 1, 2)
    gram = to_module(TorchObject("nn.GramMatrix", Table()))(x)
    assert torch.equal(gram, x.flatten(2) @ x.flatten(2).mT)
    rows = to_module(TorchObject("nn.FeatExpander", Table(n=2)))(torch.tensor([[1], [2]]))
    assert rows.tolist() == [[1], [1], [2], [2]]
