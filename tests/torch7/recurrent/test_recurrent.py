"""rnn's and torch-rnn's layers: numbers, what they remember, and the way back to Lua."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import (
    Storage,
    T7Error,
    Table,
    TorchObject,
    from_module,
    load,
    save,
    to_module,
)
from eyescream_py.torch7.recurrent import fused as f
from eyescream_py.torch7.recurrent import sequences as s
from eyescream_py.torch7.recurrent import steps as r

from ..golden_classes import case_of, entries, python_value, tensors

CASES = [e for e in entries() if e.file.startswith("rnn_") or "torchrnn" in e.file]
GENERATOR = torch.Generator().manual_seed(0)


def opened(entry) -> tuple[Table, nn.Module]:
    """A case and its module, made of a copy of the file's object."""
    case = case_of(entry)
    return case, to_module(case["net"], None).eval()


@pytest.mark.parametrize("entry", CASES, ids=lambda entry: entry.name)
def test_what_we_write_gives_the_same_output(entry):
    case, module = opened(entry)
    for written in (from_module(module), from_module(module, as_read=False)):
        again = to_module(load(save(None, written)), None).eval()
        outputs = list(tensors(again(python_value(case["input"]))))
        for got, expected in zip(outputs, tensors(case["output"]), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def filled(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=GENERATOR))
    return module


def torch_lstm(ours: f.SeqLSTM) -> nn.LSTM:
    """torch's own LSTM of the same weights; its gates are in the order input, forget, new, out."""
    theirs = nn.LSTM(ours.input_size, ours.hidden_size, proj_size=0)
    order = torch.tensor([0, 1, 3, 2])
    rows = lambda t: t.reshape(*t.shape[:-1], 4, -1)[..., order, :].flatten(-2)  # noqa: E731
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(rows(ours.weight[: ours.input_size]).T)
        theirs.weight_hh_l0.copy_(rows(ours.weight[ours.input_size :]).T)
        theirs.bias_ih_l0.copy_(rows(ours.bias))
        theirs.bias_hh_l0.zero_()
    return theirs


def test_seq_lstm_is_torchs_lstm():
    ours = filled(f.SeqLSTM(3, 4))
    x, h, c = torch.randn(5, 2, 3), torch.randn(2, 4), torch.randn(2, 4)
    theirs = torch_lstm(ours)
    torch.testing.assert_close(ours(x), theirs(x)[0])
    torch.testing.assert_close(ours([c, h, x]), theirs(x, (h[None], c[None]))[0])
    zero = torch.zeros_like(c)
    torch.testing.assert_close(ours([h, x]), theirs(x, (h[None], zero[None]))[0])
    first = filled(f.SeqLSTM(3, 4, batch_first=True))
    first.load_state_dict(ours.state_dict())
    torch.testing.assert_close(first(x.mT.transpose(1, 2).transpose(0, 1)), ours(x).transpose(0, 1))


def test_seq_gru_by_the_equations():
    layer = filled(f.SeqGRU(3, 2)).double()
    x, h = torch.randn(4, 1, 3).double(), torch.zeros(1, 2).double()
    wx, wh, b = layer.weight[:3], layer.weight[3:], layer.bias
    for step, got in zip(x, layer(x), strict=True):
        gate = torch.sigmoid(step @ wx[:, :4] + h @ wh[:, :4] + b[:4])
        new = torch.tanh(step @ wx[:, 4:] + (gate[:, :2] * h) @ wh[:, 4:] + b[4:])
        h = (1 - gate[:, 2:]) * new + gate[:, 2:] * h
        torch.testing.assert_close(got, h)


def test_vanilla_rnn_is_torchs_rnn():
    ours = filled(f.VanillaRNN(3, 4, batch_first=True))
    theirs = nn.RNN(3, 4, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.weight[:3].T)
        theirs.weight_hh_l0.copy_(ours.weight[3:].T)
        theirs.bias_ih_l0.copy_(ours.bias)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(ours(x), theirs(x)[0])


