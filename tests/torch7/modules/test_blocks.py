"""Blocks of Shake-Shake, of stochastic depth and of deepspeech.torch, against their Lua sources."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module
from eyescream_py.torch7.export.convert import weights_and_source
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.random import LuaSource

from ..class_cases import modules, node, random

X = random(3, 2, 4, 5).double()
RELU = node("nn.ReLU", inplace=True, threshold=0, val=0)


def both_ways(obj: TorchObject) -> list[nn.Module]:
    """The module in double, and that of the file that it is written as."""
    module = to_module(obj, None).eval()
    module.load_state_dict({name: 2 * part for name, part in module.state_dict().items()})
    again = to_module(load(save(None, from_module(module))), None).eval()
    module.load_state_dict({name: part / 2 for name, part in module.state_dict().items()})
    again.load_state_dict({name: part / 2 for name, part in again.state_dict().items()})
    return [module, again]


def scale(factor: float) -> TorchObject:
    """A layer with a weight: x * factor."""
    return node("nn.Mul", weight=torch.tensor([factor]).double())


def shake_shake(skip: TorchObject, image: bool, forward: bool, backward: bool) -> TorchObject:
    """As its constructor makes it, with the constants that the last training step has left."""
    nets = {}
    for name, factor, left in (("net1", 3.0, 0.9), ("net2", -5.0, 0.1)):
        constant = node("nn.MulConstant", constant_scalar=left)
        if image:
            constant = node("nn.MulConstantSlices", constant_tensor=torch.full((128,), left))
        nets[name] = node("nn.Sequential", modules=modules(RELU, scale(factor), constant))
    flags = {"forwardShake": forward, "backwardShake": backward, "shakeImage": image}
    texts = {name: str(flag).lower() for name, flag in flags.items()}
    skip = node("nn.Sequential", modules=modules(skip))
    return node(
        "nn.ShakeShakeBlock", **nets, skip=skip, modules=modules(*nets.values(), skip), **texts
    )


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize(("skip", "kept"), [(node("nn.Identity"), X), (RELU, X.clamp(min=0))])
def test_shake_shake_in_evaluation(image: bool, skip: TorchObject, kept: Tensor) -> None:
    for module in both_ways(shake_shake(skip, image, True, True)):
        torch.testing.assert_close(module(X.clone()), kept + (3 - 5) / 2 * X.clamp(min=0))


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("backward", [True, False])
def test_shake_shake_in_training(image: bool, forward: bool, backward: bool) -> None:
    module = to_module(shake_shake(node("nn.Identity"), image, forward, backward), None)
    set_random_source(module, LuaSource(4))
    draws = LuaSource(4)
    shares = [
        draws.uniform_(torch.empty(3 if image else 1, 1, 1, 1).double(), 0, 1) if on else 0.5
        for on in (forward, backward)
    ]
    x = X.clone().requires_grad_()
    y = module(x * 1)
    torch.testing.assert_close(y, X + (3 * shares[0] - 5 * (1 - shares[0])) * X.clamp(min=0))
    y.sum().backward()
    slope = 1 + (3 * shares[1] - 5 * (1 - shares[1])) * (X > 0).double()
    torch.testing.assert_close(x.grad, slope.expand_as(X))


def test_stochastic_depth() -> None:
    fields = {
        "net": node("nn.Sequential", modules=modules(RELU, scale(3))),
        "skip": node("nn.Sequential", modules=modules(node("nn.Identity"))),
        "deathRate": 0.25,
    }
    for module in both_ways(node("nn.ResidualDrop", **fields, gate=False)):
        torch.testing.assert_close(module(X.clone()), X + 0.75 * 3 * X.clamp(min=0))
        module.train()
        assert torch.equal(module(X.clone()), X)
        module.gate = True
        torch.testing.assert_close(module(X.clone()), X + 3 * X.clamp(min=0))
    for name, value in (("net", None), ("deathRate", None), ("deathRate", "x")):
        with pytest.raises(T7Error, match=f"the field {name} is"):
            to_module(node("nn.ResidualDrop", **{**fields, name: value}))


def deepspeech(relu: bool) -> tuple[TorchObject, Any]:
    """A layer of its network as it is saved: views of the last call's sizes; and its formula."""
    weight, mean, spread = (
        random(*shape, seed=i).double() for i, shape in enumerate([(4, 3), (4,), (4,)])
    )
    rnn = nn.RNN(4, 4, bidirectional=True, nonlinearity="relu").double()
    parts = dict(rnn.named_parameters())
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
            parts[name].copy_(torch.eye(4))
    kept = [n for n in parts if "weight_hh" in n] + [n for n in parts if "bias" in n]
    views = [
        node("nn.View", size=torch.tensor(size), numElements=1, numInputDims=dims)
        for size, dims in (([70, -1], 3), ([7, 10, -1], 2), ([-1, 2, 4], 2))
    ]
    layers = [
        views[0],
        node("nn.Linear", weight=weight),
        node("nn.BatchNormalization", running_mean=mean, running_var=spread.exp(), eps=1e-5),
        views[1],
        node(
            "cudnn.RNN", mode="CUDNN_RNN_RELU", inputSize=4, hiddenSize=4, numLayers=1,
            numDirections=2, inputMode="CUDNN_SKIP_INPUT",
            weight=torch.cat([parts[name].detach().reshape(-1) for name in kept]),
        ),
        *([node("nn.Clamp", min_val=0, max_val=0.7)] if relu else []),
        views[2],
        node("nn.Sum", dimension=3),
    ]  # fmt: skip

    def expected(x: Tensor) -> Tensor:
        rows = (x @ weight.t() - mean) / (spread.exp() + 1e-5).sqrt()
        y = rnn(rows)[0].detach()
        y = y.clamp(0, 0.7) if relu else y
        return y[..., :4] + y[..., 4:]

    fields = {"modules": modules(*layers), "view_in": views[0], "view_out": views[1]}
    name = f"cudnn.BatchBRNN{'ReLU' if relu else ''}"
    return node(name, **fields, rnn=layers[4]), expected


