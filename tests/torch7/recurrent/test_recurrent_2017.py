"""The package rnn as it was from 2017 on (torch/rnn): steps of one weight, and what runs them."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import Table, TorchObject, from_module, to_module
from eyescream_py.torch7.recurrent.masks import set_zero_mask
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


def test_the_first_version_masks_by_zeros_in_the_input() -> None:
    x = X.clone()
    x[2, 0] = 0
    y = to_module(obj("Sequencer", modules=listed(rec_lstm(maskzero=True))))(x)
    assert y[2, 0].abs().sum() == 0
    assert y[2, 1].abs().sum() > 0


MASK = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [0, 0], [1, 1]], dtype=torch.uint8)
OUTSIDE = {"maskzero": True, "v2": True}


def in_parts(x, run):
    """Each sequence of the batch by itself, between the steps of the mask, which become zeros."""
    whole = torch.zeros(len(x), 2, 4)
    for sample in range(2):
        begin = 0
        for end in [*MASK[:, sample].nonzero().flatten().tolist(), len(x)]:
            if end > begin:
                whole[begin:end, sample] = run(x[begin:end, [sample]])[:, 0]
            begin = end + 1
    return whole


def lstm_alone(x):
    h, c = torch.zeros(2, 1, 4)
    kept, outputs = weights(9, 16), []
    for step in x:
        gates = torch.cat([step, h], 1) @ kept["weight"] + kept["bias"]
        i, f, o, new = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * new.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


def gru_alone(x):
    h = torch.zeros(1, 4)
    kept, outputs = weights(9, 12), []
    of_x, of_h = kept["weight"].split([5, 4])
    for step in x:
        a, b = step @ of_x + kept["bias"], h @ of_h
        reset, update = (a[:, :8] + b[:, :8]).sigmoid().chunk(2, 1)
        new = (a[:, 8:] + (reset * h) @ of_h[:, 8:]).tanh()
        h = (1 - update) * new + update * h
        outputs.append(h)
    return torch.stack(outputs)


def masked_nets():
    sizes = {"inputsize": 5, "outputsize": 4}
    step = obj("StepGRU", **sizes, **weights(9, 12), **OUTSIDE)
    gru = obj("RecGRU", **sizes, modules=listed(step))
    return [
        (obj("Sequencer", modules=listed(rec_lstm(**OUTSIDE))), lstm_alone),
        (obj("Sequencer", modules=listed(gru)), gru_alone),
        (obj("SeqLSTM", hiddensize=4, **sizes, **weights(9, 16), **OUTSIDE), lstm_alone),
        (obj("SeqGRU", **sizes, **weights(9, 12), **OUTSIDE), gru_alone),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_the_second_version_is_told_where_sequences_end(kind) -> None:
    net, alone = masked_nets()[kind]
    for module in both_ways(net):
        with pytest.raises(ValueError, match=r"call set_zero_mask\(network, mask\)"):
            module(X)
        assert set_zero_mask(module, MASK) is module
        torch.testing.assert_close(module(X), in_parts(X, alone))
        torch.testing.assert_close(module(X), in_parts(X, alone))  # and once more
        copied = to_module(from_module(module))
        torch.testing.assert_close(set_zero_mask(copied, MASK)(X), in_parts(X, alone))
        with pytest.raises(ValueError, match=r"the mask is of"):
            module(torch.cat([X, X]))
        set_zero_mask(module, False)
        torch.testing.assert_close(module(X)[:, :1], alone(X[:, :1]))
    with pytest.raises(ValueError, match="a mask is a tensor"):
        set_zero_mask(module, True)


@pytest.mark.parametrize("sides", [(None, None), (True, True), (True, False)])
def test_a_layer_whose_sides_are_masked(sides) -> None:
    linear = obj("Linear", weight=torch.randn(4, 5), bias=torch.randn(4))
    named = zip(("maskinput", "maskoutput"), sides, strict=True)
    fields = {k: v for k, v in named if v is not None}
    mask_zero = obj("MaskZero", modules=listed(linear), v2=True, **fields)
    on = MASK.bool()[:, :, None]
    x = X.masked_fill(on, 0) if sides[0] else X
    expected = nn.functional.linear(x, *linear_of(linear))
    expected = expected if sides[1] is False else expected.masked_fill(on, 0)
    steps = obj("Sequencer", modules=listed(obj("Recursor", modules=listed(mask_zero))))
    for module in (*both_ways(mask_zero), *both_ways(steps)):
        torch.testing.assert_close(set_zero_mask(module, MASK)(X), expected)


def test_the_mask_is_turned_with_the_sequence() -> None:
    sizes = {"inputsize": 5, "hiddensize": 4, "outputsize": 4}
    back, turn = obj("SeqLSTM", **sizes, **weights(9, 16), **OUTSIDE), obj("ReverseSequence")
    inner = obj("Sequential", modules=listed(turn, back, turn))
    net = obj("ReverseUnreverse", modules=listed(inner))
    expected = in_parts(X, lambda x: lstm_alone(x.flip(0)).flip(0))
    torch.testing.assert_close(set_zero_mask(to_module(net), MASK)(X), expected)


def test_sequences_of_several_lengths() -> None:
    samples = [X[:4, 0], X[:, 1], X[:1, 0]]
    net, alone = masked_nets()[2]
    expected = [alone(sample[:, None])[:, 0] for sample in samples]
    outputs = to_module(obj("VariableLength", modules=listed(net)))(samples)
    for got, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    last = to_module(obj("VariableLength", modules=listed(net), lastOnly=True))(samples)
    torch.testing.assert_close(last, torch.stack([wanted[-1] for wanted in expected]))


def test_gradients_in_evaluation_are_those_of_the_outputs() -> None:
    net = obj("Sequencer", modules=listed(rec_lstm()), _remember="neither")
    module = to_module(net)
    module(X).square().sum().backward()
    true = lua_gradients(copy.deepcopy(module), False)
    true.zero_grad()
    true(X).square().sum().backward()
    for got, expected in zip(module.parameters(), true.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)
