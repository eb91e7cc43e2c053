"""Parameters in one buffer: the same objects, values and steps as one by one."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py import torch7
from eyescream_py.game.adversarial import Learner, Penalty
from eyescream_py.game.averaging import Ema
from eyescream_py.torch7.flat import BORDER, Flat, copy_each_
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.optim import SGD, Adagrad, Adam

OPTIMIZERS = {
    "adam": lambda p, **more: Adam(p, 3e-3, **more),
    "adagrad": lambda p, **more: Adagrad(p, 1e-2, **more),
    "sgd": lambda p, **more: SGD(p, 0.05, 0.5, **more),
}


def network(layout=torch.contiguous_format):
    """Parameters of 1 to 3 x 64 elements, none of a multiple of 64, one of a single plane."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.PReLU(), nn.Conv2d(5, 3, 3), View(12), nn.Linear(12, 7)
    )
    return made.to(memory_format=layout)


def padding(flat):
    """What of a buffer belongs to no parameter."""
    mask = flat.zeros()
    for view in flat.views(mask):
        view.fill_(1)
    return mask == 0


def gradients(net, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in net.parameters()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_parameters_stay_what_they_were(layout):
    net = network(layout)
    before = [(p, p.detach().clone(), p.stride()) for p in net.parameters()]
    flat = Flat(net)
    for p, (same, values, strides) in zip(net.parameters(), before, strict=True):
        assert p is same
        assert p.requires_grad
        assert p.stride() == strides
        assert torch.equal(p, values)
        assert p.storage_offset() % BORDER == 0
        assert p.untyped_storage().data_ptr() == flat.weights.untyped_storage().data_ptr()
    flat.weights.mul_(2)
    assert all(torch.equal(p, 2 * values) for p, values, _ in before)
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_a_buffer_is_no_larger_than_its_borders_make_it_and_lies_where_the_network_does():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 1))  # 64, 8 and 1 elements
    assert Flat(net).size == 3 * BORDER
    assert BORDER * torch.bfloat16.itemsize % 128 == 0  # what a GPU reads at once
    assert Flat(nn.Linear(2, 2, device="meta")).weights.device.type == "meta"


