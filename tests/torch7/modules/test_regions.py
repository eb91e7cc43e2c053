"""densecap: its layers, and a small model of the whole, against loops over its Lua sources."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module
from eyescream_py.torch7.layers.regions import likeliest

from ..class_cases import SQUARE, modules, node, random, sequential, storage

HEIGHT, WIDTH, PLANES, BOXES = 5, 7, 3, 2
PICTURE = (40, 56)
ANCHORS = torch.tensor([[30.0, 12.0], [10.0, 25.0]]).double()  # widths, heights
PLACES = {"x0": 4.5, "y0": 3.5, "sx": 8, "sy": 7}


def both_ways(obj: TorchObject) -> list[nn.Module]:
    module = to_module(obj, None).eval()
    return [module, to_module(load(save(None, from_module(module))), None).eval()]


def convolution(outputs: int, inputs: int, seed: int, factor: float = 1.0) -> TorchObject:
    weight = factor * random(outputs, inputs, 1, 1, seed=seed).double()
    bias = factor * random(outputs, seed=seed + 1).double()
    return node("nn.SpatialConvolution", nInputPlane=inputs, nOutputPlane=outputs, kW=1, kH=1,
                dW=1, dH=1, weight=weight, bias=bias)  # fmt: skip


def both(*layers: TorchObject) -> TorchObject:
    return node("nn.ConcatTable", modules=modules(*layers))


def localization(**fields: Any) -> TorchObject:
    """As build_rpn in LocalizationLayer.lua, with convolutions of single pixels."""
    in_rows = node("nn.ReshapeBoxFeatures", k=BOXES)
    changes = convolution(4 * BOXES, PLANES, 1, 0.3)
    anchors = sequential(node("nn.MakeAnchors", **PLACES, anchors=ANCHORS), in_rows)
    boxes = sequential(
        changes,
        node("nn.RegularizeLayer", w=5e-5, gradMul=1),
        both(anchors, in_rows),
        both(node("nn.ApplyBoxTransform"), node("nn.Identity")),
    )
    scores = sequential(convolution(2 * BOXES, PLANES, 3), in_rows)
    rpn = sequential(SQUARE, both(boxes, scores), node("nn.FlattenTable"))
    pooling = node("nn.BilinearRoiPooling", height=3, width=2)
    return node("nn.LocalizationLayer", nets=Table(rpn=rpn, roi_pooling=pooling), **fields)


def edges(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] - (box[2:] - 1) / 2, box[:2] + (box[2:] - 1) / 2])


def suppressed(boxes: np.ndarray, scores: np.ndarray, overlap: float, most: int) -> list[int]:
    """box_utils.nms, two boxes at a time."""
    left, chosen = list(np.argsort(-scores)), []
    while left and len(chosen) < most:
        best = left.pop(0)
        chosen.append(int(best))
        kept = []
        for other in left:
            a, b = edges(boxes[best]), edges(boxes[other])
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1
            shared = np.prod(np.maximum(sides, 0))
            union = np.prod(a[2:] - a[:2] + 1) + np.prod(b[2:] - b[:2] + 1) - shared
            if shared / union <= overlap:
                kept.append(other)
        left = kept
    return chosen


def proposals(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and the chance of a region, anchor by anchor and place by place."""
    squares = features[0] ** 2
    fields = [
        convolution(4 * BOXES, PLANES, 1, 0.3).fields,
        convolution(2 * BOXES, PLANES, 3).fields,
    ]
    change, score = (
        np.einsum("oc,chw->ohw", f["weight"].numpy()[:, :, 0, 0], squares)
        + f["bias"].numpy()[:, None, None]
        for f in fields
    )
    boxes, chances = [], []
    for k in range(BOXES):
        for i in range(HEIGHT):
            for j in range(WIDTH):
                tx, ty, tw, th = change[4 * k : 4 * k + 4, i, j]
                w, h = ANCHORS[:, k].tolist()
                x, y = 4.5 + 8 * j + tx * w, 3.5 + 7 * i + ty * h
                boxes.append([x, y, w * np.exp(tw), h * np.exp(th)])
                yes, no = np.exp(score[2 * k : 2 * k + 2, i, j])
                chances.append(yes / (yes + no))
    return np.array(boxes), np.array(chances)


