"""Spatial transformers and the package inn, against their Lua code's formulas."""

import math

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import Table, TorchObject, from_module, to_module
from eyescream_py.torch7.layers.stn import AffineTransformMatrixGenerator

from ..class_cases import modules, node, sequential, storage

IMAGES = torch.arange(2 * 4 * 5 * 3.0).reshape(2, 4, 5, 3).sin()  # (N,H,W,C)


def module_of(name, **fields):
    return to_module(TorchObject(name, Table(fields)))


def lua_sample(image, rows, columns):
    """The loop of BilinearSamplerBHWD.c for one image (H,W,C)."""
    height, width, planes = image.shape
    output = np.zeros((*rows.shape, planes))
    for place in np.ndindex(*rows.shape):
        y, x = (rows[place] + 1) * (height - 1) / 2, (columns[place] + 1) * (width - 1) / 2
        top, left = math.floor(y), math.floor(x)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            if 0 <= top + i < height and 0 <= left + j < width:
                share = abs(1 - i - (y - top)) * abs(1 - j - (x - left))
                output[place] += share * image[top + i, left + j]
    return output


def test_a_spatial_transformer() -> None:
    parameters = torch.tensor([[0.4, 0.8, 1.3, 0.2, -0.5], [-1.0, 0.5, 0.6, 0.0, 0.3]])
    matrices = module_of(
        "nn.AffineTransformMatrixGenerator",
        fullMode=False, useRotation=True, useScale=True, useTranslation=True,
    )(parameters)  # fmt: skip
    grids = module_of("nn.AffineGridGeneratorBHWD", height=3, width=6)(matrices)
    output = module_of("nn.BilinearSamplerBHWD")([IMAGES, grids])
    for n, (angle, by_row, by_column, *shift) in enumerate(parameters.tolist()):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = turn @ np.diag([by_row, by_column])
        base = np.stack(np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 6), indexing="ij"))
        rows, columns = np.einsum("jk,khw->jhw", matrix, base) + (matrix @ shift)[:, None, None]
        np.testing.assert_allclose(grids[n, ..., 0], rows, atol=1e-6)
        np.testing.assert_allclose(
            output[n], lua_sample(IMAGES[n].numpy(), rows, columns), atol=1e-5
        )


@pytest.mark.parametrize(
    ("used", "parameters", "expected"),
    [
        ((False, False, False), [1.0, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]),
        ((True, False, False), [math.pi / 2], [[0, -1, 0], [1, 0, 0]]),
        ((False, True, False), [2.0], [[2, 0, 0], [0, 2, 0]]),
        ((False, False, True), [4.0, 5], [[1, 0, 4], [0, 1, 5]]),
        ((False, True, True), [2.0, 3, 4, 5], [[2, 0, 8], [0, 3, 15]]),
        ((False, True, True), [2.0, 4, 5], [[2, 0, 8], [0, 2, 10]]),
        ((True, True, True), [math.pi / 2, 2, 4, 5], [[0, -2, -10], [2, 0, 8]]),
    ],
)
def test_parts_of_a_transformation(used, parameters, expected) -> None:
    obj = from_module(AffineTransformMatrixGenerator(*used))
    assert obj.fields["fullMode"] is not any(used)
    made = to_module(obj)(torch.tensor(parameters))
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("used", "given", "expected"),
    [
        ((True, False, True), 2, 3),
        ((True, False, True), 5, 3),
        ((True, True, True), 3, 4),
        ((True, True, True), 6, 4),
        ((False, False, False), 12, 6),
    ],
)
def test_another_number_of_parameters_is_refused(used, given, expected) -> None:
    with pytest.raises(ValueError, match=f"{given} parameters where {expected} are expected"):
        AffineTransformMatrixGenerator(*used)(torch.zeros(4, given))


WINDOW = {"kW": 3, "kH": 2, "dW": 2, "dH": 2}


@pytest.mark.parametrize("name", ["inn.SpatialAveragePooling", "inn.SpatialMaxPooling"])
@pytest.mark.parametrize("fields", [{}, {"ceil_mode": False, "divide": True}])
def test_poolings_of_inn_keep_the_partial_windows(name, fields) -> None:
    x = IMAGES.permute(0, 3, 1, 2)[..., :4].contiguous()  # (2,3,4,4): columns 0-2, then 2-3
    y = module_of(name, **WINDOW, **fields)(x)
    reduce = torch.mean if "Average" in name else torch.amax
    for row in range(2):
        for column in range(2):
            part = x[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 3]
            torch.testing.assert_close(y[..., row, column], reduce(part, dim=(2, 3)))


