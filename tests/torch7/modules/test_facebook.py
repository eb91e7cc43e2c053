"""Layers of fairseq-lua and fbnn, against the formulas of their Lua sources, in numpy."""

import importlib
import pickle
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import T7Error, from_module, layers, load, recurrent, save, to_module
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.modules.conversion import _CODECS
from eyescream_py.torch7.modules.registry import REGISTRY
from eyescream_py.torch7.random import LuaSource

from ..class_cases import modules, node, random, same, storage


def doubled(**tensors: Tensor) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def opened(name: str, **fields: Any) -> nn.Module:
    return to_module(node(name, **fields), None)


@pytest.mark.parametrize("pad", [0, 2])
def test_a_convolution_whose_time_comes_first(pad: int) -> None:
    weights = doubled(weight=random(3, 4, 5), bias=random(5, seed=1))  # (kw,in,out)
    layer = opened("nn.TemporalConvolutionTBC", nIn=4, nOut=5, kw=3, pad=pad, **weights)
    x = random(7, 2, 4, seed=2).double()
    padded = np.zeros((7 + 2 * pad, 2, 4))
    padded[pad : pad + 7] = x.numpy()
    kernel, bias = weights["weight"].numpy(), weights["bias"].numpy()
    rows = range(len(padded) - 2)
    expected = [bias + sum(padded[t + k] @ kernel[k] for k in range(3)) for t in rows]
    same(layer(x), np.stack(expected))
    assert layer(x).is_contiguous()
    again = load(save(None, from_module(layer)))
    assert torch.equal(again.fields["weight"], weights["weight"])


def test_within_a_weight_norm_over_its_outputs() -> None:
    """fairseq has nn.WeightNorm(nn.TemporalConvolutionTBC(...), 3)."""
    inner = node("nn.TemporalConvolutionTBC", nIn=2, nOut=5, kw=3, pad=1, bias=torch.zeros(5))
    v, g = random(5, 6), random(5, 1, seed=1)
    sizes = {"weightSize": storage(3, 2, 5), "viewOut": storage(5, 3, 2), "outputDim": 3}
    sizes |= {"viewIn": storage(5, 3, 2)}
    layer = to_module(node("nn.WeightNorm", modules=modules(inner), v=v, g=g, **sizes))
    weight = (v * (g / (v.square().sum(1, keepdim=True) + 1e-4).sqrt())).reshape(5, 3, 2)
    weight = weight.permute(1, 2, 0).contiguous()
    inner.fields["weight"] = weight
    x = random(6, 2, 2, seed=2)
    same(layer(x), to_module(inner)(x).detach())


def test_small_layers_of_fairseq() -> None:
    a, b = random(2, 9, 3), random(2, 9, 3, seed=1)
    y = opened("nn.AppendBias")(a)
    same(y[..., :3], a)
    assert (y[..., 3] == 1).all()
    assert y.shape == (2, 9, 4)
    same(opened("nn.CAddTableMulConstant", constant_scalar=0.5)([a, b, b]), (a + b + b) * 0.5)
    same(opened("nn.SeqMultiply")([a[:, 0], b]), a[:, 0] * 3)
    pairs = opened("nn.ZipAlong")([[a, b], [b]])
    assert [pair[0] is x for pair, x in zip(pairs, (a, b), strict=True)] == [True, True]
    assert all(pair[1][0] is b for pair in pairs)
    product = opened("nn.BeamableMM", transA=False, transB=True, beam=3)([a, b])
    same(product, np.einsum("nij,nkj->nik", a, b))
    same(opened("nn.BeamableMM", beam=0)([a, b.transpose(1, 2)]), np.einsum("nij,nkj->nik", a, b))


@pytest.mark.parametrize("mode", ["in_test", "in_training"])
def test_gradients_of_parameters_are_multiplied(mode: str) -> None:
    weights = doubled(weight=random(3, 4), bias=random(3, seed=1))
    linear = node("nn.Linear", **weights)
    layer = opened("nn.GradMultiply", modules=modules(linear), factor=0.25)
    x = random(2, 4, seed=2).double().requires_grad_()
    y = layer.train(mode == "in_training")(x)
    same(y.detach(), x.detach().numpy() @ weights["weight"].numpy().T + weights["bias"].numpy())
    grad = random(2, 3, seed=3).double()
    y.backward(grad)
    assert x.grad is not None
    same(x.grad, grad.numpy() @ weights["weight"].numpy())
    found_weight, found_bias = (p.grad for p in layer.parameters())
    assert found_weight is not None
    assert found_bias is not None
    same(found_weight, 0.25 * grad.numpy().T @ x.detach().numpy())
    same(found_bias, 0.25 * grad.numpy().sum(0))
    with torch.no_grad():
        same(layer(x), y.detach())