def test_torch_rnns_model_with_batch_normalisation_sets_its_views():
    """As LanguageModel.lua builds it: views around each normalisation, sizes set at each run."""
    rnn = {"input_dim": 3, "hidden_dim": 4, "remember_states": True}
    weights = {"weight": torch.randn(7, 4), "bias": torch.randn(4)}
    view = [TorchObject("nn.View", Table(size=Storage(torch.tensor([1, -1])))) for _ in range(4)]
    ones = {"running_mean": torch.zeros(4), "running_var": torch.ones(4)}
    layers = [
        TorchObject("nn.LookupTable", Table(weight=torch.randn(6, 3))),
        TorchObject("nn.VanillaRNN", Table(rnn, **weights)),
        view[0],
        TorchObject("nn.BatchNormalization", Table(ones, eps=1e-5), 2),
        view[1],
        view[2],
        TorchObject("nn.Linear", Table(weight=torch.randn(6, 4), bias=torch.zeros(6))),
        view[3],
    ]
    net = TorchObject("nn.Sequential", Table(modules=Table.from_list(layers)))
    fields = Table(
        net=net, view1=view[2], view2=view[3], bn_view_in=Table.from_list(view[:1]),
        bn_view_out=Table.from_list(view[1:2]), idx_to_token=Table.from_list("abcdef"),
    )  # fmt: skip
    model = to_module(TorchObject("nn.LanguageModel", fields)).eval()
    indices = torch.tensor([[1, 2, 3], [4, 5, 6]])
    scores = model(indices)
    assert scores.shape == (2, 3, 6)
    again = to_module(load(save(None, from_module(model, as_read=False)))).eval()
    assert again.vocabulary == tuple("abcdef")
    torch.testing.assert_close(again(indices), scores)


def test_layers_made_in_python_can_be_written():
    attention = s.RecurrentAttention(r.Recursor(nn.Identity()), nn.Tanh(), 2, (3,), True)
    for layer in (attention, f.VanillaRNN(2, 3, batch_first=True), s.ExpandAs(), s.SAdd(1.0)):
        again = to_module(load(save(None, from_module(layer))))
        assert type(again) is type(layer)
        assert repr(again) == repr(layer)


def test_gradients_in_evaluation_are_luas_unless_the_true_ones_are_asked_for():
    """Lua's are of the last step's buffers there, whatever the step (docs/old-files.md)."""
    entry = next(e for e in CASES if e.name == "rnn_Sequencer_FastLSTM_tensor")
    module = opened(entry)[1].double()
    x = python_value(case_of(entry)["input"]).detach().double().requires_grad_()
    assert not torch.autograd.gradcheck(module, (x,), raise_exception=False)
    assert torch.autograd.gradcheck(s.lua_gradients(module, False), (x,))
    assert torch.autograd.gradcheck(s.lua_gradients(module, True).train(), (x,))


def test_outputs_and_state_do_not_depend_on_whose_gradients_are_taken():
    layer, x = lstm("both"), torch.randn(6, 2, 5)
    expected = [layer(x[:4]), layer(x[4:])]
    r.forget(layer)
    s.lua_gradients(layer, True)
    for part, output in zip((x[:4], x[4:]), expected, strict=True):
        torch.testing.assert_close(layer(part.requires_grad_()), output)
    layer(x.requires_grad_()).sum().backward()
    torch.testing.assert_close(layer(x[:1]), lstm("both")(torch.cat([x, x, x[:1]]))[-1:])
    assert not [m for m in layer.modules() if m._forward_hooks or m._forward_pre_hooks]


def lstm(remember: str = "neither") -> s.Sequencer:
    entry = next(e for e in CASES if e.name == "rnn_Sequencer_FastLSTM_tensor")
    module = to_module(case_of(entry)["net"]).eval()
    return s.Sequencer(module.module, remember).eval()


def test_a_sequencer_forgets_unless_told_to_remember():
    x = torch.randn(6, 2, 5)
    whole = lstm()(x)
    for remember, goes_on in (("neither", False), ("train", False), ("eval", True), ("both", True)):
        layer = lstm(remember)
        halves = torch.cat([layer(x[:3]), layer(x[3:])])
        assert torch.allclose(halves, whole, atol=1e-6) is goes_on, remember
    layer = lstm("both")
    layer(x[:3])
    r.forget(layer)
    torch.testing.assert_close(layer(x), whole)


def test_changing_the_mode_forgets():
    x = torch.randn(3, 2, 5)
    layer = lstm("both")
    first = layer(x)
    assert not torch.allclose(layer(x), first)
    layer.train()
    torch.testing.assert_close(layer(x), first)
    layer.train()  # no change of mode
    assert not torch.allclose(layer(x), first)


