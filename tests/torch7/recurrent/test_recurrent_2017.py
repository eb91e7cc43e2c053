"""The package rnn as it was from 2017 on (torch/rnn): steps of one weight, and what runs them."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, to_module
from eyescream_py.torch7.recurrent.sequences import lua_gradients

X = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1))  # (T,N,F)


def weights(rows, columns):
    generator = torch.Generator().manual_seed(rows + columns)
    return {
        "weight": torch.randn(rows, columns, generator=generator),
        "bias": torch.randn(columns, generator=generator),
    }


def obj(name, **fields):
    return TorchObject(f"nn.{name}", Table(train=False, _type="torch.FloatTensor", **fields))


def listed(*values):
    return Table.from_list(values)


def step_lstm(out=4, **more):
    sizes = {"inputsize": 5, "hiddensize": 4, "outputsize": out}
    return obj("StepLSTM", **sizes, **weights(5 + out, 16), **more)


def rec_lstm(out=4, **more):
    return obj("RecLSTM", inputsize=5, hiddensize=4, outputsize=out, rho=99999, step=1,
               modules=listed(step_lstm(out, **more)))  # fmt: skip


def by_formula(x, weight, bias, projection=None):
    """An LSTM's outputs by the equations of StepLSTM.lua."""
    h, c = torch.zeros(2, len(weight) - 5), torch.zeros(2, 4)
    outputs = []
    for step in x:
        i, f, o, new = (torch.cat([step, h], 1) @ weight + bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * new.tanh()
        h = o.sigmoid() * c.tanh()
        h = h if projection is None else h @ projection
        outputs.append(h)
    return torch.stack(outputs)


def both_ways(net):
    """The module, and that of what we write of it anew."""
    module = to_module(net)
    return module, to_module(from_module(module, as_read=False)).eval()


@pytest.mark.parametrize("projects", [False, True])
def test_rec_lstm_and_seq_lstm(projects) -> None:
    out = 3 if projects else 4
    projection = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    more = {"weightO": projection} if projects else {}
    kept = weights(5 + out, 16)
    expected = by_formula(X, kept["weight"], kept["bias"], more.get("weightO"))
    stepped = obj("Sequencer", modules=listed(rec_lstm(out, **more)), _remember="neither")
    whole = obj("SeqLSTM", inputsize=5, hiddensize=4, outputsize=out, **kept, **more)
    for net in (stepped, whole):
        for module in both_ways(net):
            torch.testing.assert_close(module(X), expected)
            torch.testing.assert_close(module(X), expected)


def test_rec_gru_is_that_of_seq_gru() -> None:
    step = obj("StepGRU", inputsize=5, outputsize=4, **weights(9, 12), maskzero=False, v2=True)
    rec = obj("RecGRU", inputsize=5, outputsize=4, modules=listed(step))
    expected = to_module(obj("SeqGRU", inputSize=5, outputSize=4, **weights(9, 12)))(X)
    for module in both_ways(obj("Sequencer", modules=listed(rec), _remember="neither")):
        torch.testing.assert_close(module(X), expected)


@pytest.mark.parametrize("name", ["LinearRNN", "Recurrence"])
def test_a_recurrence_whose_step_is_in_modules_alone(name) -> None:
    linear = obj("Linear", weight=torch.randn(4, 9), bias=torch.randn(4))
    join = obj("JoinTable", dimension=1, nInputDims=1)
    step = obj("Sequential", modules=listed(join, linear, obj("Sigmoid")))
    net = obj(name, modules=listed(step), outputSize=listed(4), nInputDim=1, rho=99999)
    h = torch.zeros(2, 4)
    module = to_module(net)
    for x in X:
        h = torch.sigmoid(nn.functional.linear(torch.cat([x, h], 1), *linear_of(linear)))
        torch.testing.assert_close(module(x), h)


def test_a_recurrence_on_indices_begins_with_zeros_of_its_weights_type() -> None:
    """As nn.LookupRNN is built: a LookupTable for the index, a Linear for the last output."""
    table, linear = torch.randn(6, 4), obj("Linear", weight=torch.randn(4, 4), bias=torch.randn(4))
    both = obj("ParallelTable", modules=listed(obj("LookupTable", weight=table), linear))
    step = obj("Sequential", modules=listed(both, obj("CAddTable"), obj("Sigmoid")))
    net = obj("LookupRNN", modules=listed(step), outputSize=listed(4), nInputDim=0, rho=99999)
    for module in both_ways(net):
        h = torch.zeros(2, 4)
        for index in torch.tensor([[1, 6], [3, 3], [2, 1]]):
            h = torch.sigmoid(table[index - 1] + nn.functional.linear(h, *linear_of(linear)))
            torch.testing.assert_close(module(index), h)


def linear_of(linear):
    return linear.fields["weight"], linear.fields["bias"]


def test_both_directions() -> None:
    ahead, back = (obj("SeqLSTM", inputsize=5, hiddensize=4, outputsize=4, **weights(9, 16))
                   for _ in range(2))  # fmt: skip
    back.fields["weight"] = -back.fields["weight"]
    turn = obj("ReverseSequence")
    inner = obj("Sequential", modules=listed(turn, back, turn))
    reverse = obj("ReverseUnreverse", modules=listed(inner))
    both = obj("ConcatTable", modules=listed(ahead, reverse))
    net = obj("SeqBLSTM", modules=listed(obj("Sequential", modules=listed(both, obj("CAddTable")))))
    kept = weights(9, 16)
    expected = by_formula(X, kept["weight"], kept["bias"])
    expected += by_formula(X.flip(0), -kept["weight"], kept["bias"]).flip(0)
    torch.testing.assert_close(to_module(net)(X), expected)
    assert to_module(turn)([1, 2, 3]) == [3, 2, 1]


def test_masks() -> None:
    """The first version masks by zeros in the input; the second is told from outside."""
    x = X.clone()
    x[2, 0] = 0
    y = to_module(obj("Sequencer", modules=listed(rec_lstm(maskzero=True))))(x)
    assert y[2, 0].abs().sum() == 0
    assert y[2, 1].abs().sum() > 0
    outside = {"maskzero": True, "v2": True}
    sequence = {"inputsize": 5, "outputsize": 4} | outside
    for net in (
        rec_lstm(**outside),
        obj("SeqLSTM", hiddensize=4, **weights(9, 16), **sequence),
        obj("SeqGRU", **weights(9, 12), **sequence),
        obj("MaskZero", modules=listed(step_lstm()), v2=True),
    ):
        with pytest.raises(T7Error, match=r"its mask comes from outside \(setZeroMask\)"):
            to_module(net)


def test_gradients_in_evaluation_are_those_of_the_outputs() -> None:
    net = obj("Sequencer", modules=listed(rec_lstm()), _remember="neither")
    module = to_module(net)
    module(X).square().sum().backward()
    true = lua_gradients(copy.deepcopy(module), False)
    true.zero_grad()
    true(X).square().sum().backward()
    for got, expected in zip(module.parameters(), true.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)