def test_weights_with_gaps_between_their_elements_lose_the_gaps():
    net = nn.Linear(3, 2, bias=False)
    net.weight.data = torch.arange(12.0).view(2, 6)[:, ::2]
    flat = Flat(net)
    assert net.weight.tolist() == [[0, 2, 4], [6, 8, 10]]
    assert flat.weights[:6].tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("others", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_any_type_and_layout_are_gathered(layout, others):
    net = network(layout)
    flat, buffer = Flat(net), Flat(net).zeros()
    found = [
        g.to(torch.bfloat16 if number % 2 else torch.float32)
        for number, g in enumerate(gradients(net, 1))
    ]
    found = [g.to(memory_format=others) if g.dim() == 4 else g for g in found]
    flat.gather(found, buffer)
    for view, g in zip(flat.views(buffer), found, strict=True):
        assert torch.equal(view, g.float())
    assert not buffer[padding(flat)].any()


def test_a_gradient_in_the_weights_own_layout_is_read_where_it_lies(monkeypatch):
    """Also where strides are ambiguous: those of a single plane, as a GPU's kernels return them."""
    seen = []
    monkeypatch.setattr("eyescream_py.torch7.flat.copy_each_", lambda a, b: seen.extend(b))
    net = network(torch.channels_last)
    found = [torch.empty_like(p) for p in net.parameters()]
    found[0] = torch.empty(found[0].shape)  # [5,1,3,3] in the strides of one that is not
    Flat(net).gather(found, Flat(net).zeros())
    assert [row.data_ptr() for row in seen] == [g.data_ptr() for g in found]


def test_copies_are_one_call_for_each_type():
    sources = [torch.ones(3), torch.ones(2).bfloat16(), torch.zeros(4), torch.tensor(5)]
    targets = [torch.empty(3), torch.empty(2), torch.empty(4), torch.tensor(0)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        copy_each_(targets, sources)
    calls = {event.key: event.count for event in seen.key_averages()}
    assert calls["aten::_foreach_copy_"] == 3
    assert [t.tolist() for t in targets] == [[1] * 3, [1] * 2, [0] * 4, 5]


def test_each_call_copies_sources_of_one_type_alone(monkeypatch):
    calls, copy = [], torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda a, b: (calls.append(b), copy(a, b)))
    sources = [torch.ones(2), torch.ones(2).half(), torch.ones(2)]
    copy_each_([torch.empty(2) for _ in sources], sources)
    assert {frozenset(t.dtype for t in call): len(call) for call in calls} == {
        frozenset([torch.float32]): 2,
        frozenset([torch.float16]): 1,
    }


def test_parameters_can_be_copied_into():
    weight = nn.Parameter(torch.zeros(2))
    copy_each_([weight], [torch.ones(2)])
    assert weight.tolist() == [1, 1]
    assert weight.is_leaf


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_over_the_buffer_is_the_step_over_each_parameter(name, layout, capturable):
    one, other = network(layout), network(layout)
    flat = Flat(other)
    make = OPTIMIZERS[name]
    optimizers = [make(one.parameters(), capturable=capturable), make(flat, capturable=capturable)]
    for step in range(6):
        gate = torch.tensor(float(step not in (0, 3)), dtype=torch.float64)
        for net, optimizer in zip((one, other), optimizers, strict=True):
            for p, g in zip(net.parameters(), gradients(net, step), strict=True):
                p.grad = (torch.empty_like(p) if net is one else p.grad).copy_(g)
            before = [p.detach().clone() for p in net.parameters()]
            optimizer.step(gate)
            closed = all(map(torch.equal, before, net.parameters()))
            assert closed == (step in (0, 3))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
    assert not flat.weights[padding(flat)].any()
    states = [optimizer.export_state() for optimizer in optimizers]
    assert states[0]["t"] == states[1]["t"] == 4
    for moment in optimizers[0].buffers:
        torch.testing.assert_close(states[0][moment], states[1][moment], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_takes_as_many_calls_for_many_parameters_as_for_few(name):
    calls = []
    for layers in (2, 9):
        net = nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)])
        optimizer = OPTIMIZERS[name](Flat(net), capturable=True)
        learner = Learner(net, optimizer, Penalty(1e-4, 1e-4), 1.0)
        ema = Ema(net, 0.9, flat=optimizer.flat)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            learner.penalty.add_gradients(optimizer.weights, optimizer.gradients)
            optimizer.step(torch.ones((), dtype=torch.float64))
            ema.update()
        calls.append({e.key: e.count for e in seen.key_averages() if e.key.startswith("aten::")})
    assert calls[0] == calls[1]
    assert calls[0]["aten::lerp_"] == 1


def test_states_and_files_are_the_same_from_either_layout(tmp_path):
    one, other = network(), network(torch.channels_last)
    optimizers = [Adam(one.parameters()), Adam(Flat(other))]
    for p, g in zip(one.parameters(), gradients(one, 1), strict=True):
        p.grad = g
    optimizers[0].step()
    state = optimizers[0].export_state()
    optimizers[1].import_state(state)
    other.load_state_dict(one.state_dict())
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        q.grad.copy_(p.grad)
    for moment in ("m", "v"):
        assert torch.equal(optimizers[1].export_state()[moment], state[moment])
    for name, net in (("one", one), ("other", other)):
        torch7.save(tmp_path / name, torch7.from_module(net))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_number_that_is_none_is_found_in_the_buffer():
    net = network()
    optimizer = Adam(Flat(net))
    assert optimizer.is_finite()
    optimizer.moments["v"][3][0, 1, 2, 2] = torch.inf
    assert not optimizer.is_finite()


def test_slopes_of_several_flat_parameters_are_found_without_a_word_on_reading():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer, x = Adam(Flat(net)), torch.randn(4, 3)
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    optimizer.differentiate(net(x).sum())
    for p, slope in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, slope)
    optimizer.differentiate(net(x).sum() * 2, without=[0])
    torch.testing.assert_close(net[0].weight.grad, expected[0])
    torch.testing.assert_close(net[1].weight.grad, 2 * expected[2])