def within(boxes: np.ndarray, chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """box_utils.clip_boxes, and what is left of them."""
    height, width = PICTURE
    kept, rest = [], []
    for box, chance in zip(boxes, chances, strict=True):
        x1, y1, x2, y2 = edges(box)
        x1, y1 = np.clip(x1, 1, width - 1), np.clip(y1, 1, height - 1)
        x2, y2 = np.clip(x2, 2, width), np.clip(y2, 2, height)
        if x2 > x1 and y2 > y1:
            kept.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
            rest.append(chance)
    return np.array(kept), np.array(rest)


def pooled(features: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Interpolated at 3 x 2 places of a box; BoxToAffine.lua's scale of -1 to 1."""
    y = np.zeros((PLANES, 3, 2))
    sizes = (HEIGHT, WIDTH)
    for i in range(3):
        for j in range(2):
            at = []
            for step, axis in (((-1, 0, 1)[i], 0), ((-1, 1)[j], 1)):
                centre, length = box[1 - axis], box[3 - axis]
                extent = PICTURE[axis]
                part = step * length / extent + (2 * centre - extent - 1) / (extent - 1)
                at.append((part + 1) / 2 * (sizes[axis] - 1))
            low = [int(np.floor(p)) for p in at]
            for r in (0, 1):
                for c in (0, 1):
                    row, column = low[0] + r, low[1] + c
                    share = abs(1 - r - (at[0] - low[0])) * abs(1 - c - (at[1] - low[1]))
                    if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                        y[:, i, j] += share * features[0, :, row, column]
    return y


FEATURES = random(1, PLANES, HEIGHT, WIDTH, seed=9).double()


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("overlap", "most"), [(0.3, 300), (0.7, 4), (0.2, -1)])
def test_regions_are_found(clip: bool, overlap: float, most: int) -> None:
    fields = {"test_nms_thresh": overlap, "test_max_proposals": most, "test_clip_boxes": clip}
    boxes, chances = proposals(FEATURES.numpy())
    boxes, chances = within(boxes, chances) if clip else (boxes, chances)
    chosen = suppressed(boxes, chances, overlap, most if most > 0 else 10**6)
    assert 3 < len(chosen) < len(boxes)
    for layer in both_ways(localization(**fields)):
        layer.picture = PICTURE
        codes, found, *empty = layer(FEATURES)
        np.testing.assert_allclose(found.detach(), boxes[chosen], rtol=1e-9)
        expected = np.stack([pooled(FEATURES.numpy(), box) for box in boxes[chosen]])
        np.testing.assert_allclose(codes.detach(), expected, rtol=1e-7, atol=1e-9)
        assert [part.numel() for part in empty] == [0, 0]


def test_what_regions_need_is_told() -> None:
    layer: Any = to_module(localization())
    with pytest.raises(ValueError, match="regions are drawn by true ones while training"):
        layer.train()(FEATURES)
    with pytest.raises(ValueError, match="set picture to its"):
        layer.eval()(FEATURES)
    with pytest.raises(T7Error, match=r"nets\.rpn expected an nn object, found nothing"):
        to_module(node("nn.LocalizationLayer", nets=Table()))
    anchors = node("nn.MakeAnchors", **PLACES, anchors=ANCHORS.t()[:1])
    with pytest.raises(T7Error, match=r"anchors has shape \(1, 2\), expected \(2, k\)"):
        to_module(anchors)


CODES, WORDS, LENGTH = PLANES * 6, 6, 4


def linear(outputs: int, inputs: int, seed: int) -> TorchObject:
    weight = 0.3 * random(outputs, inputs, seed=seed).double()
    return node("nn.Linear", weight=weight, bias=random(outputs, seed=seed + 1).double())


def language_model() -> TorchObject:
    unit = node("nn.LSTM", weight=random(8, 16, seed=30).double(), remember_states=False,
                bias=random(16, seed=31).double(), input_dim=4, hidden_dim=4)  # fmt: skip
    views = [node("nn.View", size=storage(1, -1), numElements=1, numInputDims=n) for n in (1, 3, 2)]
    return node(
        "nn.LanguageModel",
        image_encoder=sequential(linear(4, CODES, 32), node("nn.ReLU"), views[0]),
        lookup_table=node("nn.LookupTable", weight=30 * random(WORDS + 2, 4, seed=34).double()),
        rnn=sequential(unit, views[1], linear(WORDS + 1, 4, 35), views[2]),
        view_in=views[1],
        view_out=views[2],
        vocab_size=WORDS,
        seq_length=LENGTH,
    )


def recognition() -> TorchObject:
    """_buildRecognitionNet of DenseCapModel.lua, in containers instead of a graph."""
    features, boxes, true, labels = (node("nn.SelectTable", index=i) for i in (1, 2, 3, 4))
    view = node("nn.View", size=storage(CODES), numElements=CODES, numInputDims=3)
    codes, slicer = sequential(features, view), node("nn.PosSlicer")
    own = sequential(both(codes, labels), slicer)
    places = sequential(both(boxes, true), slicer)
    changes = sequential(own, linear(4, CODES, 22))
    final = sequential(both(places, changes), node("nn.ApplyBoxTransform"))
    words = sequential(both(own, labels), language_model())
    scores = sequential(codes, linear(1, CODES, 20))
    return both(scores, places, changes, final, words, true, labels)


@pytest.mark.parametrize("overlap", [0.3, 0.1, 0])
def test_the_regions_of_a_picture_and_their_captions(overlap: float) -> None:
    """Boxes change once more, and of those that share too much the likeliest stays."""
    layer = localization(test_nms_thresh=0.7, test_max_proposals=20)
    pooling = node("nn.SpatialAveragePooling", kW=8, kH=8, dW=8, dH=8, divide=True)
    net = sequential(pooling, layer, recognition())
    options = Table(final_nms_thresh=overlap)
    picture = random(1, PLANES, *PICTURE, seed=40).double() * 5
    features = to_module(pooling, None)(picture)
    found: Any = to_module(layer, None).eval()
    found.picture = PICTURE
    codes, boxes, *_ = found(features)
    rows = codes.flatten(1).detach()
    scores, changes = (
        (rows @ part.fields["weight"].t() + part.fields["bias"]).numpy()
        for part in (linear(1, CODES, 20), linear(4, CODES, 22))
    )
    before = boxes.detach().numpy()
    moved = before[:, :2] + changes[:, :2] * before[:, 2:]
    final = np.concatenate([moved, before[:, 2:] * np.exp(changes[:, 2:])], 1)
    kept = suppressed(final, scores[:, 0], overlap, 99) if overlap else list(range(len(final)))
    captions = to_module(language_model(), None).sample(rows).numpy()
    assert len(kept) > 2
    for model in both_ways(node("nn.DenseCapModel", net=net, opt=options)):
        made = [part.detach().numpy() for part in model(picture)]
        np.testing.assert_allclose(made[0], scores[kept], rtol=1e-9)
        np.testing.assert_allclose(made[1], before)
        np.testing.assert_allclose(made[2], changes, rtol=1e-9)
        np.testing.assert_allclose(made[3], final[kept], rtol=1e-9)
        assert (made[4] == captions[kept]).all()
    with pytest.raises(T7Error, match=r"its net is no nn\.Sequential"):
        to_module(node("nn.DenseCapModel", net=SQUARE))


def test_training_layers() -> None:
    """The gradient of a regularized layer, and rows for which there are true ones."""
    x = random(2, 3).double().requires_grad_()
    grad = random(2, 3, seed=1).double()
    to_module(node("nn.RegularizeLayer", w=0.3, gradMul=2), None)(x).backward(grad)
    torch.testing.assert_close(x.grad, 0.3 * x.detach() + 2 * grad)
    slicer = to_module(node("nn.PosSlicer"))
    assert torch.equal(slicer([x, torch.ones(1, 4)]), x[:1])
    assert slicer([x, torch.empty(0)]) is x


def test_no_region_is_no_error() -> None:
    assert likeliest(torch.empty(0, 4), torch.empty(0), 0.3).tolist() == []
    layer: Any = to_module(localization(test_max_proposals=0), None).eval()
    layer.picture = PICTURE
    shapes = [tuple(part.shape) for part in layer(FEATURES)]
    assert shapes == [(0, PLANES, 3, 2), (0, 4), (0,), (0,)]