def test_no_gradient_flows_into_the_sequence_before():
    layer = lstm("both")
    first, second = torch.randn(2, 2, 5, requires_grad=True), torch.randn(2, 2, 5)
    layer(first)
    layer(second).sum().backward()
    assert first.grad is None


def test_a_step_at_a_time_is_the_sequence():
    x = torch.randn(4, 2, 5, requires_grad=True)
    layer = lstm()
    whole = layer(x)
    (expected,) = torch.autograd.grad(whole[-1].sum(), x)
    layer.module.forget()
    steps = [layer.module(step) for step in x]
    torch.testing.assert_close(torch.stack(steps), whole)
    (got,) = torch.autograd.grad(steps[-1].sum(), x)
    torch.testing.assert_close(got, expected)


def test_a_copy_goes_on_where_the_layer_is():
    layer = lstm().module
    x = torch.randn(2, 5, requires_grad=True)
    layer(x)
    other = copy.deepcopy(layer)
    torch.testing.assert_close(other(x), layer(x))


def test_torch_rnns_lstm_remembers_over_calls_and_modes():
    layer = filled(f.SequenceLSTM(3, 4, batch_first=True, remember="both", keeps=True))
    x = torch.randn(2, 6, 3)
    parts = [layer(x[:, :2])]
    layer.eval()
    parts.append(layer(x[:, 2:]))
    layer.forget()
    torch.testing.assert_close(torch.cat(parts, 1), layer(x))
    with pytest.raises(ValueError, match="same batch size"):
        layer(x[:1])


def test_the_two_classes_called_lstm_are_told_apart():
    torch_rnn = from_module(f.SequenceLSTM(3, 4, batch_first=True, remember="both", keeps=True))
    assert torch_rnn.typename == "nn.LSTM"
    assert isinstance(to_module(torch_rnn), f.SequenceLSTM)
    rnn = next(e for e in CASES if e.name == "rnn_LSTM")
    assert isinstance(opened(rnn)[1], r.LSTM)


def test_the_first_seq_lstm_had_the_batch_first():
    fields = Table(
        weight=torch.randn(7, 16), bias=torch.randn(16), inputsize=3, outputsize=4,
        remember_states=False,
    )  # fmt: skip
    assert to_module(TorchObject("nn.SeqLSTM", fields))(torch.randn(2, 5, 3)).shape == (2, 5, 4)


@pytest.mark.parametrize("kind", [f.SeqLSTM, f.SeqGRU])
def test_steps_of_zeros_are_masked(kind):
    layer = filled(kind(3, 4, mask_zero=True))
    x = torch.randn(4, 2, 3)
    x[:2, 1] = 0
    y = layer(x)
    assert not y[:2, 1].any()
    assert y[2:, 1].all()
    assert y[:, 0].all()
    torch.testing.assert_close(y[2:, 1:], layer(x[2:, 1:]))


def test_mask_zero_and_trim_zero():
    x = torch.tensor([[1.0, 2], [0, 0], [3, 4], [0, 0]], requires_grad=True)
    linear = nn.Linear(2, 3)
    expected = linear(x) * torch.tensor([[1], [0], [1], [0]])
    torch.testing.assert_close(s.MaskZero(linear, 1)(x), expected)
    torch.testing.assert_close(s.TrimZero(linear, 1)(x), expected)
    assert not s.TrimZero(linear, 1)(x[1::2]).any()
    assert not s.MaskZero(linear, 1)(x[1]).any()
    s.MaskZero(nn.Sequential(linear), 1)(x).sum().backward()
    assert not x.grad[1].any()
    assert linear.bias.grad.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="1 dimensions and a batch"):
        s.MaskZero(linear, 1)(x[None])


def test_lookup_table_mask_zero():
    table = filled(s.LookupTableMaskZero(4, 3))
    rows = table(torch.tensor([0, 1, 4]))
    assert rows[0].tolist() == [0, 0, 0]
    assert torch.equal(rows[1:], table.weight[[1, 4]])


def test_recurrence_begins_with_zeros_of_any_table():
    class Step(nn.Module):
        def forward(self, inputs):
            x, (a, b) = inputs
            return [a + x, b + x[:, :1]]

    layer = r.Recurrence(Step(), [(3,), (1,)], 1)
    x = torch.ones(2, 3)
    assert [part.shape for part in layer(x)] == [(2, 3), (2, 1)]
    assert layer(x)[0].tolist() == [[2, 2, 2]] * 2
    layer.forget()
    assert layer(x)[1].tolist() == [[1]] * 2
    layer.forget()  # without a weight whose type counts, of the input's
    assert layer(x.long())[1].tolist() == [[1]] * 2