@pytest.mark.parametrize(
    "name", ["inn.SpatialCrossResponseNormalization", "cudnn.SpatialCrossMapLRN"]
)
@pytest.mark.parametrize("size", [3, 4])
def test_normalization_over_planes(name, size) -> None:
    """Of an even size (size - 1) // 2 planes come before, the others after (cuDNN's manual)."""
    x = torch.arange(2 * 7 * 4.0).reshape(1, 7, 2, 4).sin()
    y = module_of(name, size=size, alpha=0.5, beta=0.75, k=2)(x)
    before = (size - 1) // 2
    near = [x[:, max(0, c - before) : c - before + size].square().sum(1) for c in range(7)]
    torch.testing.assert_close(y, x * (2 + 0.5 / size * torch.stack(near, 1)) ** -0.75)
    assert y[0].allclose(module_of(name, size=size, alpha=0.5, beta=0.75, k=2)(x[0]))


def test_a_pyramid_of_poolings() -> None:
    sizes = [(2, 3), (1, 1)]
    parts = []
    for width, height in sizes:
        pooling = node("nn.SpatialAdaptiveMaxPooling", W=width, H=height)
        view = node("nn.View", size=storage(-1), numElements=-1, numInputDims=3)
        parts.append(sequential(pooling, view, node("nn.Contiguous")))
    pyramid = module_of("inn.SpatialPyramidPooling", modules=modules(*parts), dimension=1)
    x = torch.arange(2 * 3 * 6 * 4.0).reshape(2, 3, 6, 4).sin()
    blocks = [
        x[..., 6 * i // h : 6 * (i + 1) // h, 4 * j // w : 4 * (j + 1) // w].amax((2, 3))
        for w, h in sizes
        for i in range(h)
        for j in range(w)
    ]
    fine, coarse = torch.stack(blocks[:6], 2), blocks[6]
    expected = torch.cat([fine.flatten(1), coarse], 1)
    torch.testing.assert_close(pyramid(x), expected)
    torch.testing.assert_close(pyramid(x[1]), expected[1])


def test_a_normalization_that_is_built_of_layers() -> None:
    square = sequential(
        node("nn.SpatialZeroPadding", pad_l=1, pad_r=1, pad_t=1, pad_b=1),
        node("nn.Power", pow=2),
        node("nn.SpatialAveragePooling", kW=3, kH=3, dW=1, dH=1, divide=True),
        node("nn.MulConstant", constant_scalar=0.5),
        node("nn.AddConstant", constant_scalar=1),
        node("nn.Power", pow=0.75),
    )
    both = node("nn.ConcatTable", modules=modules(node("nn.Identity"), square))
    inner = sequential(both, node("nn.CDivTable"))
    x = torch.arange(2 * 4 * 5.0).reshape(1, 2, 4, 5).sin()
    near = torch.nn.functional.pad(x.square(), (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    expected = x / (1 + 0.5 * near.mean((4, 5))) ** 0.75
    layer = module_of("inn.LocalResponseNormalization", modules=inner)
    torch.testing.assert_close(layer(x), expected)


def test_a_mean_that_was_repeated_for_a_batch() -> None:
    mean = IMAGES[:1].permute(0, 3, 1, 2)
    x = torch.ones(3, 3, 4, 5)
    for kept in (mean[0], mean, mean.expand(7, -1, -1, -1)):
        torch.testing.assert_close(module_of("inn.MeanSubtraction", mean=kept)(x), x - mean)


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)])
def test_affine_constants(shape) -> None:
    a, b = torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 10, 20])
    module = module_of("inn.ConstAffine", a=a.reshape(shape), b=b.reshape(shape))
    assert module(torch.ones(2, 3)).tolist() == [[1, 12, 23]] * 2
    assert module(torch.ones(1, 3, 2, 2))[0, :, 1, 1].tolist() == [1, 12, 23]


def test_layers_of_the_later_waifu2x() -> None:
    scale = module_of("w2nn.ScaleTable")
    assert scale([torch.ones(1, 2, 3, 3), torch.tensor([[[[2.0]], [[5.0]]]])])[0, 1, 2, 2] == 5
    parts = [torch.zeros(1), torch.ones(1)]
    losses = module_of("w2nn.AuxiliaryLossTable", i=2, train=True)
    assert losses(parts) == parts
    assert losses.eval()(parts) is parts[1]
