import pytest
import torch
from torch import nn

from eyescream_py.ganless_hd.averaging import (
    Averaging,
    ExponentialTeacher,
    FlatParameters,
    LastIterates,
    make_averaging,
)
from eyescream_py.ganless_hd.networks import UNet, parameter_count

WEIGHTS = torch.tensor([1.0, 4.0, 9.0, 16.0, 25.0, 36.0]) / 91


@pytest.fixture
def flat() -> FlatParameters:
    return FlatParameters(nn.Linear(3, 2))


def push(averaging: Averaging, flat: FlatParameters, value: float) -> float:
    flat.set(torch.full_like(flat.vector, value))
    averaging.after_step(flat)
    assert (flat.vector == flat.vector[0]).all()
    return flat.vector[0].item()


def test_flat_vector_and_parameters_are_the_same_memory():
    network = UNet(0.0625)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    flat = FlatParameters(network)
    assert flat.vector.numel() == parameter_count(network)
    assert all(map(torch.equal, before, network.parameters()))
    flat.set(torch.arange(flat.vector.numel()) / flat.vector.numel())
    assert network.collapse.bias[-1] == flat.vector[-1]
    flat.set(torch.cat([parameter.flatten() for parameter in before]))
    network(torch.ones(1, 3, 64, 64)).sum().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert torch.equal(gradients, flat.vector.grad)
    assert gradients.abs().sum() > 0
    flat.zero_grad()
    assert network.collapse.bias.grad.abs().sum() == 0


def test_five_steps_change_nothing_the_sixth_averages(flat):
    averaging = LastIterates(flat)
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]
    for value in values[:5]:
        assert push(averaging, flat, value) == value
    assert push(averaging, flat, values[5]) == pytest.approx(
        (WEIGHTS @ torch.tensor(values)).item()
    )
    assert averaging.history()[:, 0].tolist() == values[1:]


def test_history_keeps_weights_from_before_averaging(flat):
    averaging, values = LastIterates(flat), [float(k * k % 7) for k in range(20)]
    for count, value in enumerate(values, start=1):
        result = push(averaging, flat, value)
        if count >= 6:
            last = torch.tensor(values[count - 6 : count])
            assert result == pytest.approx((WEIGHTS @ last).item(), abs=1e-5)
            assert averaging.raw()[0].item() == value
            assert averaging.history().shape == (5, 8)


def test_restart_forgets_the_history(flat):
    averaging = LastIterates(flat)
    for value in range(9):
        push(averaging, flat, float(value))
    averaging.restart()
    assert len(averaging.history()) == 0
    assert [push(averaging, flat, float(value)) for value in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["last", "ema"])
def test_state_round_trip_goes_on_bit_for_bit(kind):
    def steps(averaging, flat, first, last):
        for number in range(first, last):
            generator = torch.Generator().manual_seed(number)
            change = torch.randn(flat.vector.shape, generator=generator)
            flat.set(flat.vector.detach() + change)
            averaging.after_step(flat)

    ends = []
    for stop in (None, 3, 8):
        torch.manual_seed(0)
        flat = FlatParameters(nn.Linear(5, 4))
        averaging = make_averaging(kind, flat, 0.9)
        if stop:
            steps(averaging, flat, 0, stop)
            state = {name: value.clone() for name, value in averaging.state().items()}
            averaging = make_averaging(kind, flat, 0.9)
            averaging.restore(state)
        steps(averaging, flat, stop or 0, 13)
        ends.append((flat.vector.detach(), *averaging.state().values()))
    for end in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], end, strict=True))


def test_teacher_is_exponential_and_leaves_the_student_alone(flat):
    flat.set(torch.zeros_like(flat.vector))
    teacher, expected = ExponentialTeacher(flat, decay=0.5), 0.0
    for step, value in enumerate([1.0, 2.0, -3.0, 5.0, 0.0, 2.0, 7.0], start=1):
        assert push(teacher, flat, value) == value
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert teacher.teacher()[0].item() == pytest.approx(expected, rel=1e-5)


def test_replaced_weights_come_back_even_after_an_error(flat):
    own = flat.vector.detach().clone()
    with pytest.raises(RuntimeError), flat.replaced_by(torch.ones_like(own)):  # noqa: PT012
        assert (flat.vector == 1).all()
        raise RuntimeError
    assert torch.equal(flat.vector, own)


def test_none_averages_nothing(flat):
    averaging = make_averaging("none", flat, 0.9)
    assert [push(averaging, flat, float(value)) for value in range(8)] == list(range(8))
    assert averaging.raw() is None
    assert averaging.teacher() is None
