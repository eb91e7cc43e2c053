"""OpenNMT's layers beyond its networks, by the loops of their Lua sources."""

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import T7Error, from_module, load, save, to_module
from eyescream_py.torch7.recurrent.steps import forget

from ..class_cases import modules, node, random, same


@pytest.mark.parametrize("dimension", [1, 2, -1])
def test_a_place_has_its_row_and_padding_the_last(dimension: int) -> None:
    table = random(4, 3)  # three places
    fields = {"dimension": dimension, "max_pos": 3, "nOutput": 3}
    layer = to_module(node("onmt.PositionEmbedding", weight=table, paddingValue=0, **fields))
    words = torch.tensor([[5, 9, 1, 7, 8], [1, 1, 6, 6, 6]])
    expected = np.zeros((2, 5, 3), np.float32)
    for row in range(2):
        for column in range(5):
            place = (row if dimension == 1 else column) + 1
            last = words[row, column] == 1 or place > 3
            expected[row, column] = table[3 if last else place - 1]
    y = layer(words)
    same(y.detach(), expected)
    same(layer(words.float()).detach(), expected)
    y.sum().backward()
    counts = [4, 3, 0] if dimension == 1 else [1, 1, 1]
    assert layer.weight.grad[:, 0].tolist() == [*counts, 0]
    with pytest.raises(T7Error, match="weight has shape"):
        to_module(node("onmt.PositionEmbedding", weight=table[:3].clone(), **fields))


def test_each_step_has_a_batch_normalization_and_the_last_one_goes_on() -> None:
    def norm(mean: float) -> object:
        statistics = {"running_mean": torch.full((2,), mean), "running_var": torch.full((2,), 4.0)}
        return node("nn.BatchNormalization", **statistics, weight=torch.tensor([1.0, 3]), eps=0)

    layer = to_module(node("onmt.RecurrentBatchNorm", modules=modules(norm(0.0), norm(2.0))))
    layer.eval()
    x = torch.full((3, 2), 6.0)
    for expected in ([3, 9], [2, 6], [2, 6]):
        same(layer(x)[0], expected)
    forget(layer)
    same(layer(x)[0], [3, 9])
    again = to_module(load(save(None, from_module(layer))))
    same(again(x)[0], [3, 9])
    with pytest.raises(T7Error, match="no module for any step"):
        to_module(node("onmt.RecurrentBatchNorm", modules=modules()))


def test_a_batch_normalization_without_a_bias_trains() -> None:
    statistics = {"running_mean": torch.zeros(2), "running_var": torch.ones(2)}
    for eps in (0, 0.5):
        fields = {**statistics, "weight": torch.tensor([1.0, 3]), "eps": eps}
        layer = to_module(node("nn.BatchNormalization", **fields))
        x = random(5, 2)
        centred = x - x.mean(0)
        scale = torch.tensor([1.0, 3]) / (centred.square().mean(0) + eps).sqrt()
        same(layer(x).detach(), centred * scale)
        written = from_module(layer, as_read=False)
        assert written.fields["weight"].tolist() == [1, 3]
        assert "bias" not in written.fields


def test_one_mask_for_a_sequence() -> None:
    layer = to_module(node("onmt.VDropout", p=0.5))
    ones = torch.ones(20, 50)
    first = layer(ones)
    assert set(first.unique().tolist()) == {0, 2}
    assert torch.equal(layer(3 * ones), 3 * first)
    forget(layer)
    assert not torch.equal(layer(ones), first)
    assert torch.equal(layer.eval()(ones), ones)
    with pytest.raises(T7Error, match=r"probability 1\.5"):
        to_module(node("onmt.VDropout", p=1.5))


@pytest.mark.parametrize("dims", [(2, 3, None), (1, 2, 2), (-2, -1, None)])
def test_tensors_of_size_one_are_repeated_before_they_are_joined(
    dims: tuple[int, int, int | None],
) -> None:
    more = {"nInputDims": dims[2]} if dims[2] else {}
    fields = {"dimensionReplicate": dims[0], "dimensionJoin": dims[1], **more}
    layer = to_module(node("onmt.JoinReplicateTable", **fields))
    one, many = random(2, 1, 3).requires_grad_(), random(2, 4, 5, seed=1)
    y = layer([one, many])
    same(y.detach(), np.concatenate([np.repeat(one.detach().numpy(), 4, 1), many.numpy()], 2))
    y.sum().backward()
    assert one.grad is not None
    assert (one.grad == 4).all()


def test_bridges() -> None:
    identity = node("nn.MapTable", module=node("nn.Identity"))
    states = [torch.ones(2), torch.zeros(2)]
    copied = to_module(node("onmt.Bridge", net=identity, modules=modules(identity)))(states)
    assert all(a is b for a, b in zip(copied, states, strict=True))
    assert to_module(node("onmt.Bridge", modules=modules()))(states) is None
