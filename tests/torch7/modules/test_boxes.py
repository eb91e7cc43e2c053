"""Object detection of old: DeepMask, SharpMask, multipathnet, against loops over their sources."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module

from ..class_cases import LINEAR, SQUARE, modules, node, random, storage

BOXES = torch.tensor(
    [[1, 3.4, 2, 21, 15.9], [2, 1, 1, 32, 24], [2, 9, 9, 9.2, 9], [1, 25, 20, 90, 70]]
)
IMAGES = random(2, 3, 12, 16).double()


def both_ways(obj: TorchObject) -> list[torch.nn.Module]:
    module = to_module(obj, None)
    return [module, to_module(load(save(None, from_module(module))), None)]


def c_round(x: float) -> int:
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def pooled(boxes: torch.Tensor, scale: float, second: bool, height: int, width: int) -> np.ndarray:
    """ROIPoolForward and ROIPoolForwardV2 of ROIPooling.cu."""
    data = IMAGES.numpy()
    y = np.zeros((len(boxes), 3, height, width))
    for n, box in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (c_round((corner - 1) * scale) for corner in box[1:])
        if second:
            x2, y2 = x2 - 1, y2 - 1
        h, w = max(y2 - y1 + 1, 1) / height, max(x2 - x1 + 1, 1) / width
        lower, upper = (c_round, c_round) if second else (math.floor, math.ceil)
        for i in range(height):
            for j in range(width):
                rows = [min(max(e + y1, 0), 12) for e in (lower(i * h), upper((i + 1) * h))]
                columns = [min(max(e + x1, 0), 16) for e in (lower(j * w), upper((j + 1) * w))]
                part = data[int(box[0]) - 1, :, slice(*rows), slice(*columns)]
                if part.size:
                    y[n, :, i, j] = part.max((1, 2))
    return y


@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize(("scale", "height", "width"), [(0.5, 3, 4), (1, 7, 7), (0.3, 2, 5)])
def test_maxima_of_boxes(second: bool, scale: float, height: int, width: int) -> None:
    fields = {"H": height, "W": width, "spatial_scale": scale, **({"v2": True} if second else {})}
    for module in both_ways(node("inn.ROIPooling", **fields)):
        y = module([IMAGES, BOXES])
        np.testing.assert_array_equal(y, pooled(BOXES, scale, second, height, width))
        assert module([IMAGES, BOXES[:0]]).shape == (0, 3, height, width)
    with pytest.raises(ValueError, match="a box is in image 3, and there are 2"):
        module([IMAGES, torch.tensor([[3.0, 1, 1, 2, 2]])])
    with pytest.raises(ValueError, match=r"boxes are \(R,5\), not \(4, 4\)"):
        module([IMAGES, BOXES[:, 1:]])
    x = IMAGES.clone().requires_grad_()
    module([x, BOXES[2:3]]).sum().backward()
    if scale == 1:  # a box of one pixel, which each of its parts sees or none
        assert x.grad.nonzero()[:, 0].tolist() == [1] * 3


def test_of_equal_pixels_of_a_box_the_first_gets_the_gradient() -> None:
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    with torch.no_grad():
        x[0, 0, 1, 2] = x[0, 0, 2, 0] = 1  # the first in the order of memory
    layer = to_module(node("inn.ROIPooling", H=1, W=1, spatial_scale=1, v2=True))
    layer([x, torch.tensor([[1.0, 1, 1, 5, 5]])]).sum().backward()
    assert x.grad is not None
    assert x.grad.nonzero().tolist() == [[0, 0, 1, 2]]


def test_boxes_of_too_many_parts_are_refused() -> None:
    for height, width in ((2**30, 1), (2000, 2000)):
        with pytest.raises(T7Error, match=f"{height} x {width} parts of a box are more than"):
            to_module(node("inn.ROIPooling", H=height, W=width))


def test_boxes_are_made_and_moved() -> None:
    for module in both_ways(node("nn.Foveal")):
        y = module(BOXES).view(4, 4, 5).numpy()
    for box, made in zip(BOXES.numpy(), y, strict=True):
        w, h = box[3] - box[1], box[4] - box[2]
        for row, (back, size) in zip(made[1:], ((0.25, 1.5), (0.5, 2), (1.5, 4)), strict=True):
            x, top = box[1] - w * back, box[2] - h * back
            np.testing.assert_allclose(row, [box[0], x, top, x + w * size, top + h * size], 1e-5)
        assert (made[0] == box).all()
    tr = torch.tensor([[1.5, 0, -0.5, 0], [0, 1.5, 0, -0.5], [-0.5, 0, 1.5, 0], [0, -0.5, 0, 1.5]])
    for module in both_ways(node("nn.ContextRegion", tr=tr)):
        expected = [1, -0.5, -0.5, 3.5, 3.5]  # twice as large around (1.5, 1.5)
        assert module(torch.tensor([[1.0, 0.5, 0.5, 2.5, 2.5]])).tolist() == [expected]
    offsets = torch.tensor([[0.5, -0.25, math.log(2), 0]]).double()
    for module in both_ways(node("nn.ConvertFrom")):
        moved = module([torch.tensor([[1.0, 0, 0, 4, 8]]).double(), offsets])
        torch.testing.assert_close(moved, torch.tensor([[1.0, 0, -2, 8, 6]]).double())


def test_offsets_and_modes() -> None:
    mean, std = random(1, 4).double(), random(1, 4, seed=1).double()
    x = random(3, 8).double()
    for module in both_ways(node("nn.BBoxNorm", mean=mean, std=std, train=False)):
        expected = x * std.repeat(1, 2) + mean.repeat(1, 2)
        torch.testing.assert_close(module(x), expected)
        assert torch.equal(module.train()(x), x)
    both = modules(SQUARE, node("nn.Abs"))
    for module in both_ways(node("nn.ModeSwitch", modules=both, train=False)):
        assert torch.equal(module(x), x.abs())
        assert torch.equal(module.train()(x), x.square())
    with pytest.raises(T7Error, match="it has 1 modules, not two"):
        to_module(node("nn.ModeSwitch", modules=modules(SQUARE)))


@pytest.mark.parametrize("inplace", [True, None])
def test_constants_in_place_of_batch_normalization(inplace: bool | None) -> None:
    a, b = random(1, 3, 1, 1).double(), random(1, 3, 1, 1, seed=1).double()
    constants = node("nn.SpatialConstDiagonal", a=a, b=b, inplace=inplace)
    relu = node("cudnn.ReLU", inplace=True)
    chain = node("nn.Sequential", modules=modules(SQUARE, constants, relu))
    for module in both_ways(chain):
        x = IMAGES.clone().requires_grad_()
        y = module(x)
        torch.testing.assert_close(y, (IMAGES**2 * a + b).relu())
        y.sum().backward()
        torch.testing.assert_close(x.grad, 2 * IMAGES * a * (y > 0))
    beside = node("nn.ConcatTable", modules=modules(constants, node("nn.Identity")))
    for module in both_ways(beside):
        first, second = module(IMAGES.clone())
        torch.testing.assert_close(first, IMAGES * a + b)
        torch.testing.assert_close(second, first if inplace else IMAGES)


def test_deep_mask() -> None:
    """Two branches; that of the masks ends in nnx's resampling, as facebook's models do."""
    trunk = node("nn.Sequential", modules=modules(SQUARE))
    larger = node("nn.Sequential", modules=modules(
        node("nn.Copy", intype="torch.CudaTensor", outtype="torch.FloatTensor"),
        node("nn.View", size=storage(2, 2, 3)),
        node("nn.SpatialReSamplingEx", oheight=3, owidth=5, mode="bilinear", yDim=2, xDim=3),
        node("nn.View", size=storage(2, 15)),
    ))  # fmt: skip
    masks = node(
        "nn.Sequential", modules=modules(node("nn.MulConstant", constant_scalar=3), larger)
    )
    obj = node(
        "nn.DeepMask", trunk=trunk, maskBranch=masks, scoreBranch=node("nn.Max", dimension=2)
    )
    x = random(2, 6)
    made = torch.nn.functional.interpolate(
        3 * x.square().view(2, 1, 2, 3), size=(3, 5), mode="bilinear", align_corners=True
    )
    for module in both_ways(obj):
        y, scores = module(x)
        torch.testing.assert_close(y, made.view(2, 15))
        torch.testing.assert_close(scores, x.square().amax(1))


def test_sharp_mask() -> None:
    """Each refinement takes a layer of the trunk and the masks so far."""
    layers = [node("nn.MulConstant", constant_scalar=factor) for factor in (2, 3, 5)]
    add = node("nn.Sequential", modules=modules(node("nn.CAddTable")))
    minus = node("nn.Sequential", modules=modules(node("nn.CSubTable")))
    trunk = node("nn.Sequential", modules=modules(*layers))
    fields: dict[str, Any] = {
        "trunk": trunk,
        "refs": Table({0: SQUARE, 1: add, 2: minus}),
        "skpos": Table.from_list([2, 1]),
        "scoreBranch": LINEAR,
    }
    x = random(4, 3)
    weight, bias = LINEAR.fields["weight"], LINEAR.fields["bias"]
    for module in both_ways(node("nn.SharpMask", **fields)):
        masks, scores = module(x)
        torch.testing.assert_close(masks, 2 * x - (6 * x + (30 * x).square()))
        torch.testing.assert_close(scores, 30 * x @ weight.t() + bias)
    for wrong, message in (
        ({"refs": Table({1: add, 2: minus})}, "refs is no table of 0 to 2"),
        ({"skpos": Table.from_list([2, 9])}, "the trunk has no layers 2, 9"),
        ({"trunk": SQUARE}, "the trunk has no layers 2, 1"),
    ):
        with pytest.raises(T7Error, match=message):
            to_module(node("nn.SharpMask", **{**fields, **wrong}))