@pytest.mark.parametrize("relu", [True, False])
def test_deepspeech(relu: bool, tmp_path: Any) -> None:
    torch.manual_seed(1)
    obj, expected = deepspeech(relu)
    x = random(6, 2, 3, seed=9).double()
    for module in both_ways(obj):
        torch.testing.assert_close(module(x), expected(x))
        torch.testing.assert_close(module(x[:, :1]), expected(x[:, :1]))
    space: dict[str, Any] = {}
    exec(weights_and_source(module, "w.safetensors", "deepspeech")[1], space)  # noqa: S102
    alone = space["network"]().double().eval()
    alone.load_state_dict(module.state_dict())
    torch.testing.assert_close(alone(x), expected(x))


def test_rows_of_a_sequence() -> None:
    first, last = (node("nn.View", size=torch.tensor([1, -1]), numElements=1) for _ in range(2))
    linear = node("nn.Linear", weight=random(4, 3).double())
    fields = {"modules": modules(first, linear, last), "view_in": first, "view_out": last}
    x = random(6, 2, 3).double()
    for module in both_ways(node("nn.SequenceWise", **fields)):
        torch.testing.assert_close(module(x).detach(), x @ random(4, 3).double().t())
    for broken in ({"view_out": None}, {"view_in": node("nn.View")}, {"view_out": first}):
        with pytest.raises(T7Error, match="its views are not among its modules"):
            to_module(node("nn.SequenceWise", **{**fields, **broken}))


def test_a_branch_that_is_none_is_told() -> None:
    block = shake_shake(node("nn.Identity"), False, True, True)
    for value in (None, Table(), node("nn.Tanh")):
        block.fields["net2"] = value
        with pytest.raises(T7Error, match="the field net2 is no container"):
            to_module(block)