def test_attention_looks_where_it_decides_to():
    action, glimpse = nn.Linear(3, 2), nn.Bilinear(4, 2, 3)

    class Step(nn.Module):
        def forward(self, inputs):
            return glimpse(*inputs)

    x = torch.randn(2, 4)
    layer = s.RecurrentAttention(r.Recursor(Step()), action, 2, (3,))
    outputs = layer(x)
    first = glimpse(x, action(torch.zeros(2, 3)))
    torch.testing.assert_close(outputs, [first, glimpse(x, action(first))])


def test_small_layers():
    x = torch.arange(6.0).reshape(2, 3)
    assert s.SAdd(2, negate=True)(x).tolist() == (-(x + 2)).tolist()
    assert s.ExpandAs()([x, x[:1]])[1].tolist() == x[:1].expand(2, 3).tolist()
    assert s.SeqReverseSequence(2)(x).tolist() == x.flip(1).tolist()
    assert s.Repeater(r.Recursor(nn.Tanh()), 3)(x)[2].shape == (2, 3)
    assert r.NormStabilizer(1.0)(x) is x


WRONG = {
    "nn.LSTM": (Table(outputSize=4), "expected an nn object, found nothing"),
    "nn.GRU": (Table(recurrentModule=TorchObject("nn.Identity")), "outputSize is missing"),
    "nn.Sequencer": (Table(module=7), "expected an nn object"),
    "nn.Recurrence": (
        Table(outputSize=Table({1: "x"}), nInputDim=1, recurrentModule=TorchObject("nn.Identity")),
        "outputSize is no list",
    ),
    "nn.SeqGRU": (Table(inputSize=9, weight=torch.zeros(3, 6), bias=torch.zeros(6)), "of 3 rows"),
    "nn.SeqLSTM": (Table(inputsize=1, weight=torch.zeros(3, 8), bias=torch.zeros(4)), "no matrix"),
    "nn.LanguageModel": (Table(net=3), "the field net is no module"),
    "nn.BiSequencerLM": (Table(modules=Table()), "0 modules, not three"),
    "nn.MaskZero": (Table(modules=Table(), nInputDim=1), "wraps 0 modules"),
    "nn.LookupTableMaskZero": (Table(weight=torch.zeros(1, 2)), "no row"),
}


def test_sizes_in_a_storage_are_checked_too():
    """Found by the fuzzer: they were read, but what was written of them could not be."""
    step = TorchObject("nn.Identity")
    itself = Table()
    itself.update(dict.fromkeys(range(1, 31), itself))
    for sizes in (Storage(torch.tensor([2, -1])), itself):
        fields = Table(outputSize=sizes, nInputDim=1, recurrentModule=step)
        with pytest.raises(T7Error, match="outputSize is no list of sizes"):
            to_module(TorchObject("nn.Recurrence", fields))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_fields_are_named(name):
    fields, message = WRONG[name]
    with pytest.raises(T7Error, match=message):
        to_module(TorchObject(name, fields))


def test_remember_has_four_words():
    with pytest.raises(ValueError, match="remember is"):
        s.Sequencer(nn.Identity(), "always")


def test_all_parts_of_an_elman_network_are_written() -> None:
    entry = next(entry for entry in entries() if entry.name == "rnn_Recurrent")
    written = from_module(to_module(case_of(entry)["net"]), as_read=False).fields
    kinds = ("start", "input", "feedback", "transfer", "merge")
    parts = [written[f"{kind}Module"] for kind in kinds]
    assert all(a is b for a, b in zip(written["modules"].to_list(), parts, strict=True))
    assert written["sharedClones"][2] is written["recurrentModule"]


def test_a_repeater_of_2015_names_its_steps_otherwise() -> None:
    step = TorchObject("nn.Recursor", Table(module=TorchObject("nn.Square", Table())))
    for name in ("rho", "nStep"):
        repeater = to_module(TorchObject("nn.Repeater", Table({name: 3, "rnn": step})))
        assert [y.item() for y in repeater(torch.tensor([3.0]))] == [9, 9, 9]