def test_a_model_of_fairseq_is_its_network() -> None:
    block = [node("nn.Square"), node("nn.LinearizedConvolution", kw=3)]
    split = node("nn.ConvBlockTrainTestLayer", modules=modules(*block), train=False)
    model = node("FConvModel", module=node("nn.Sequential", modules=modules(split)))
    same(to_module(model).eval()(torch.tensor([3.0])), [9])
    same(opened("nn.TrainTestLayer", modules=modules(*block))(torch.tensor([3.0])), [9])


@pytest.mark.parametrize("with_bias", [True, False])
def test_an_unfolded_convolution_is_one_over_padded_time(with_bias: bool) -> None:
    weight, bias = random(5, 6), random(5, seed=1)
    inner = node("nn.Linear", weight=weight)
    sizes = {"inputFrameSize": 2, "outputFrameSize": 5, "kW": 3, "dW": 1, "pad": 1}
    fields = {**sizes, "weight": weight, "linear": inner, **({"bias": bias} if with_bias else {})}
    layer = to_module(node("nn.UnfoldedTemporalConvolution", **fields))
    x = random(4, 7, 2, seed=2)
    padded = np.zeros((4, 9, 2), np.float32)
    padded[:, 1:8] = x
    rows = [padded[:, t : t + 3].reshape(4, 6) @ weight.numpy().T for t in range(7)]
    expected = np.stack(rows, 1) + (bias.numpy() if with_bias else 0)
    same(layer(x), expected)
    same(layer(x[0]), expected[0])


def test_weighted_rows() -> None:
    table = random(6, 3)
    layer = to_module(node("nn.WeightedLookupTable", weight=table))
    pairs = torch.tensor([[2, 0.5], [6, -1], [2, 2.0]])
    same(layer(pairs), np.stack([0.5 * table[1], -table[5], 2 * table[1]]))
    layer(pairs).sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [0, 7.5, 0, 0, 0, -3]
    with pytest.raises(T7Error, match=r"weight has shape \(6,\)"):
        to_module(node("nn.WeightedLookupTable", weight=table[:, 0].contiguous()))


def test_linear_layers_of_fbnn() -> None:
    weight, bias = random(3, 4), random(3, seed=1)
    x = random(2, 4, seed=2).requires_grad_()
    layer = to_module(node("nn.LinearNoBackprop", weight=weight, bias=bias))
    y = layer(x)
    same(y.detach(), x.detach() @ weight.t() + bias)
    y.sum().backward()
    assert x.grad is None
    same(layer.weight.grad, x.detach().sum(0).expand(3, 4))
    fields = {"weight": weight, "bias": torch.zeros(3)}
    normed = to_module(node("fbnn.NormalizedLinearNoBias", **fields))
    same(normed.eval()(x).detach(), x.detach() @ weight.t())
    unit = weight / np.sqrt((weight.numpy() ** 2).sum()) * np.sqrt(3)
    y = normed.train()(x)
    same(y.detach(), x.detach() @ unit.t())
    same(normed.weight.detach(), unit)
    y.sum().backward()
    assert normed.bias.grad is None
    same(normed.weight.grad, x.detach().sum(0).expand(3, 4))
    for name in ("nn.LinearNoBackprop", "fbnn.NormalizedLinearNoBias"):
        with pytest.raises(T7Error, match="the field bias is missing"):
            to_module(node(name, weight=weight))


def test_a_gradient_without_its_part_along_the_input() -> None:
    layer = opened("fbnn.ProjectiveGradientNormalization", eps=1e-5)
    x = random(3, 4).requires_grad_()
    grad = random(3, 4, seed=1)
    y = layer(x)
    assert torch.equal(y, x)
    y.backward(grad)
    unit = x.detach().numpy() / np.linalg.norm(x.detach().numpy())
    assert x.grad is not None
    same(x.grad, grad.numpy() - unit * (unit * grad.numpy()).sum())
    zero = torch.zeros(2, requires_grad=True)
    layer(zero).sum().backward()
    assert zero.grad is not None
    assert zero.grad.tolist() == [1, 1]


