"""Layers on images (C,H,W,N), of cunn in 2013 and of ccn2, against loops over their windows."""

from typing import Any

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import T7Error, TorchObject, from_module, load, save, to_module

from ..class_cases import modules, node, random, tables

X = random(4, 7, 7, 3)


def windows(size: int, kernel: int, stride: int, count: int) -> list[slice]:
    """Those of one axis; the last one may reach beyond the border."""
    return [slice(i * stride, min(i * stride + kernel, size)) for i in range(count)]


def convolved(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, count: int
) -> np.ndarray:
    """``weight`` (C,k,k,outputs): one product for each output pixel, image and plane."""
    size, kernel = x.shape[1], weight.shape[1]
    y = np.zeros((weight.shape[3], count, count, x.shape[3]))
    for i, rows in enumerate(windows(size, kernel, stride, count)):
        for j, columns in enumerate(windows(size, kernel, stride, count)):
            part = x[:, rows, columns]
            used = weight[:, : part.shape[1], : part.shape[2]]
            y[:, i, j] = np.einsum("chwn,chwo->on", part, used)
    return y + bias[:, None, None, None]


def padded(before: int, after: int) -> np.ndarray:
    return np.pad(X.double().numpy(), ((0, 0), (before, after), (before, after), (0, 0)))


def agrees(obj: TorchObject, expected: np.ndarray) -> None:
    module = to_module(obj)
    for opened in (module, to_module(load(save(None, from_module(module))))):
        y = opened(X).detach().numpy()
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("padding", "sides"), [(None, (0, 0)), (2, (1, 1)), (3, (1, 2))])
def test_convolution_of_cunn(padding: int | None, sides: tuple[int, int]) -> None:
    weight, bias = random(4, 3, 3, 5, seed=1), random(5, seed=2)
    fields: dict[str, Any] = {"kW": 3, "kH": 3, "dW": 2, "dH": 2, "padding": padding}
    obj = node(
        "nn.SpatialConvolutionCUDA", nInputPlane=4, nOutputPlane=5, weight=weight, bias=bias,
        partialSum=0, **fields,
    )  # fmt: skip
    x = padded(*sides)
    count = (x.shape[1] - 3) // 2 + 1
    agrees(obj, convolved(x, weight.numpy(), bias.numpy(), 2, count))


@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (3, 0), (4, 1)])
def test_convolution_of_ccn2(groups: int | None, stride: int, padding: int) -> None:
    """Since it has groups it counts windows that reach beyond the border."""
    parts = groups or 1
    weight, bias = random(4 // parts, 3, 3, 6, seed=1), random(6, seed=2)
    obj = node(
        "ccn2.SpatialConvolution", nInputPlane=4, nOutputPlane=6, kH=3, dH=stride, groups=groups,
        padding=padding, weight=weight.view(-1, 6), bias=bias,
    )  # fmt: skip
    x = padded(padding, padding)
    rounded = np.ceil if groups else np.floor
    count = int(rounded((x.shape[1] - 3) / stride)) + 1
    halves = [
        convolved(
            x[i * 4 // parts : (i + 1) * 4 // parts],
            weight.numpy()[..., i * 6 // parts : (i + 1) * 6 // parts],
            bias.numpy()[i * 6 // parts : (i + 1) * 6 // parts],
            stride,
            count,
        )
        for i in range(parts)
    ]
    agrees(obj, np.concatenate(halves))


def test_poolings() -> None:
    """cunn leaves a last, partial window out, ccn2 counts it."""
    x = X.numpy()
    cuda = node("nn.SpatialMaxPoolingCUDA", kW=2, kH=2, dW=2, dH=2)
    ccn2 = node("ccn2.SpatialMaxPooling", kW=2, dW=2)
    for obj, count in ((cuda, 3), (ccn2, 4)):
        parts = windows(7, 2, 2, count)
        agrees(
            obj, np.stack([np.stack([x[:, r, c].max((1, 2)) for c in parts], 1) for r in parts], 1)
        )


def test_a_network_between_two_transpositions() -> None:
    """As alexnet_ccn2.lua has it."""
    weight, bias = random(4 * 9, 6, seed=1), random(6, seed=2)
    net = node("nn.Sequential", modules=modules(
        node("nn.Transpose", permutations=tables((1, 4), (1, 3), (1, 2))),
        node("ccn2.SpatialConvolution", nInputPlane=4, nOutputPlane=6, kH=3, dH=1, groups=1,
             padding=1, weight=weight, bias=bias),
        node("cudnn.ReLU", inplace=True),
        node("nn.Transpose", permutations=tables((4, 1), (4, 2), (4, 3))),
    ))  # fmt: skip
    filters = weight.view(4, 3, 3, 6).permute(3, 0, 1, 2)
    x = X.permute(3, 0, 1, 2)
    expected = torch.conv2d(x, filters, bias, padding=1).relu()
    torch.testing.assert_close(to_module(net)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 3}, "4 and 6 planes are not divided by 3 groups"),
        ({"padding": -1}, "the field padding is negative: -1"),
        ({"kH": 2}, "weight has shape"),
    ],
)
def test_wrong_fields_are_told(fields: dict[str, Any], message: str) -> None:
    good = {"nInputPlane": 4, "nOutputPlane": 6, "kH": 3, "dH": 1, "padding": 1}
    weights = {"weight": random(36, 6), "bias": random(6)}
    with pytest.raises(T7Error, match=message):
        to_module(node("ccn2.SpatialConvolution", **{**good, **weights, **fields}))


def test_images_without_a_batch_are_refused() -> None:
    pooling = to_module(node("ccn2.SpatialMaxPooling", kW=2))
    with pytest.raises(ValueError, match=r"take \(C,H,W,N\), not \(4, 7, 7\)"):
        pooling(X[..., 0])
