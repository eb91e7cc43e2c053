"""nnx's layers that resize images, against its C code's loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import T7Error, TorchObject, from_module, load, save, to_module

from ..class_cases import node, random

X = random(2, 3, 6, 8)


def agrees(obj: TorchObject, x: torch.Tensor, expected: np.ndarray) -> None:
    module = to_module(obj)
    for opened in (module, to_module(load(save(None, from_module(module))))):
        y = opened(x).numpy()
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def resized(x: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """SpatialReSamplingEx.c, pixel by pixel; images in the last two dimensions."""
    old_height, old_width = x.shape[-2:]
    y = np.zeros((*x.shape[:-2], height, width))
    for i in range(height):
        for j in range(width):
            if mode == "bilinear":
                at = i * (old_height - 1) / (height - 1), j * (old_width - 1) / (width - 1)
                (top, down), (left, right) = math.modf(at[0])[::-1], math.modf(at[1])[::-1]
                rows = [int(top), min(int(top) + 1, old_height - 1)]
                columns = [int(left), min(int(left) + 1, old_width - 1)]
                for r, part in zip(rows, (1 - down, down), strict=True):
                    for c, share in zip(columns, (1 - right, right), strict=True):
                        y[..., i, j] += part * share * x[..., r, c]
            elif height >= old_height:
                times = math.ceil(height / old_height), math.ceil(width / old_width)
                y[..., i, j] = x[..., i // times[0], j // times[1]]
            else:
                h, w = old_height // height, old_width // width
                block = x[..., i * h : (i + 1) * h, j * w : (j + 1) * w]
                y[..., i, j] = block.mean((-2, -1)) if mode == "average" else block[..., 0, 0]
    return y


@pytest.mark.parametrize("mode", ["simple", "average", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(12, 16), (7, 20), (3, 4), (4, 3), (2, 7)])
def test_resampling_of_three_modes(mode: str, height: int, width: int) -> None:
    fields = {"oheight": height, "owidth": width, "mode": mode, "yDim": 3, "xDim": 4}
    agrees(node("nn.SpatialReSamplingEx", **fields), X, resized(X.numpy(), height, width, mode))


def test_dimensions_and_ratios() -> None:
    """(H,W,C) as well as (C,H,W), and sizes that are rounded, or cut in the older class."""
    image = X[0].permute(1, 2, 0)
    fields = {"rheight": 0.6, "rwidth": 0.45, "yDim": 1, "xDim": 2, "mode": "bilinear"}
    expected = resized(X[0].numpy(), 4, 4, "bilinear").transpose(1, 2, 0)
    agrees(node("nn.SpatialReSamplingEx", **fields), image, expected)
    older = node("nn.SpatialReSampling", rheight=0.6, rwidth=0.45)
    for x in (X, X[0]):
        agrees(older, x, resized(x.numpy(), 3, 3, "bilinear"))
    called = node("nn.SpatialReSampling", rheight=0.6, rwidth=0.45, oheight=5, owidth=9)
    agrees(called, X, resized(X.numpy(), 5, 9, "bilinear"))


def test_up_sampling() -> None:
    larger = X.numpy().repeat(2, -2).repeat(3, -1)
    agrees(node("nn.SpatialUpSampling", dH=2, dW=3, yDim=3, xDim=4), X, larger)
    agrees(node("nn.SpatialUpSampling", dH=2, dW=3), X[0], larger[0])


def test_padding() -> None:
    sides = {"pad_l": 2, "pad_r": -1, "pad_t": -2, "pad_b": 3}
    wide = np.pad(X.numpy()[..., 2:, :-1], ((0, 0), (0, 0), (0, 3), (2, 0)))
    agrees(node("nn.SpatialPadding", **sides, y_dim=3, x_dim=4), X, wide)
    agrees(node("nn.SpatialPadding", **sides), X[0], wide[0])
    flipped = node("nn.SpatialPadding", **sides, y_dim=4, x_dim=3)
    agrees(flipped, X.transpose(2, 3), wide.swapaxes(2, 3))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ReSamplingEx", {"mode": "cubic", "oheight": 2, "owidth": 2}, "mode cubic is none of"),
        ("ReSamplingEx", {"oheight": 2}, "the field rwidth is missing"),
        ("ReSampling", {"rheight": -1, "rwidth": 2}, "rheight is no ratio of sizes: -1"),
        ("UpSampling", {"dH": 2, "dW": 2, "yDim": 1, "xDim": 3}, "xDim has to be yDim"),
        ("Padding", {**dict.fromkeys(("pad_l", "pad_r", "pad_t", "pad_b"), 1), "y_dim": 3}, "both"),
    ],
)
def test_wrong_fields_are_told(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(T7Error, match=message):
        to_module(node(f"nn.Spatial{name}", **fields))


def test_layers_without_a_size() -> None:
    x = X.numpy()
    agrees(node("nn.Minus"), X, -x)
    powers = np.exp(x[0])
    agrees(node("nn.MultiSoftMax"), X[0], powers / powers.sum(2, keepdims=True))
    weight, bias = random(4, 3), random(4, seed=1)
    expected = np.einsum("oc,chw->ohw", weight.numpy(), x[0]) + bias.numpy()[:, None, None]
    module = to_module(node("nn.SpatialLinear", weight=weight, bias=bias, fanin=3, fanout=4))
    np.testing.assert_allclose(module(X[0]).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_height_and_width_change_alike() -> None:
    module = to_module(node("nn.SpatialReSamplingEx", oheight=9, owidth=4, yDim=3))
    with pytest.raises(ValueError, match=r"images of \(6, 8\) cannot become \(9, 4\)"):
        module(X)


def test_gradients() -> None:
    x = X[0].double().requires_grad_()
    for fields in (
        {"oheight": 7, "owidth": 9},
        {"oheight": 2, "owidth": 3},
        {"oheight": 2, "owidth": 3, "mode": "average"},
    ):
        module = to_module(node("nn.SpatialReSamplingEx", **fields), None)
        assert torch.autograd.gradcheck(module, x)