def test_small_layers_of_fbnn() -> None:
    x = torch.tensor([[3.0, 4], [0, 2]])
    same(opened("fbnn.L2Normalize")(x), [[0.6, 0.8], [0, 1]])
    same(opened("fbnn.Probe", modules=modules(node("nn.Square")))(x), x.square())
    value = torch.tensor([[1.0, 2]])
    same(opened("fbnn.Constant", value=value)(x), value.expand(2, 1, 2))
    same(opened("nn.Upsample", factor=2)(x[None]), [[[3, 3, 4, 4]] * 2 + [[0, 0, 2, 2]] * 2])
    same(opened("fbnn.Dropout", p=0.25, train=False)(x), 0.75 * x)
    dropped = opened("fbnn.Dropout", p=0.25)(torch.ones(4000))
    assert set(dropped.tolist()) == {0, 1}
    assert abs(dropped.mean() - 0.75) < 0.03


def test_dropout_with_a_rate_for_each_feature() -> None:
    layer = opened("fbnn.IndividualDropout", p=torch.tensor([1.0, 0.25]))
    set_random_source(layer, LuaSource(3))
    y = layer(torch.ones(4000, 2))
    assert set(y[:, 0].tolist()) == {1}
    assert set(y[:, 1].tolist()) == {0, 4}
    assert abs(y[:, 1].mean() - 1) < 0.1
    assert torch.equal(layer.eval()(y), y)


def test_tables_whose_weights_are_plain_rows() -> None:
    weight = random(5, 3)
    x = torch.tensor([[1, 5, 2], [2, 2, 4]])
    rows = weight.numpy()[x.numpy() - 1]
    same(opened("nn.FasterLookup", weight=weight, count=torch.zeros(5).int())(x.int()), rows)
    same(opened("nn.LookupTableGPU", weight=weight)(x.float()), rows)
    second = opened("nn.LookupTableGPU", weight=weight, featuresInDim2=True)
    same(second(x), rows.transpose(0, 2, 1))
    same(second(x[0]), rows[0])


def test_a_slope_that_is_not_learnt() -> None:
    layer = opened("fbnn.LeakyReLU", weight=torch.tensor([0.25]), nOutputPlane=0)
    x = torch.tensor([-4.0, 2.0], requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.tolist() == [-1, 2]
    assert x.grad is not None
    assert x.grad.tolist() == [0.25, 1]
    assert layer.weight.grad is None
    with pytest.raises(T7Error, match="no single slope"):
        opened("fbnn.LeakyReLU", weight=torch.ones(2))


SIZES = {"nInputPlane": 2, "nOutputPlane": 3, "kW": 2, "kH": 3, "dW": 2, "dH": 1, "iW": 6, "iH": 5}


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("made", [3, 4])  # of 3 planes the shapes of both orders are the same
def test_a_kernel_for_each_place(made: int, on_gpu: bool) -> None:
    tensors = doubled(weight=random(made, 3, 3, 2, 3, 2), bias=random(made, 3, 3, seed=1))
    weight, bias = (tensor.numpy() for tensor in tensors.values())  # out, oH, oW, in, kH, kW
    x = random(2, 2, 5, 6, seed=2).double()
    expected = np.zeros((2, made, 3, 3))
    for n, o, i, j in np.ndindex(2, made, 3, 3):
        window = x.numpy()[n, :, i : i + 3, 2 * j : 2 * j + 2]
        expected[n, o, i, j] = (weight[o, i, j] * window).sum() + bias[o, i, j]
    if on_gpu:  # oH, oW, kH, kW, out, in
        moved = tensors["weight"].permute(1, 2, 4, 5, 0, 3).contiguous()
        tensors = {"weight": moved, "bias": tensors["bias"].permute(1, 2, 0).contiguous()}
        moved.t7_class = ("torch.CudaDoubleTensor", 1)  # type: ignore[attr-defined]
    layer = opened("nn.LocallyConnected", **{**SIZES, "nOutputPlane": made}, **tensors)
    same(layer(x), expected)
    same(layer(x[0]), expected[0])
    grad = random(2, made, 3, 3, seed=3).double()
    layer(x).backward(grad)
    slopes = np.zeros_like(weight)
    for n, o, i, j in np.ndindex(2, made, 3, 3):
        window = x.numpy()[n, :, i : i + 3, 2 * j : 2 * j + 2]
        slopes[o, i, j] += grad.numpy()[n, o, i, j] * window
    assert layer.weight.grad is not None
    got = layer.weight.grad
    same(got.permute(4, 0, 1, 5, 2, 3) if on_gpu else got, slopes)
    same(to_module(load(save(None, from_module(layer))), None)(x).detach(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"weight": random(2, 2)}, "weight has shape"), ({"kH": 6}, "larger than images")],
)
def test_an_impossible_kernel_for_each_place_is_refused(change: Any, message: str) -> None:
    tensors = {"weight": random(3, 3, 3, 2, 3, 2), "bias": random(3, 3, 3)}
    with pytest.raises(T7Error, match=message):
        opened("nn.LocallyConnected", **{**SIZES, **tensors, **change})


