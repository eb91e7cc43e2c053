"""What Lua's C code does at the edges: NaN, windows outside, single pixels. Worked out by hand."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import T7Error, from_module, to_module
from eyescream_py.torch7.recurrent.steps import NormStabilizer

from ..class_cases import node

NAN, INF = math.nan, math.inf


def run(name: str, x: Any, **fields: Any) -> Any:
    return to_module(node(name, **fields), dtype=None).eval()(x)


def same(got: Tensor, expected: Any) -> None:
    wanted = torch.as_tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got, wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "fields", "value", "slope"),
    [
        ("nn.ReLU", {}, 0, 0),
        ("nn.ReLU6", {}, 6, 0),
        ("nn.Threshold", {"threshold": 1, "val": 7}, 7, 0),
        ("nn.HardTanh", {"min_val": -2, "max_val": 3}, 3, 0),
        ("nn.Clamp", {"min_val": -2, "max_val": 3}, 3, 0),
        ("nn.ClippedReLU", {"ceiling": 5}, 5, 0),
        ("nn.SoftShrink", {"lambda": 0.5}, 0, 0),
        ("nn.HardShrink", {"lambda": 0.5}, 0, 0),
        ("nn.LeakyReLU", {"negval": 0.5}, NAN, 0.5),
    ],
)
def test_nan_is_above_no_threshold(name: str, fields: Any, value: float, slope: float) -> None:
    x = torch.tensor([NAN, 1.5], requires_grad=True)
    y = run(name, x, **fields)
    same(y[:1], [value])
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[0].item() == slope


def test_activations_of_torch_and_of_files_are_written_alike() -> None:
    for name, of_torch in (
        ("nn.ReLU", nn.ReLU()),
        ("nn.ReLU6", nn.ReLU6()),
        ("nn.HardTanh", nn.Hardtanh(-2, 3)),
        ("nn.SoftPlus", nn.Softplus(2, 5)),
        ("nn.SoftShrink", nn.Softshrink(0.25)),
        ("nn.HardShrink", nn.Hardshrink(0.25)),
    ):
        written = from_module(of_torch)
        assert written.typename == name
        again = from_module(to_module(written), as_read=False)
        assert again.typename == name
        assert {k: v for k, v in again.fields.items() if not isinstance(v, Tensor)} == {
            k: v for k, v in written.fields.items() if not isinstance(v, Tensor)
        }


def test_soft_plus_is_straight_from_where_its_output_is_above_the_threshold() -> None:
    x = torch.tensor([-3.0, 0.0, 0.5, 0.9, 2.0], dtype=torch.double, requires_grad=True)
    y = run("nn.SoftPlus", x, beta=1, threshold=1)
    same(y, [*x[:4].exp().log1p().tolist(), 2])  # the input itself decides of the value
    y.sum().backward()
    assert x.grad is not None
    same(x.grad, [*x[:3].sigmoid().tolist(), 1, 1])  # log(1 + e^0.9) is 1.24, above 1


def test_of_equal_numbers_in_a_table_the_first_gets_the_gradient_and_nan_is_never_chosen() -> None:
    for name in ("nn.CMaxTable", "nn.CMinTable"):
        first = torch.tensor([2.0, NAN, 1.0], requires_grad=True)
        second = torch.tensor([2.0, 1.0, NAN], requires_grad=True)
        y = run(name, [first, second])
        same(y, [2, NAN, 1])
        y.sum().backward()
        assert first.grad is not None
        assert second.grad is not None
        assert (first.grad.tolist(), second.grad.tolist()) == ([1, 1, 1], [0, 0, 0])


# 5 pixels in steps of 3, windows of 1: the third begins at 6, one pixel outside
CEIL = {"kW": 1, "kH": 1, "dW": 3, "dH": 3, "ceil_mode": True}


def test_without_padding_a_window_may_begin_outside() -> None:
    x = torch.arange(25.0).reshape(1, 5, 5)
    least = torch.finfo(torch.float32).min
    same(
        run("nn.SpatialMaxPooling", x, **CEIL),
        [[[0, 3, least], [15, 18, least], [least, least, least]]],
    )
    same(
        run("nn.SpatialAveragePooling", x, **CEIL, divide=True), [[[0, 3, 0], [15, 18, 0], [0] * 3]]
    )
    same(run("nn.SpatialMaxPooling", x, **{**CEIL, "ceil_mode": False}), [[[0, 3], [15, 18]]])
    # of 6 pixels the third window begins at the edge: no pixel, 0 / 0
    wide = torch.arange(30.0).reshape(1, 5, 6)
    nans = [[[0, 3, NAN], [18, 21, NAN], [0, 0, NAN]]]
    same(run("nn.SpatialAveragePooling", wide, **CEIL, divide=True), nans)
    same(run("nn.SpatialAveragePooling", wide, **CEIL), nans)
    y = run("nn.SpatialAveragePooling", wide, **CEIL, divide=True, count_include_pad=False)
    same(y, nans)


def test_gradients_of_windows_outside_go_nowhere() -> None:
    x = torch.arange(25.0).reshape(1, 1, 5, 5).requires_grad_()
    y = run("nn.SpatialMaxPooling", x, **CEIL)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.sum().item() == 4


def test_volumes_have_windows_outside_too() -> None:
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    fields = {f"{k}{axis}": n for axis in "TWH" for k, n in (("k", 1), ("d", 3))}
    least = torch.finfo(torch.float32).min
    y = run("nn.VolumetricMaxPooling", x, **fields, ceil_mode=True)
    assert y.shape == (1, 2, 2, 2)
    assert sorted(y.flatten().tolist()) == [least] * 7 + [0]
    means = run("nn.VolumetricAveragePooling", x, **fields, ceil_mode=True)
    assert means.flatten().tolist() == [0] * 8
    padded = {**fields, "kT": 2, "padT": 1, "kW": 2, "kH": 2}
    assert run("nn.VolumetricMaxPooling", x, **padded, ceil_mode=True).shape == (1, 1, 1, 1)


def test_an_instance_of_one_pixel_becomes_the_bias() -> None:
    weight, bias = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0])
    module = to_module(node("nn.InstanceNormalization", nOutput=2, weight=weight, bias=bias))
    x = torch.randn(3, 2, 1, 1, requires_grad=True)
    for y in (module.eval()(x), module.train()(x)):
        same(y[:, :, 0, 0], bias.expand(3, 2).tolist())
    wide = torch.randn(3, 2, 4, 5)
    same(module(wide), nn.functional.instance_norm(wide, None, None, weight, bias))
    same(module(wide[0]), module(wide)[0])  # AdaIN-style's InstanceNormalization.lua
    with pytest.raises(ValueError, match=r"takes \(N,C,H,W\)"):
        module(wide[0, 0])


def test_a_norm_stabilizer_adds_the_slope_of_its_penalty() -> None:
    torch.manual_seed(0)
    beta = 0.7
    steps = [torch.randn(3, 4, dtype=torch.double, requires_grad=True) for _ in range(3)]
    weights = [torch.randn(3, 4, dtype=torch.double) for _ in steps]
    layer = NormStabilizer(beta)
    sum(((layer(x) * w).sum() for x, w in zip(steps, weights, strict=True))).backward()
    norms = [x.norm(dim=1) for x in steps]
    penalty = beta * sum((b - a).square().mean() for a, b in pairwise(norms))
    expected = torch.autograd.grad(penalty, steps)
    for x, weight, slope in zip(steps, weights, expected, strict=True):
        torch.testing.assert_close(x.grad, weight + slope)
    assert layer.eval()(steps[0]) is steps[0]
    layer.train().forget()
    assert layer(steps[0]) is steps[0]  # the first step has none before it
    with pytest.raises(ValueError, match=r"\(batch, features\)"):
        layer(torch.ones(3))


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("nn.Clamp", {"min_val": 0, "max_val": 1e300}, [0, 2]),
        ("nn.HardTanh", {"min_val": -1e300, "max_val": 1e300}, [-2, 2]),
        ("nn.ClippedReLU", {"ceiling": 1e300}, [0, 2]),
        ("nn.Threshold", {"threshold": 0, "val": -1e300}, [-INF, 2]),
        ("nn.LeakyReLU", {"negval": 1e300}, [-INF, 2]),
        ("nn.ELU", {"alpha": 1e300}, [-INF, 2]),
        ("nn.SoftPlus", {"threshold": 1e300, "beta": 1}, [math.log1p(math.e**-2), 2.126928]),
        ("nn.Clip", {"minval": -1e300, "maxval": 1e300}, [-2, 2]),
        ("nn.Padding", {"dim": 1, "pad": 1, "value": 1e300}, [-2, 2, INF]),
    ],
)
def test_numbers_beyond_floats_are_infinite_to_a_network_of_floats(
    name: str, fields: dict[str, Any], expected: list[float]
) -> None:
    module = to_module(node(name, **fields)).eval()
    same(module(torch.tensor([-2.0, 2.0])), expected)
    double = to_module(node(name, **fields), dtype=torch.double)
    written = from_module(double, as_read=False).fields
    assert {k: written.get(k) for k in fields} == fields or name == "nn.ClippedReLU"


def test_up_sampling_to_a_size() -> None:
    x = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
    fields = {"mode": "linear", "oheight": 2, "owidth": 4}
    same(run("nn.UpSampling", x, **fields), [[[[0, 1, 2, 3], [6, 7, 8, 9]]]])
    with pytest.raises(ValueError, match="needs the depth"):
        run("nn.UpSampling", x[None], **fields)
    volume = run("nn.UpSampling", x[None], **fields, odepth=3)
    same(volume[0, 0], [[[0, 1, 2, 3], [6, 7, 8, 9]]] * 3)
    for sizes in (fields, {**fields, "odepth": 3}, {"mode": "nearest", "scale_factor": 2}):
        written = from_module(to_module(node("nn.UpSampling", **sizes)), as_read=False).fields
        assert {
            k: v for k, v in written.items() if k in ("odepth", "scale_factor", *fields)
        } == sizes
    for wrong in ({"mode": "nearest", "oheight": 2, "owidth": 2}, {"mode": "linear"}):
        layer = node("nn.UpSampling", **wrong)
        with pytest.raises(T7Error, match="UpSampling: "):
            to_module(layer)


def test_a_number_becomes_one_row_of_a_one_hot() -> None:
    same(run("nn.OneHot", 2, outputSize=3), [0, 1, 0])
    same(run("nn.OneHot", torch.tensor([3, 1]), outputSize=3), [[0, 0, 1], [1, 0, 0]])


def test_cudnns_full_convolution_may_have_groups() -> None:
    fields = {"nInputPlane": 4, "nOutputPlane": 2, "kW": 3, "kH": 3, "dW": 2, "dH": 2}
    weight, x = torch.randn(4, 1, 3, 3), torch.randn(1, 4, 5, 5)
    expected = nn.functional.conv_transpose2d(x, weight, stride=2, groups=2)
    layer = node("cudnn.SpatialFullConvolution", **fields, weight=weight, groups=2)
    module = to_module(layer)
    same(module(x), expected)
    same(module([x, torch.zeros(11, 11)]), expected)
