"""The averaged generator of --G_ema."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.game.averaging import Ema
from eyescream_py.torch7.flat import Flat


@pytest.mark.parametrize("flat", [False, True])
def test_the_average_follows_its_formula(flat):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(network, 0.3, flat=Flat(network) if flat else None)
    expected = [p.detach().clone() for p in network.parameters()]
    generator = torch.Generator().manual_seed(1)
    for decay in (2 / 11, 3 / 12, 0.3, 0.3, 0.3):  # the ramp is (1+n)/(10+n)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        network[1].running_mean.add_(1)
        ema.update()
        pairs = zip(expected, network.parameters(), strict=True)
        expected = [decay * a + (1 - decay) * p.detach() for a, p in pairs]
    for a, b in zip(ema.average.parameters(), expected, strict=True):
        torch.testing.assert_close(a.detach(), b)
        assert not a.requires_grad
    assert torch.equal(ema.average[1].running_mean, network[1].running_mean)


@pytest.mark.parametrize("flat", [False, True])
def test_the_average_shares_nothing_with_the_network(flat):
    network = nn.Linear(2, 2)
    ema = Ema(network, 0.5, flat=Flat(network) if flat else None)
    before = ema.average.weight.clone()
    network.weight.data.fill_(7)
    assert torch.equal(ema.average.weight, before)
    assert ema.average.weight.grad is None


def test_statistics_are_measured_where_the_weights_have_changed_and_only_there():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    seen = []

    def inputs():
        for batch in torch.randn(3, 8, 1, 2, 2, generator=torch.Generator().manual_seed(1)) + 5:
            seen.append(batch)
            yield batch

    ema = Ema(network, 0.5)
    ema.settle(inputs())
    assert seen == []  # a copy, with the statistics that belong to it
    ema.update()
    for _ in range(2):
        ema.settle(inputs())
    assert len(seen) == 3
    expected = ema.average[0](torch.cat(seen)).mean((0, 2, 3))
    torch.testing.assert_close(ema.average[1].running_mean, expected)
    resumed = Ema(network, 0.5)
    resumed.resume(int(ema.updates))
    resumed.settle(inputs())
    assert len(seen) == 3  # a file holds them measured
    resumed.update()
    resumed.settle(inputs())
    assert len(seen) == 6


def test_statistics_are_the_plain_mean_over_the_inputs_whatever_was_seen_before():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network[1].running_mean += 100
    network[1].num_batches_tracked += 50
    ema = Ema(network, 0.5)
    ema.update()
    modes = []
    ema.average[0].register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    batches = torch.randn(3, 8, 1, 2, 2, generator=torch.Generator().manual_seed(1)) + 5
    ema.settle(batches.unbind())
    expected = ema.average[0](batches.flatten(0, 1)).mean((0, 2, 3))
    torch.testing.assert_close(ema.average[1].running_mean, expected)
    assert ema.average[1].momentum == network[1].momentum == 0.1
    assert modes[:3] == [False] * 3


def test_a_power_makes_the_memory_a_share_of_the_run():
    network = nn.Linear(1, 1, bias=False)
    ema = Ema(network, 0.9, power=3.0)
    expected = 0.0
    for n in range(1, 6):
        network.weight.data.fill_(n)
        ema.update()
        decay = (1 - 1 / n) ** 3
        expected = decay * expected + (1 - decay) * n
        assert ema.average.weight.item() == pytest.approx(expected)


def test_updates_are_counted_beyond_what_floats_hold():
    ema = Ema(nn.Linear(1, 1), 0.9)
    ema.resume(2**24)
    ema.update()
    assert int(ema.updates) == 2**24 + 1


@pytest.mark.parametrize("power", [0.0, 4.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_flat_parameters_have_the_average_of_single_ones(layout, power):
    torch.manual_seed(3)
    one = nn.Sequential(nn.Conv2d(1, 5, 3), nn.PReLU(), nn.Conv2d(5, 3, 3), nn.BatchNorm2d(3))
    one = one.double().to(memory_format=layout)
    other = copy.deepcopy(one)
    averages = [Ema(one, 0.9, power), Ema(other, 0.9, power, Flat(other))]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            change = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            with torch.no_grad():
                p.add_(change)
                q.add_(change)
        for net, ema in zip((one, other), averages, strict=True):
            net[3].num_batches_tracked.add_(1)
            ema.update()
    expected, found = (ema.average.state_dict() for ema in averages)
    assert list(found) == list(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)
    assert int(found["3.num_batches_tracked"]) == 5


def test_what_an_update_counts_and_weighs_with_lies_on_the_device():
    """So that a graph of it can be replayed: no number of Python's changes between two updates."""
    ema = Ema(nn.Linear(2, 2), 0.99, power=3.0)
    before = {k: v for k, v in vars(ema).items() if not isinstance(v, torch.Tensor | nn.Module)}
    ema.update()
    assert {k: v for k, v in vars(ema).items() if k in before} == before
    assert ema.updates.tolist() == 1