def test_the_last_features_are_dropped_first() -> None:
    layer: Any = opened("fbnn.NestedDropout", p=0.25, train=True)
    x = random(400, 6).double()
    set_random_source(layer, LuaSource(7))
    y = layer(x)
    drawn = np.empty(400)
    LuaSource(7).uniform_(torch.from_numpy(drawn), 0, 1)
    last = (np.log(1 - drawn) / np.log(0.75)).astype(int) + 1
    expected = x.numpy() / 0.75 ** np.arange(1, 7)
    for row, end in zip(expected, last, strict=True):
        row[end:] = 0
    same(y, expected)
    share = (y != 0).double().mean(0)
    assert (share - 0.75 ** torch.arange(6)).abs().max() < 0.08
    assert torch.equal(layer.eval()(x), x)
    with pytest.raises(T7Error, match="outside 0 < p < 1"):
        opened("fbnn.NestedDropout", p=1)


PLAIN = {
    *("PReLU", "CudnnSoftMax", "CudnnLogSoftMax", "SequentialInOrder", "ConcatTableInOrder"),
    *("BatchNormalization", "SpatialBatchNormalization", "VolumetricBatchNormalization"),
    *("InstanceNormalization", "SpatialCrossMapLRN", "CrossMapLRNAhead"),
    *("SpatialMaxPooling", "VolumetricMaxPooling", "SpatialAveragePooling"),
    *("VolumetricAveragePooling", "SpatialUndividedPooling"),
    *("SpatialFullConvolution", "VolumetricFullConvolution"),
}  # what Lua's class is in torch; of cudnn's the nn counterparts


def derived_layers() -> list[tuple[type, list[type]]]:
    """Our layers that no converter writes, with the classes above them that one does."""
    written = {codec.python for codec in (*REGISTRY, *_CODECS)}
    found = []
    for room in (layers, recurrent):
        names = [f"{room.__name__}.{info.name}" for info in pkgutil.iter_modules(room.__path__)]
        values = [v for name in names for v in vars(importlib.import_module(name)).values()]
        kinds = {value for value in values if isinstance(value, type)}
        ours = (kind for kind in kinds if kind.__module__.startswith(room.__name__))
        found += [(k, [b for b in k.__mro__[1:] if b in written]) for k in ours if k not in written]
    return [(kind, bases) for kind, bases in found if bases and issubclass(kind, nn.Module)]


def test_no_layer_is_written_as_another_that_it_is_derived_from() -> None:
    derived = derived_layers()
    assert len(derived) > 20
    for kind, _ in derived:
        assert (kind.__name__ in PLAIN) != vars(kind).get("of_its_own", False), kind
    total = opened("nn.CAddTableMulConstant", constant_scalar=0.5)
    written = from_module(total, as_read=False)
    assert (written.typename, written.fields["constant_scalar"]) == ("nn.CAddTableMulConstant", 0.5)
    with pytest.raises(T7Error, match="no Lua nn class is known"):
        from_module(pickle.loads(pickle.dumps(total)))  # noqa: S301
